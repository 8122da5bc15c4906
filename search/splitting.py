"""How a data set's images are dealt to the four splits: by numbers and a seed alone, without any image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from search.problems import SearchProblem
from search.spec import Splits

SPLITS = ("train", "meta", "validation", "test")
OWN_PARTS = ("validation", "test")
META_FRACTION = 0.1
VALIDATION_FRACTION = 0.1
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Share:
    """A split: images of one part of the data set, by their indices there, int64 (n,)."""

    part: str
    indices: Tensor


def deal(counts: Mapping[str, int], splits: Splits, *, defaults: Mapping[str, int]) -> dict[str, Share]:
    """Deal `counts` images of the parts `train` and, where there are any, `validation` and `test`.

    A part of the data set's own becomes the split of that name; the other splits come from the training part
    by a permutation that depends on the seed alone. Test images come from its end, so that asking for fewer
    gives some of the same ones. Raises SearchProblem `dataset_too_small`.
    """
    own = [name for name in OWN_PARTS if name in counts]
    sizes = _sizes(counts, splits, own=own, defaults=defaults)
    total = counts["train"]
    order = _permutation(total, splits.seed)
    dealt = {name: Share(name, _first_of(counts[name], sizes[name], splits.seed)) for name in own}
    if "test" not in own:
        dealt["test"] = Share("train", order[total - sizes["test"] :])
    start = 0
    for name in ("meta", "validation", "train"):
        if name not in own:
            dealt[name] = Share("train", order[start : start + sizes[name]])
            start += sizes[name]
    return {name: dealt[name] for name in SPLITS}


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _first_of(count: int, wanted: int, seed: int) -> Tensor:
    """Of an own part: as many as wanted, chosen by the seed, in the part's order."""
    return _permutation(count, seed)[:wanted].sort().values


def _sizes(
    counts: Mapping[str, int], splits: Splits, *, own: list[str], defaults: Mapping[str, int]
) -> dict[str, int]:
    """How many images each split gets; SearchProblem when there are not enough."""
    total = counts["train"]
    usual = defaults or {
        "meta": int(total * META_FRACTION),
        "validation": counts.get("validation", int(total * VALIDATION_FRACTION)),
        "test": counts.get("test", int(total * TEST_FRACTION)),
    }
    asked = {name: getattr(splits, name) for name in SPLITS}
    sizes = {name: asked[name] if asked[name] is not None else usual.get(name, 0) for name in SPLITS}
    taken = sum(sizes[name] for name in ("meta", "validation") if name not in own)
    if "test" not in own:
        if asked["test"] is None:  # more training images were asked for than the default leaves over
            sizes["test"] = min(sizes["test"], total - taken - (asked["train"] or 1))
        taken += sizes["test"]
    if asked["train"] is None and "train" not in usual:
        sizes["train"] = total - taken
    _require_enough(sizes, counts, own=own)
    return sizes


def _require_enough(sizes: Mapping[str, int], counts: Mapping[str, int], *, own: list[str]) -> None:
    total, dealt = counts["train"], [name for name in SPLITS if name not in own]
    if sum(sizes[name] for name in dealt) > total or any(sizes[name] < 1 for name in SPLITS):
        wish = ", ".join(f"{name} {sizes[name]}" for name in dealt)
        raise SearchProblem(
            f"the data set has {total} images for {', '.join(dealt)}, but the splits are {wish}; "
            "every split needs at least one image: ask for smaller splits",
            code="dataset_too_small",
        )
    for name in own:
        if sizes[name] > counts[name]:
            raise SearchProblem(
                f"{sizes[name]} {name} images were asked for, but the data set has {counts[name]}: set "
                f"data.splits.{name} to at most that",
                code="dataset_too_small",
            )
