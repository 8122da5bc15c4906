"""HTTP ranges (RFC 9110, section 14): which bytes of a file a request asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII)


class RangeNotSatisfiableError(ValueError):
    """The range lies outside the file."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes start <= i < end of a file of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def content_range(self) -> str:
        """The value of the Content-Range header."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def asked_range(header: str | None, *, size: int) -> ByteRange | None:
    """The one range that a Range header asks for; None means the whole file.

    Headers that are malformed or name several ranges are ignored, as the standard allows. Raises
    RangeNotSatisfiableError for a range outside the file.
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":  # the last so many bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiableError(f"{header} of {size} bytes")
    return ByteRange(start, end, size)
