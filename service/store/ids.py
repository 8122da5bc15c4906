"""Identifiers: a prefix and 26 characters that sort by time (48 bits of milliseconds, 80 random)."""

from __future__ import annotations

import secrets
import threading
import time
from enum import StrEnum

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_RANDOM_BITS = 80
_LENGTH = 26

_lock = threading.Lock()
_last = 0


class Prefix(StrEnum):
    """What an identifier names."""

    JOB = "job"
    TRIAL = "trl"
    RECIPE = "rcp"
    ARTIFACT = "art"
    KEY = "key"


def new_id(prefix: Prefix) -> str:
    """A new identifier; inside one process each is greater than the one before."""
    global _last
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        _last = max(fresh, _last + 1)
        number = _last
    return f"{prefix}_{_encode(number)}"


def _encode(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))
