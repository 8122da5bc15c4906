"""What a reader of a report has to know beside its figures. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection

from search.planning.arms import ArmName
from search.planning.candidates import ProcessKind
from search.planning.findings import Found
from search.planning.given import found_elsewhere_seconds, given_replays
from search.planning.history import History, failed
from search.planning.proof_runs import ABLATIONS_IN_TIME
from search.planning.verdict import Shortfall
from search.records import StageName
from search.spec import JobSpec

KIND_IN_WORDS = {
    ProcessKind.CONSTANT: "its final weights held",
    ProcessKind.AVERAGED: "the mean of its last third held",
    ProcessKind.SCHEDULE: "the learned schedule",
}


def notes(
    spec: JobSpec, history: History, found: Found, arms: Collection[ArmName], shortfall: Shortfall | None
) -> list[str]:
    """Sentences, in the order in which they matter; `arms` are those that proof trained."""
    said = [
        *history.preflight().notes,
        *_on_the_search(spec, history),
        *_on_the_verdict(shortfall),
        *_on_failures(history),
        *_on_pathways(found, is_given=bool(given_replays(history))),
    ]
    return said + [
        f"The searched process does not change over time ({KIND_IN_WORDS[found.kind]}), so the arm `{arm}` "
        "shows the same runs; it was not trained again."
        for arm in ABLATIONS_IN_TIME
        if arm in spec.proof.arms and arm not in arms
    ]


def _on_the_search(spec: JobSpec, history: History) -> list[str]:
    if given_replays(history):
        return [_found_elsewhere(found_elsewhere_seconds(history))]
    searched, limit = len(history.of(StageName.SEARCH, ArmName.SEARCHED)), spec.budget.trials
    if searched >= limit:
        return []
    return [
        f"The search ended after {searched} of {limit} trials: the rest of the budget was needed for tuning "
        "KD and for proof."
    ]


def _found_elsewhere(device_seconds: float) -> str:
    if device_seconds:
        return (
            f"The process was found elsewhere, in {device_seconds:.0f} device-seconds: they count as its "
            "search, and KD was tuned for as long."
        )
    return (
        "The process was given, and no search for it is known: KD was tuned by as many trials as a search "
        "may have."
    )


def _on_the_verdict(shortfall: Shortfall | None) -> list[str]:
    if shortfall is None:
        return []
    return [
        f"{shortfall.in_words()}, because time or budget ran out or its runs failed: so the verdict cannot "
        "be `searched`."
    ]


def _on_failures(history: History) -> list[str]:
    count = len(failed(history.of(StageName.SEARCH)))
    return [f"{count} trials of the search failed and were passed over."] if count else []


def _on_pathways(found: Found, *, is_given: bool) -> list[str]:
    kept, searched = len(found.searched.pathways), len(found.learned.pathways)
    if not searched and not is_given:
        return ["The best trial has no pathways: it learned weights and temperatures of logit losses alone."]
    if kept < searched:
        return [
            f"{searched - kept} of {searched} pathways earned no weight and were left out: on validation "
            "they made no difference larger than its standard error."
        ]
    return []
