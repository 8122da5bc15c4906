"""The HTTP API: one file per resource. Each exposes `router`; a new file is found and included by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from fastapi import APIRouter


def routers() -> Iterator[APIRouter]:
    """The router of every module here, in the order of their names; a broken module breaks the start."""
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        yield importlib.import_module(f"{__name__}.{name}").router
