"""Early stopping: Optuna's percentile pruner over the validation curves of trials that may be compared.

Imports no torch. Optuna's step is the epoch, so that only validations after equally much training are
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.planning.arms import ArmName
from search.planning.history import History, accuracy
from search.records import CurvePoint, StageName, Stopped, TrialKey, TrialRecord, TrialState
from search.spec import JobSpec, Pruning

if TYPE_CHECKING:
    from optuna.pruners import PercentilePruner
    from optuna.trial import FrozenTrial

PRUNED_STAGES = {(StageName.SEARCH, ArmName.SEARCHED)}
"""Replays and proof are always carried to their end, and so is tuning: stopped early, dozens of KD trials
would be judged by their first epochs, and the baseline would be tuned worse for it."""


def should_stop(spec: JobSpec, trials: Sequence[TrialRecord], key: TrialKey) -> Stopped | None:
    """Whether a running trial is to be stopped after its newest validation, and why.

    It is compared with the completed trials of the same stage and arm: stopped when the best validation so
    far is below the given percentile of theirs at the same epoch. Never at its last validation, where nothing
    is saved.
    """
    history = History(trials)
    trial = history.get(key)
    pruning = spec.search.pruning
    if trial is None or not trial.curve or not pruning.enabled or (key.stage, key.arm) not in PRUNED_STAGES:
        return None
    last = max(trial.curve, key=lambda point: point.step)
    if trial.state.is_final or last.epoch >= trial.parameters["epochs"] or not _is_whole(last.epoch):
        return None
    rivals = [
        other
        for other in history.of(key.stage, key.arm)
        if other.state is TrialState.COMPLETED and other.result is not None and other.key != key
    ]
    return _judge(trial, rivals, last, spec) if len(rivals) >= pruning.startup_trials else None


def _judge(
    trial: TrialRecord, rivals: Sequence[TrialRecord], last: CurvePoint, spec: JobSpec
) -> Stopped | None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruning = spec.search.pruning
    study = optuna.create_study(direction="maximize", pruner=_pruner(pruning, warmup_epochs(spec)))
    study.add_trials([_frozen(rival) for rival in rivals])
    study.add_trial(_frozen(trial))
    if not study.pruner.prune(study, study.trials[-1]):
        return None
    epoch = round(last.epoch)
    best = max(_by_epoch(trial).values())
    threshold, compared = _threshold(rivals, epoch, pruning.percentile)
    return Stopped(
        step=last.step,
        value=best,
        threshold=threshold,
        rule=(
            f"best validation accuracy until epoch {epoch} is not within the best {pruning.percentile:g}% "
            f"of {compared} completed trials at that epoch"
        ),
    )


def warmup_epochs(spec: JobSpec) -> int:
    """Epochs before which no trial is stopped."""
    given = spec.search.pruning.warmup_epochs
    return -(-spec.budget.epochs_per_trial // 3) if given is None else given


def _pruner(pruning: Pruning, warmup: int) -> PercentilePruner:
    """Every setting explicit, so that another version of Optuna stops the same trials."""
    import optuna

    return optuna.pruners.PercentilePruner(
        pruning.percentile,
        n_startup_trials=pruning.startup_trials,
        n_warmup_steps=warmup,
        interval_steps=1,
        n_min_trials=1,
    )


def _frozen(trial: TrialRecord) -> FrozenTrial:
    import optuna

    is_completed = trial.state is TrialState.COMPLETED
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if is_completed else optuna.trial.TrialState.RUNNING,
        value=accuracy(trial) if is_completed else None,
        intermediate_values=_by_epoch(trial),
    )


def _by_epoch(trial: TrialRecord) -> dict[int, float]:
    """Accuracy at every validation that fell on a whole epoch."""
    points = sorted(trial.curve, key=lambda point: point.step)
    return {round(point.epoch): point.accuracy for point in points if _is_whole(point.epoch)}


def _is_whole(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-6


def _threshold(rivals: Sequence[TrialRecord], epoch: int, percentile: float) -> tuple[float, int]:
    """What the pruner compared with, and of how many trials it is the percentile."""
    import numpy as np

    values = [curve[epoch] for curve in map(_by_epoch, rivals) if epoch in curve]
    return float(np.percentile(values, 100.0 - percentile)), len(values)
