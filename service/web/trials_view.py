"""The trials of a job as a page shows them: a table, stages with their progress, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.store.reports import MetricRow
from service.store.states import TrialState
from service.store.tables import Job, Trial
from service.web.charts.lines import LineChart, Series, line_chart
from service.web.wording import figure, lower_first, percent, words

STAGES = ("teacher", "preflight", "search", "tuning", "proof", "export")
STAGE_TITLES = {
    "teacher": "Teacher",
    "preflight": "Preflight",
    "search": "Search",
    "tuning": "Tuning of KD",
    "proof": "Proof",
    "export": "Export",
}
LEARNING_STAGES = ("search", "tuning")
# What the plan notes beside the choices, for itself.
BOOKKEEPING = frozenset({"unfinished"})


@dataclass(frozen=True)
class StageView:
    """A part of the job: `done`, `now`, `ahead` or `left_out`, with its trials."""

    name: str
    title: str
    status: str
    done: int
    running: int
    known: int
    device_seconds: float


@dataclass(frozen=True)
class TrialView:
    """A row of the table of trials."""

    id: str
    title: str
    stage: str
    state: str
    accuracy: float | None
    split: str
    device_seconds: float
    choices: str
    note: str


@dataclass(frozen=True)
class CurvesView:
    """Validation accuracy of a stage's trials over epochs."""

    stage: str
    chart: LineChart


def stage_views(job: Job, trials: Sequence[Trial]) -> list[StageView]:
    """All stages, in order."""
    current = (job.progress or {}).get("stage") if not job.state.is_final else None
    reached = max((STAGES.index(trial.stage) for trial in trials if trial.stage in STAGES), default=-1)
    if current in STAGES:
        reached = max(reached, STAGES.index(current))
    return [
        _stage_view(job, name, [t for t in trials if t.stage == name], current, reached) for name in STAGES
    ]


def _stage_view(job: Job, name: str, trials: Sequence[Trial], current: str | None, reached: int) -> StageView:
    place = STAGES.index(name)
    if name == current or (current is None and place == reached and not job.state.is_final):
        status = "now"
    elif trials:
        status = "done" if job.state == "succeeded" or place < reached else "broken"
    else:
        status = "left_out" if job.state.is_final or place < reached else "ahead"
    return StageView(
        name,
        STAGE_TITLES[name],
        status,
        done=sum(trial.state.is_final for trial in trials),
        running=sum(trial.state is TrialState.RUNNING for trial in trials),
        known=len(trials),
        device_seconds=sum(trial.device_seconds for trial in trials),
    )


def trial_views(trials: Sequence[Trial], curves: Mapping[str, Sequence[MetricRow]]) -> list[TrialView]:
    """The rows of the table, in the order of the stages and then as proposed."""
    ordered = sorted(trials, key=lambda trial: (_place(trial.stage), trial.id))
    return [_trial_view(trial, curves.get(trial.id, ())) for trial in ordered]


def _trial_view(trial: Trial, curve: Sequence[MetricRow]) -> TrialView:
    result = trial.result or {}
    accuracy = result.get("accuracy")
    if accuracy is None and curve:
        accuracy = curve[-1].figures.get("accuracy")
    on_test = trial.stage in ("proof", "export")
    return TrialView(
        id=trial.id,
        title=trial_title(trial),
        stage=trial.stage,
        state=trial.state.value,
        accuracy=accuracy,
        split="test" if on_test else "validation",
        device_seconds=trial.device_seconds,
        choices=_choices(trial.parameters.get("choices") or {}),
        note=_note(trial, curve),
    )


def trial_title(trial: Trial) -> str:
    """What it is, in words: `searched 3`, `tuned kd, seed 1`."""
    if trial.stage == "proof":
        return f"{words(trial.arm)}, seed {trial.seed}"
    if trial.stage in LEARNING_STAGES:
        return f"{words(trial.arm)} {trial.index}"
    return words(trial.arm)


def _choices(choices: Mapping[str, Any]) -> str:
    shown = []
    for name, value in choices.items():
        if name in BOOKKEEPING:
            continue
        if isinstance(value, list):
            value = " + ".join(_part(one) for one in value) or "none"
        shown.append(f"{words(name)} {figure(value) if isinstance(value, float) else value}")
    return ", ".join(shown)


def _part(one: Any) -> str:
    """A name, or a pair [teacher stage, student stage]."""
    return f"t{one[0]} → s{one[1]}" if isinstance(one, list) and len(one) == 2 else str(one)


def _note(trial: Trial, curve: Sequence[MetricRow]) -> str:
    if trial.stopped:
        stopped = trial.stopped
        value, threshold = percent(stopped["value"]), percent(stopped["threshold"])
        return f"stopped at step {stopped['step']}: {value} against {threshold} ({stopped['rule']})"
    if trial.error_code:
        return f"{trial.error_code}: {trial.error_message or ''}".strip(": ")
    if trial.state is TrialState.RUNNING:
        return f"epoch {curve[-1].epoch:g}, step {curve[-1].step}" if curve else "no validation yet"
    if (trial.result or {}).get("cached"):
        return "taken from the cache"
    return ""


def curve_views(
    trials: Sequence[Trial], curves: Mapping[str, Sequence[MetricRow]], *, figure: str = "accuracy"
) -> list[CurvesView]:
    """A chart of validation accuracy (or of the figure that the job judges by) for each stage whose trials
    validate."""
    views = []
    for stage in STAGES:
        shown = [trial for trial in trials if trial.stage == stage and trial.id in curves]
        epochs = max((float(trial.parameters.get("epochs", 0)) for trial in shown), default=0.0)
        series = [
            Series(
                trial_title(trial),
                [
                    (row.epoch, 100 * row.figures["accuracy"])
                    for row in curves[trial.id]
                    if "accuracy" in row.figures
                ],
                ended_early=trial.state is TrialState.STOPPED_EARLY,
            )
            for trial in shown
        ]
        chart = line_chart(
            series,
            title=f"Validation {figure}: {lower_first(STAGE_TITLES[stage])}",
            x_label="epoch",
            y_label=f"{figure} in %",
            x_bounds=(0.0, epochs) if epochs else None,
            y_bounds=(0.0, 100.0),
        )
        if chart is not None:
            views.append(CurvesView(stage, chart))
    return views


def _percentages(curve: Sequence[MetricRow]) -> list[tuple[float, float]]:
    return [(row.epoch, 100 * row.figures["accuracy"]) for row in curve if "accuracy" in row.figures]


def best_search_trial(trials: Sequence[Trial]) -> Trial | None:
    """The completed search trial with the best validation accuracy that learned a process."""
    learned = [
        trial
        for trial in trials
        if trial.stage == "search"
        and trial.state is TrialState.COMPLETED
        and trial.parameters.get("learn")
        and (trial.result or {}).get("process")
    ]
    return max(learned, key=lambda trial: (trial.result or {}).get("accuracy", 0.0), default=None)


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
