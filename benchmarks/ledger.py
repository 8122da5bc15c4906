"""A benchmark's file while it runs: the plan and every record, so that a killed run continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.results import write_json
from search.records import TrialRecord

_RECORD: TypeAdapter[TrialRecord] = TypeAdapter(TrialRecord)


class OtherSettingsError(Exception):
    """The file holds runs of other settings."""


class Ledger:
    """Records by part (`short`, `long`, ...) and the settings they belong to; written after every change."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.document: dict[str, Any] = {"settings": settings, "notes": {}, "parts": {}}
        if path.is_file():
            found = json.loads(path.read_text())
            if found.get("settings") != json.loads(json.dumps(settings)):
                raise OtherSettingsError(
                    f"{path} holds runs of other settings: give another --json, or remove the file"
                )
            self.document = found

    def note(self, name: str) -> Any:
        """What was noted under this name, or None."""
        return self.document["notes"].get(name)

    def write_note(self, name: str, value: Any) -> None:
        """Keep a plain value."""
        self.document["notes"][name] = value
        write_json(self.path, self.document)

    def records(self, part: str) -> list[TrialRecord]:
        """The trials that have ended."""
        return [_RECORD.validate_python(record) for record in self.document["parts"].get(part, [])]

    def add(self, part: str, records: Sequence[TrialRecord]) -> None:
        """Keep trials that have ended."""
        kept = self.document["parts"].setdefault(part, [])
        kept.extend(_RECORD.dump_python(record, mode="json") for record in records)
        write_json(self.path, self.document)

    def finish(self, figures: dict[str, Any]) -> None:
        """Keep what came of it all, beside the runs."""
        self.document |= figures
        write_json(self.path, self.document)
