"""Labels as they stand in files, whole numbers or names, turned into numbers of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from search.datasets.contents import UNLABELLED, Entry, Part
from search.problems import SearchProblem

MAX_CLASSES = 100_000


def natural_key(name: str) -> list[int | str]:
    """Sorts `class 10` after `class 9`, without regard to case: the order in which timm numbers folders."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name.lower())]


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Names as `natural_key` sorts them; names that it holds for equal in their plain order."""
    return sorted(sorted(names), key=natural_key)


def numbered(
    entry: Entry, raw: Mapping[Part, Sequence[object]], *, names: Sequence[str] | None = None
) -> tuple[dict[Part, Tensor], list[str]]:
    """Labels int64 (N,) of each part, and the names of the classes.

    Raw labels are whole numbers from 0, or all of them names. The table's `classes` come before the data's
    own `names`; without either the classes are those of the training part. Where no labels are needed, -1 or
    None stands for one that is missing. Raises SearchProblem `dataset_labels` for anything else, naming the
    first wrong one.
    """
    chosen = list(entry.classes or names or ())
    if not entry.is_labelled:
        raw = {part: [_or_missing(label) for label in labels] for part, labels in raw.items()}
    if any(isinstance(label, str) for labels in raw.values() for label in labels):
        return _by_name(entry, raw, chosen)
    for part, labels in raw.items():
        _require_whole(entry, part, labels)
    if not chosen:
        highest = max((label for label in raw[Part.TRAIN] if isinstance(label, int)), default=0)
        chosen = [str(label) for label in range(highest + 1)]
    if not chosen:
        raise SearchProblem(
            f"data set {entry.name!r}: its images have no labels: list `classes` in datasets.toml, one name "
            "for each output of the teacher, in its order",
            code="dataset_labels",
        )
    return {part: torch.tensor(list(labels), dtype=torch.int64) for part, labels in raw.items()}, chosen


def _or_missing(label: object) -> object:
    return UNLABELLED if label is None else label


def _is_missing(entry: Entry, label: object) -> bool:
    return not entry.is_labelled and type(label) is int and label == UNLABELLED


def _require_whole(entry: Entry, part: Part, labels: Sequence[object]) -> None:
    for position, label in enumerate(labels):
        if _is_missing(entry, label):
            continue
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise _wrong(entry, part, position, label, "is no whole number from 0" + _remark(label))


def _remark(label: object) -> str:
    if label in (-1, None):
        return " (-1 or nothing marks images without a label: leave them out, or name another part)"
    if type(label) is int and label > 0:
        return f" to {MAX_CLASSES - 1}: number the classes without gaps"
    return ": write the number of its class"


def _by_name(
    entry: Entry, raw: Mapping[Part, Sequence[object]], names: list[str]
) -> tuple[dict[Part, Tensor], list[str]]:
    if not names:
        names = in_natural_order({label for label in raw[Part.TRAIN] if isinstance(label, str)})
    number_of: dict[object, int] = {name: number for number, name in enumerate(names)}
    if not entry.is_labelled:
        number_of[UNLABELLED] = UNLABELLED
    found = {}
    for part, labels in raw.items():
        for position, label in enumerate(labels):
            if type(label) not in (str, int) or label not in number_of:
                raise _wrong(entry, part, position, label, f"is none of the {len(names)} classes by name")
        found[part] = torch.tensor([number_of[label] for label in labels], dtype=torch.int64)
    return found, names


def _wrong(entry: Entry, part: Part, position: int, label: object, reason: str) -> SearchProblem:
    return SearchProblem(
        f"data set {entry.name!r}: label {str(label)[:40]!r} of image {position} in the {part} part {reason}",
        code="dataset_labels",
    )
