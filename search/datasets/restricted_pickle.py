"""Reading the pickles in which CIFAR is published, without running what else a pickle may hold.

Only arrays of plain numbers, bytes, strings, numbers, lists, tuples and dicts come out. No class and no
function of any module is ever handed to the unpickler: the three names that an array's pickle mentions are
answered by stand-ins without state.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from search.problems import SearchProblem


class _ArrayType:
    """Stands for numpy.ndarray where a pickle names it; cannot be called."""

    __slots__ = ()


class _EmptyArray:
    """Stands for numpy's `_reconstruct`: an empty array of any asked shape, to be filled by its state."""

    __slots__ = ()

    def __call__(self, subtype: object, shape: object, code: object) -> np.ndarray[Any, Any]:
        if not isinstance(subtype, _ArrayType):
            raise pickle.UnpicklingError("an array of a class of its own")
        return np.empty(0, dtype=np.uint8)


class _PlainType:
    """Stands for numpy.dtype: types of plain numbers only, no objects, no fields."""

    __slots__ = ()

    def __call__(self, code: object, *flags: object) -> np.dtype[Any]:
        name = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(name, str) or name.lstrip("<>|=") not in _PLAIN_CODES:
            raise pickle.UnpicklingError(f"an array of type {name!r}")
        return np.dtype(name)


class _LatinBytes:
    """Stands for `_codecs.encode`, by which newer pickles write bytes; latin-1 only."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("bytes in an encoding other than latin-1")
        return text.encode("latin1")


_PLAIN_CODES = {"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"}
_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _PlainType(),
    ("numpy.core.multiarray", "_reconstruct"): _EmptyArray(),
    ("numpy._core.multiarray", "_reconstruct"): _EmptyArray(),
    ("_codecs", "encode"): _LatinBytes(),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def read_pickle(path: Path) -> dict[bytes, Any]:
    """The dictionary in a file, keys as bytes.

    Raises SearchProblem `dataset_unreadable` for anything but plain data, and for a damaged file.
    """
    try:
        with path.open("rb") as file:
            found = _RestrictedUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a hostile or damaged pickle may raise anything, and no class of it is ours
        raise _refused(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise _refused(path, "it does not hold a dictionary")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}


def _refused(path: Path, reason: str) -> SearchProblem:
    return SearchProblem(
        f"{path} is not a CIFAR file that can be read safely ({reason}): fetch the published file anew",
        code="dataset_unreadable",
    )
