"""What a local job has done so far, kept in its directory: so that the same command goes on where it stopped.

Imports no torch. A trial's own state lies beside its files, written every so often while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from search.problems import SearchProblem
from search.recipe import Process
from search.records import TrialRecord
from search.spec import JobSpec

_RECORDS = TypeAdapter(list[TrialRecord])


class JobFile(BaseModel):
    """The trials that have ended, the seconds that they took by the clock, and whose they are."""

    model_config = ConfigDict(extra="forbid")

    identity: dict[str, Any]
    elapsed_seconds: float = 0.0
    records: list[Any] = []

    @classmethod
    def opened(cls, path: Path, identity: dict[str, Any]) -> JobFile:
        """The file as it was left, or a new one. Raises SearchProblem if it is another job's, or broken."""
        if not path.exists():
            return cls(identity=identity)
        try:
            found = cls.model_validate_json(path.read_bytes())
            found.trials()
        except (OSError, ValidationError) as error:
            raise SearchProblem(
                f"{path} cannot be read as a job's records; remove it, or choose another --out",
                code="job_unreadable",
            ) from error
        there = _as_read_today(found.identity)
        if there != identity:
            raise SearchProblem(
                f"{path.parent} holds another job ({_difference(there, identity)}); choose another --out, or "
                "remove that directory",
                code="job_differs",
            )
        return found

    def trials(self) -> list[TrialRecord]:
        """The trials that have ended."""
        return _RECORDS.validate_python(self.records)

    def write(self, path: Path, records: Sequence[TrialRecord], elapsed_seconds: float) -> None:
        """Replace the file by what is known now: whole or not at all."""
        kept = _RECORDS.dump_python(list(records), mode="json")
        changed = self.model_copy(update={"records": kept, "elapsed_seconds": elapsed_seconds})
        write_whole(path, (changed.model_dump_json(indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """A file that is never seen half written, not even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_read_today(identity: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of fields that there were not yet when it was written; unread where it no longer is a
    job's."""
    given = identity.get("given")
    try:
        spec = JobSpec.model_validate(identity["spec"]).model_dump(mode="json")
        if given is not None:
            process = Process.model_validate(given["process"]).model_dump(mode="json")
            given = {**given, "process": process}
    except (ValidationError, KeyError, TypeError):
        return identity
    return {**identity, "spec": spec, "given": given}


def _difference(one: dict[str, Any], other: dict[str, Any], path: str = "") -> str:
    """The first field in which two identities differ, in words."""
    for name in sorted(one.keys() | other.keys()):
        left, right = one.get(name), other.get(name)
        if left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            return _difference(left, right, f"{path}{name}.")
        return f"{path}{name} is {left!r} there"
    return "in nothing"
