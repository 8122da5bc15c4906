"""Reading server-sent events as a browser does: field by field, from a real connection."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Message:
    """One event of a stream."""

    kind: str
    data: Any
    id: str | None


@dataclass
class Stream:
    """A stream read by a thread of its own."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    retry_milliseconds: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.opened.wait(10), "the stream was not opened"

    def _run(self) -> None:
        try:
            headers = {"Accept": "text/event-stream", **self.headers}
            with httpx.stream("GET", self.url, headers=headers, timeout=30) as answer:
                self.response = answer
                self.opened.set()
                assert answer.status_code == 200, answer.read()
                self.messages_of(answer.iter_lines())
        except Exception as error:
            self.error = error
        finally:
            self.opened.set()
            self.ended.set()

    def messages_of(self, lines: Iterator[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif not line and "data" in fields:
                self.messages.append(Message(fields["event"], json.loads(fields["data"]), fields.get("id")))
                fields = {}
            elif not line:
                self.retry_milliseconds = int(fields.pop("retry", self.retry_milliseconds or 0)) or None

    @property
    def sequences(self) -> list[int]:
        """Sequence numbers so far, without the end."""
        return [message.data["sequence"] for message in self.messages if message.kind != "end"]

    def wait_for(self, sequence: int, *, seconds: float = 10.0) -> None:
        """Wait until that event has come."""
        deadline = time.monotonic() + seconds
        while sequence not in self.sequences:
            assert time.monotonic() < deadline, f"{sequence} did not come; there came {self.sequences}"
            time.sleep(0.02)

    def wait_for_end(self, *, seconds: float = 10.0) -> None:
        """Wait until the server has closed the stream."""
        assert self.ended.wait(seconds), f"the stream did not end; there came {self.messages}"
