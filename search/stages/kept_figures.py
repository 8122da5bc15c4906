"""Figures of a job's teacher, computed once for all trials that share a cache: each run reports them anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError
from torch import Tensor

from search.records import EmbeddingFigures

VERSION = 1
"""To be raised when a figure is computed otherwise: what was kept before is then not found."""


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Hash of types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().data)
    return digest.hexdigest()


def kept_figures(
    directory: Path, depends_on: Iterable[object], compute: Callable[[], EmbeddingFigures]
) -> EmbeddingFigures:
    """As kept in `directory`, or computed and kept there by one process while others wait.

    `depends_on`: all that decides the figures. A file that cannot be read is written anew.
    """
    named = "\0".join(map(str, [VERSION, *depends_on]))
    path = directory / "teacher_figures" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        try:
            return EmbeddingFigures.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            found = compute()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(found.model_dump_json())
        temporary.replace(path)
    return found
