"""Search, or train longer? What the same compute buys, and after how many reuses a recipe pays. No torch.

Longer KD spends on epochs what the search spent on finding a process. A recipe is found once and used often,
so that with every use less of the search falls on each: with n uses a student may cost search / n + one
training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.verdict import Difference


@dataclass(frozen=True)
class Choice:
    """Mean accuracy of an arm, and the device-seconds of one training with it."""

    accuracy: float
    device_seconds: float


def longer_sentence(
    difference: Difference,
    *,
    searched: Choice,
    tuned: Choice,
    longer: Choice,
    search_seconds: float,
    epochs: int,
) -> str:
    """Beside the verdict: the one-off run, and the reuses. `difference` is searched - longer KD.

    Costs that are not measured (zero) leave the reuses out.
    """
    figures = f"searched minus longer KD ({epochs} epochs) is {difference.in_words()}"
    if difference.upper < 0:
        one_off = f"A one-off run would have been better served by training tuned KD longer: {figures}."
    elif difference.lower > 0:
        one_off = f"Even a one-off run is better served by the search than by longer training: {figures}."
    else:
        one_off = f"For a one-off run the search and longer training cannot be told apart: {figures}."
    if min(choice.device_seconds for choice in (searched, tuned, longer)) <= 0:
        return one_off
    uses = uses_until_it_pays(searched=searched, tuned=tuned, longer=longer, search_seconds=search_seconds)
    return f"{one_off} {_reuse(uses)}"


def uses_until_it_pays(
    *, searched: Choice, tuned: Choice, longer: Choice, search_seconds: float
) -> int | None:
    """The least number of trainings with a recipe at which KD of equal compute is no better, or None.

    KD's accuracy at a compute between a tuned and a longer run is interpolated linearly in log compute; it
    never falls, as one may always train less. Raises ValueError for costs that are not positive.
    """
    if min(tuned.device_seconds, longer.device_seconds, searched.device_seconds) <= 0:
        raise ValueError("the costs of the arms have not been measured")
    if searched.accuracy >= max(tuned.accuracy, longer.accuracy):
        return 1
    if searched.accuracy < tuned.accuracy or longer.device_seconds <= tuned.device_seconds:
        return None
    share = (searched.accuracy - tuned.accuracy) / (longer.accuracy - tuned.accuracy)
    equal_compute: float = tuned.device_seconds * (longer.device_seconds / tuned.device_seconds) ** share
    spare = equal_compute - searched.device_seconds
    if spare <= 1e-9 * equal_compute:
        return None
    return max(1, math.ceil(search_seconds / spare - 1e-9))


def _reuse(uses: int | None) -> str:
    if uses is None:
        return "Reusing the recipe does not change that: KD with one training's compute is already as good."
    if uses == 1:
        return "By the arms' means the search pays at the first use of its recipe."
    reuses = f"{uses - 1} reuse{'s' if uses > 2 else ''}"
    return f"Interpolated between tuned and longer KD, the search pays after {reuses} of its recipe."
