"""Search, or train longer? What the same compute buys, and after how many reuses a recipe pays. No torch.

Longer KD spends on epochs what the search spent on finding a process. A recipe is found once and used often,
so that with every use less of the search falls on each: with n uses a student may cost search / n + one
training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.planning.verdict import Difference


@dataclass(frozen=True)
class Choice:
    """Mean accuracy of an arm, and the device-seconds of one training with it."""

    accuracy: float
    device_seconds: float


def longer_sentence(
    difference: Difference,
    *,
    longer_over_tuned: Difference,
    searched: Choice,
    tuned: Choice,
    longer: Choice,
    search_seconds: float,
    epochs: int,
) -> str:
    """Beside the verdict: the one-off run, one training's compute, the reuses, and the regime.

    `difference` is searched - longer KD. Costs that are not measured (zero) leave out what is interpolated.
    """
    sentences = [_one_off(difference, epochs)]
    if min(choice.device_seconds for choice in (searched, tuned, longer)) > 0:
        uses = uses_until_it_pays(
            searched=searched, tuned=tuned, longer=longer, search_seconds=search_seconds
        )
        sentences += [_one_training(searched, tuned, longer), _reuse(uses)]
    return " ".join([*sentences, _regime(longer_over_tuned, epochs)])


def kd_accuracy_at(device_seconds: float, *, tuned: Choice, longer: Choice) -> float:
    """KD's accuracy at a compute, linear in log compute between a tuned and a longer run, constant beyond.

    It never falls, as one may always train less.
    """
    if longer.device_seconds <= tuned.device_seconds or longer.accuracy <= tuned.accuracy:
        return tuned.accuracy
    share = math.log(device_seconds / tuned.device_seconds) / math.log(
        longer.device_seconds / tuned.device_seconds
    )
    return tuned.accuracy + min(max(share, 0.0), 1.0) * (longer.accuracy - tuned.accuracy)


def _one_off(difference: Difference, epochs: int) -> str:
    figures = f"searched minus longer KD ({epochs} epochs) is {difference.in_words()}"
    if difference.upper < 0:
        return f"A one-off run would have been better served by training tuned KD longer: {figures}."
    if difference.lower > 0:
        return f"Even a one-off run is better served by the search than by longer training: {figures}."
    return f"For a one-off run the search and longer training cannot be told apart: {figures}."


def _one_training(searched: Choice, tuned: Choice, longer: Choice) -> str:
    """What remains of the gain when KD gets the searched training's own compute, the search left out."""
    times = searched.device_seconds / tuned.device_seconds
    points = 100 * (searched.accuracy - kd_accuracy_at(searched.device_seconds, tuned=tuned, longer=longer))
    relation = "ahead of" if points >= 0 else "behind"
    return (
        f"One searched training costs {times:.2f} times one of tuned KD; it is {abs(points):.1f} points "
        f"{relation} tuned KD trained for as long, by interpolation between tuned and longer KD."
    )


def _regime(longer_over_tuned: Difference, epochs: int) -> str:
    gain = f"longer minus tuned KD is {longer_over_tuned.in_words()}"
    if longer_over_tuned.lower > 0:
        return (
            f"Here training longer still helps KD: {gain}. So epochs compete with the search; with up to "
            f"about {epochs} epochs proof would show what remains of the gain."
        )
    return (
        f"Training longer is not shown to help KD any more ({gain}): what the search gains is not bought so."
    )


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
