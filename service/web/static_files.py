"""The pages' own style and script, served from memory; an address with their hash may be kept for ever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    """A file and what a browser must know of it."""

    content: bytes
    media_type: str
    version: str


def load() -> dict[str, StaticFile]:
    """All static files by name."""
    found = {}
    for path in files("service.web").joinpath("static").iterdir():
        suffix = "." + path.name.rpartition(".")[2]
        if suffix in KINDS:
            content = path.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:12]
            found[path.name] = StaticFile(content, KINDS[suffix], version)
    return found
