"""A trial's files in the artifact root: its log, its checkpoints, what it leaves behind.

`reports-<attempt>.jsonl` holds one line per report, fsynced before the report leaves the actor.
`checkpoint-<attempt>-<step>.bin` is one line of JSON (step, device-seconds, checksum) and the state's bytes.
Names carry the attempt, so that an actor that has outlived its lease never overwrites its successor's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from service.files import ArtifactRoot
from workers.assignment import Assignment, Reported, StoredFile, directory_of

CHECKPOINT = re.compile(r"checkpoint-(\d+)-(\d+)\.bin$")
CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Saved:
    """A checkpoint that could be read."""

    step: int
    device_seconds: float
    state: bytes


class UnreadableCheckpointError(ValueError):
    """The file is not a whole checkpoint."""


class TrialFiles:
    """The files of one trial under one attempt; the only writer of them."""

    def __init__(self, assignment: Assignment) -> None:
        self._root = ArtifactRoot(assignment.artifact_root)
        self._assignment = assignment
        self._log = f"{assignment.directory}/reports-{assignment.attempt}.jsonl"

    def save_checkpoint(self, saved: Saved) -> None:
        """Write a checkpoint whole, then remove all but the newest two."""
        name = f"checkpoint-{self._assignment.attempt}-{saved.step}.bin"
        self._root.write_bytes(f"{self._assignment.directory}/{name}", to_bytes(saved))
        for stale in checkpoint_names(self._root, self._assignment.directory)[CHECKPOINTS_KEPT:]:
            self._root.remove(stale)

    def newest_checkpoint(self) -> Saved | None:
        """The newest readable checkpoint of this or an earlier attempt; a broken one is passed over."""
        for name in checkpoint_names(self._root, self._assignment.directory):
            try:
                return from_bytes(self._root.read_bytes(name))
            except (UnreadableCheckpointError, FileNotFoundError):
                continue
        return None

    def open_log(self, *, after_step: int) -> None:
        """Make this attempt's log end at the step from which the trial continues.

        The log of this very attempt exists already only if the actor died and the driver lives on.
        """
        if self._root.exists(self._log):
            lines = self._root.read_bytes(self._log).splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= after_step]
            self._root.write_bytes(self._log, b"".join(kept))

    def log(self, report: Reported) -> None:
        """Append one report and fsync it."""
        row = report.model_dump(include={"step", "epoch", "figures", "is_validation"})
        self._root.append_line(self._log, json.dumps(row, allow_nan=False))

    def log_failure(self, trace: str) -> None:
        """Keep the traceback of what nobody foresaw."""
        name = f"{self._assignment.directory}/failure-{self._assignment.attempt}.log"
        self._root.write_bytes(name, trace.encode())

    def store(self, files: dict[str, Path]) -> list[StoredFile]:
        """Copy what the trial has made into the artifact root."""
        stored = []
        for name, source in files.items():
            path = f"{self._assignment.directory}/outcome-{self._assignment.attempt}/{name}"
            written = self._root.write_file(path, source)
            stored.append(StoredFile(name=name, path=path, bytes=written.bytes, sha256=written.sha256))
        return stored

    def fetch(self, stored: StoredFile) -> Path:
        """A local file with this content: in place if the root is a directory, else a checked copy."""
        place = self._assignment.cache_root / "files" / stored.sha256
        if (place / stored.name).is_file():
            return place / stored.name
        arriving = place.with_name(f".{stored.sha256}-{os.getpid()}")
        arriving.mkdir(parents=True, exist_ok=True)
        try:
            found = self._root.fetch(stored.path, arriving)
            if found.parent != arriving:
                return found
            return _checked(found, stored, place)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)


def _checked(copy: Path, stored: StoredFile, place: Path) -> Path:
    """Move a copy to where others find it, once its checksum is right."""
    with copy.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != stored.sha256:
        raise OSError(f"{stored.path} has the checksum {found}, expected {stored.sha256}")
    place.mkdir(exist_ok=True)
    return copy.rename(place / stored.name)


def checkpoint_names(root: ArtifactRoot, directory: str) -> list[str]:
    """All checkpoints of a trial, newest first: by attempt, then by step."""
    found = [(match, name) for name in root.list(directory) if (match := CHECKPOINT.search(name))]
    return [name for _, name in sorted(((int(m[1]), int(m[2])), name) for m, name in found)][::-1]


def remove_checkpoints(artifact_root: str, job_id: str, trial_id: str) -> None:
    """Remove all checkpoints of a trial that has ended."""
    root = ArtifactRoot(artifact_root)
    for name in checkpoint_names(root, directory_of(job_id, trial_id)):
        root.remove(name)


def to_bytes(saved: Saved) -> bytes:
    """A checkpoint as a file's content."""
    header = {
        "step": saved.step,
        "device_seconds": saved.device_seconds,
        "sha256": hashlib.sha256(saved.state).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + saved.state


def from_bytes(content: bytes) -> Saved:
    """The checkpoint again; raises UnreadableCheckpointError if it is not whole."""
    line, _, state = content.partition(b"\n")
    try:
        header = json.loads(line)
        whole = header["sha256"] == hashlib.sha256(state).hexdigest()
        saved = Saved(int(header["step"]), float(header["device_seconds"]), state)
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableCheckpointError(str(error)) from error
    if not whole:
        raise UnreadableCheckpointError("the state is not what its checksum says")
    return saved
