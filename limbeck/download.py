"""Fetching a job's files: resumed where the connection broke, checked, and kept whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from limbeck.api import Api
from limbeck.documents import Artifact
from limbeck.errors import ChecksumMismatch, ConnectionFailed
from limbeck.flow import Flow, Pause, read
from limbeck.job_flows import artifacts, trials
from limbeck.paths import artifact_path
from limbeck.patience import Patience

RESULT_STAGE = "export"


def download(
    api: Api, /, job_id: str, directory: str | Path = ".", *, everything: bool = False
) -> Flow[list[Path]]:
    """Fetch what the job was for, above all `student.safetensors`; with `everything`, all its files.

    The files of other trials go into a directory named after the trial. A file that is there already with the
    right checksum is not fetched again. Raises ChecksumMismatch, and keeps nothing of that file.
    """
    found = yield from artifacts(api, job_id)
    exports = {trial.id for trial in (yield from trials(api, job_id)) if trial.stage == RESULT_STAGE}
    paths = []
    for artifact in found:
        is_result = artifact.trial_id is None or artifact.trial_id in exports
        if is_result or everything:
            target = place(Path(directory), artifact, is_result=is_result)
            yield from fetch(api, job_id, artifact, target)
            paths.append(target)
    return paths


def place(directory: Path, artifact: Artifact, *, is_result: bool) -> Path:
    """Where the file goes. Only the last part of a name counts: none leads out of the directory."""
    name = _last_part(artifact.name) or artifact.id
    return directory / name if is_result else directory / _last_part(str(artifact.trial_id)) / name


def _last_part(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name.strip(".")


def fetch(api: Api, job_id: str, artifact: Artifact, target: Path) -> Flow[Path]:
    """Fetch one file to `target`, under another name until its checksum is right."""
    if target.is_file() and checksum(target) == artifact.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("w+b") as file:
            yield from _fill(api, artifact_path(job_id, artifact.id), artifact, file)
            os.fsync(file.fileno())
        if (found := checksum(part)) != artifact.sha256:
            raise ChecksumMismatch(
                f"{artifact.name} ({artifact.id}) arrived with SHA-256 {found}, not {artifact.sha256}; "
                "nothing was kept"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _fill(api: Api, path: str, artifact: Artifact, file: BinaryIO) -> Flow[None]:
    patience = Patience(api.policy)
    while True:
        try:
            yield from _continue(api, path, file)
            if file.tell() >= artifact.bytes:
                file.flush()
                return
            error = ConnectionFailed(f"{artifact.name} ended early", address=path)
        except ConnectionFailed as failure:
            error = failure
        yield Pause(patience.pause_seconds(error))


def _continue(api: Api, path: str, file: BinaryIO) -> Flow[None]:
    position = file.tell()
    headers = {"range": f"bytes={position}-"} if position else {}
    reply = yield from api.open(path, headers=headers)
    if reply.status != 206:
        file.seek(0)
        file.truncate()
    while chunk := (yield from read()):
        file.write(chunk)


def checksum(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
