"""A job carried out without training: trials "run" epoch by epoch along made-up curves, the plan decides for
real.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from search.plan import next_trials, should_stop
from search.planning.arms import ArmName
from search.planning.costs import devices_per_trial, run_kind
from search.planning.given import GivenProcess
from search.recipe import Stage
from search.records import (
    Action,
    CurvePoint,
    Fail,
    Finish,
    PreflightResult,
    Proposal,
    RunResult,
    StageName,
    Start,
    TeacherResult,
    TrialError,
    TrialKey,
    TrialRecord,
    TrialState,
)
from search.spec import JobSpec

STEPS_PER_EPOCH = {"search": 10, "proof": 20}
SECONDS_PER_STEP = {"student_alone": 0.01, "kd": 0.02, "pathways": 0.04, "search": 0.1}
START_SECONDS = 0.5
TEST_IMAGES = 997
VALIDATION_IMAGES = 200
ACCURACY_OF_ARM: dict[str, float] = {
    ArmName.STUDENT_ALONE: 0.60,
    ArmName.PLAIN_KD: 0.64,
    ArmName.TUNED_KD: 0.66,
    ArmName.LONGER_KD: 0.68,
    ArmName.UNIFORM: 0.67,
    ArmName.CONSTANT: 0.69,
    ArmName.SHUFFLED: 0.68,
    ArmName.SEARCHED: 0.72,
    "schedule": 0.70,
    "averaged": 0.69,
    "warm_started": 0.72,
    "given": 0.70,
    "tuned_kd_again": 0.66,
}
PRUNED = "pruned_"

Accuracy = Callable[[TrialKey, Mapping[str, Any]], float]


def make_spec(**changes: Any) -> JobSpec:
    """A small spec; `changes` are parts of it, such as budget={"trials": 4}."""
    document: dict[str, Any] = {
        "teachers": [{"model": "test_resnet"}],
        "student": {"model": "test_convnext"},
        "budget": {"trials": 4, "epochs_per_trial": 4},
        "proof": {"seeds": [0, 1, 2]},
    }
    for name, value in changes.items():
        both_are_parts = isinstance(value, dict) and isinstance(document.get(name), dict)
        document[name] = {**document[name], **value} if both_are_parts else value
    return JobSpec.model_validate(document)


def stages(*channels: int) -> list[Stage]:
    """Stages of a model, each at half the side of the one before."""
    last = max(len(channels) - 1, 1)
    return [
        Stage(index=index, channels=width, reduction=float(4 * 2**index), depth=index / last)
        for index, width in enumerate(channels)
    ]


def preflight_result(**changes: Any) -> dict[str, Any]:
    """What preflight found, as JSON."""
    found = PreflightResult(
        data_sha256="d" * 64,
        classes=10,
        input_channels=1,
        input_size=32,
        split_sizes={"train": 400, "meta": 200, "validation": 200, "test": TEST_IMAGES},
        majority_rate=0.1,
        floor_accuracy=0.15,
        teacher_accuracy=0.9,
        teacher_parameters=1000,
        student_parameters=100,
        teacher_stages=stages(32, 64, 128),
        student_stages=stages(8, 16, 32),
        teacher_weights_sha256="t" * 64,
        seconds_per_step=SECONDS_PER_STEP,
        steps_per_epoch=STEPS_PER_EPOCH,
        start_seconds=START_SECONDS,
    )
    return PreflightResult.model_validate({**found.model_dump(), **changes}).model_dump(mode="json")


def noise(*parts: object) -> float:
    """A made-up deviation in [-1, 1], a function of the parts."""
    return random.Random(":".join(map(str, parts))).uniform(-1, 1)


def accuracy_by_arm(**changes: float) -> Accuracy:
    """Each arm's accuracy with a little noise; `changes` replace the means of arms. Without pathways that
    earned nothing a replay is as good as with them, unless `changes` say otherwise.
    """
    means = {**ACCURACY_OF_ARM, **changes}

    def accuracy(key: TrialKey, parameters: Mapping[str, Any]) -> float:
        name = key.arm if key.arm in means else key.arm.removeprefix(PRUNED)
        mean = means[name if name in means else name.split("_times_")[0]]
        return mean + 0.004 * noise(key.arm, key.seed, key.index)

    return accuracy


def step_seconds(parameters: Mapping[str, Any], epochs: float | None = None) -> float:
    """What the steps of a run really take in the simulation: exactly what preflight measured."""
    steps = STEPS_PER_EPOCH[parameters["splits"]] * (parameters["epochs"] if epochs is None else epochs)
    return steps * SECONDS_PER_STEP[run_kind(parameters)]


def run_seconds(parameters: Mapping[str, Any], epochs: float | None = None) -> float:
    """What a run really takes in the simulation, its start included."""
    return START_SECONDS + step_seconds(parameters, epochs)


@dataclass
class SimulatedJob:
    """Executes the plan with trials in a seeded random order of progress."""

    spec: JobSpec
    accuracy: Accuracy = field(default_factory=accuracy_by_arm)
    failures: dict[StageName, Callable[[TrialKey], bool]] = field(default_factory=dict)
    preflight: dict[str, Any] = field(default_factory=preflight_result)
    dry_run: bool = False
    slowness: float = 1.0
    validation_seconds: float = 0.0
    idle_pathways: tuple[int, ...] = ()
    given: GivenProcess | None = None
    seed: int = 0
    records: dict[TrialKey, TrialRecord] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.order = random.Random(self.seed)

    def trials(self) -> list[TrialRecord]:
        """The records, shuffled: the plan may not depend on their order."""
        trials = list(self.records.values())
        self.order.shuffle(trials)
        return trials

    def of(self, stage: StageName, arm: str | None = None) -> list[TrialRecord]:
        return [
            self.records[key] for key in sorted(self.records) if key.stage is stage and arm in (None, key.arm)
        ]

    def ask(self) -> Action:
        return next_trials(
            self.spec,
            self.trials(),
            dry_run=self.dry_run,
            elapsed_seconds=self.elapsed_seconds,
            given=self.given,
        )

    def run(self, *, until: Callable[[Action], bool] = lambda action: False) -> Action:
        """To the end, or until an action is of the kind; that action."""
        while True:
            action = self.step()
            if isinstance(action, Finish | Fail) or until(action):
                return action

    def run_to(self, stage: StageName) -> Start:
        """To the first action that starts a trial of this stage."""
        action = self.run(
            until=lambda action: isinstance(action, Start) and action.proposals[0].key.stage is stage
        )
        assert isinstance(action, Start), action
        return action

    def step(self) -> Action:
        """One question to the plan, its answer checked and carried out, and some progress of some trial."""
        action = self.ask()
        self.actions.append(action)
        unfinished = [trial for trial in self.records.values() if not trial.state.is_final]
        if isinstance(action, Start):
            assert action.proposals
            for proposal in action.proposals:
                self.start(proposal)
                unfinished.append(self.records[proposal.key])
            assert len(unfinished) <= self.spec.search.concurrent_trials
        elif not isinstance(action, Finish | Fail):
            assert unfinished, "the plan waits for nothing"
        if unfinished:
            self.advance(self.random.choice(sorted(unfinished, key=lambda trial: trial.key)).key)
        return action

    def start(self, proposal: Proposal) -> None:
        assert proposal.key not in self.records, "only new trials may be started"
        self.records[proposal.key] = TrialRecord(proposal.key, TrialState.RUNNING, proposal.parameters)

    def advance(self, key: TrialKey) -> None:
        """One more epoch of a trial, or its end."""
        trial = self.records[key]
        if self.failures.get(key.stage, lambda key: False)(key):
            error = TrialError("nan", f"loss became nan in {key}")
            self.finish(replace(trial, state=TrialState.FAILED, error=error))
        elif key.stage in (StageName.TEACHER, StageName.PREFLIGHT, StageName.EXPORT):
            self.finish(replace(trial, state=TrialState.COMPLETED, result=self.result_of_stage(key)))
        else:
            self.advance_run(trial)

    def advance_run(self, trial: TrialRecord) -> None:
        final, epoch = self.accuracy(trial.key, trial.parameters), len(trial.curve) + 1
        if trial.key.stage is not StageName.PROOF:
            steps = epoch * STEPS_PER_EPOCH["search"]
            point = CurvePoint(steps, float(epoch), final * (1 - 0.5**epoch))
            trial = replace(trial, curve=(*trial.curve, point))
            self.records[trial.key] = trial
            stopped = should_stop(self.spec, self.trials(), trial.key)
            if stopped is not None:
                self.finish(replace(trial, state=TrialState.STOPPED_EARLY, stopped=stopped))
                return
        if trial.key.stage is StageName.PROOF or epoch == trial.parameters["epochs"]:
            result = run_result(trial, final, slowness=self.slowness, idle_pathways=self.idle_pathways)
            self.finish(replace(trial, state=TrialState.COMPLETED, result=result))

    def finish(self, trial: TrialRecord) -> None:
        """Ends it, with the device-seconds and the wall time that it took."""
        seconds = 1.0
        if "process" in trial.parameters:
            whole = trial.state is TrialState.COMPLETED
            seconds = run_seconds(trial.parameters, None if whole else float(len(trial.curve)))
            seconds += self.validation_seconds * len(trial.curve)
        seconds *= self.slowness
        self.elapsed_seconds += seconds / self.spec.search.concurrent_trials
        self.records[trial.key] = replace(trial, device_seconds=seconds * devices_per_trial(self.spec))

    def result_of_stage(self, key: TrialKey) -> dict[str, Any]:
        if key.stage is StageName.TEACHER:
            return TeacherResult(accuracy=0.9, weights_sha256="t" * 64, cached=False).model_dump()
        if key.stage is StageName.PREFLIGHT:
            return self.preflight
        return {"accuracy": 0.5, "recipe": {}}


def run_result(
    trial: TrialRecord, accuracy: float, *, slowness: float = 1.0, idle_pathways: tuple[int, ...] = ()
) -> dict[str, Any]:
    """The result of a run; a search trial has learned a process of three points."""
    process = dict(trial.parameters["process"])
    if trial.parameters["learn"]:
        start = process["points"][0]
        process["points"] = [learned_point(start, progress, idle_pathways) for progress in (0.0, 0.5, 1.0)]
    result = RunResult(
        accuracy=accuracy,
        agreement=accuracy,
        expected_calibration_error=0.05,
        loss=1.0 - accuracy,
        images=TEST_IMAGES if trial.parameters["splits"] == "proof" else VALIDATION_IMAGES,
        steps=trial.parameters["epochs"] * STEPS_PER_EPOCH[trial.parameters["splits"]],
        seconds=slowness * step_seconds(trial.parameters),
        process=process,
    )
    return result.model_dump(mode="json")


def learned_point(start: Mapping[str, Any], progress: float, idle: tuple[int, ...] = ()) -> dict[str, Any]:
    """All that is learned doubles over training; idle pathways lose their weight instead."""
    grown = {
        name: [value * (1 + progress) for value in start[name]]
        for name in start
        if isinstance(start[name], list)
    }
    weights = grown["pathway_weights"]
    for index in idle:
        if index < len(weights):
            weights[index] = start["pathway_weights"][index] * (1 - 0.9 * progress)
    return {"progress": progress, **grown}


def finished(job: SimulatedJob) -> dict[str, Any]:
    """Run to its end; the report."""
    action = job.run()
    assert isinstance(action, Finish), action
    assert action.report is not None
    return action.report
