"""A job told to the store as a worker tells it: the real plan decides, only the figures are made up.

Pages, client and command line are tested on whole jobs, which real training would take minutes to make.
"""

from __future__ import annotations

import math
import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from search.plan import next_trials, should_stop
from search.recipe import Pathway, Point, Process, Stage
from search.records import (
    CurvePoint,
    Fail,
    Finish,
    PreflightResult,
    Proposal,
    RunParameters,
    RunResult,
    StageName,
    Start,
    Stopped,
    TeacherResult,
    TrialKey,
    TrialRecord,
    TrialState,
    Wait,
)
from search.spec import JobSpec
from service.files import ArtifactRoot
from service.store import artifacts, events, jobs, queue, recipes, reports, trials, workers
from service.store.jobs import NewJob
from service.store.leases import Lease
from service.store.reports import NewReport
from service.store.session import Store
from service.store.states import EventKind
from tests.made_up_figures import figures_without_labels

CATALOGUE: dict[str, Any] = {
    "methods": [
        {"kind": kind, "name": name, "summary": f"{name} as in its paper.", "source": "built in"}
        for kind, names in {
            "transform": ("identity", "projection", "gated"),
            "distance": ("mse", "hcl", "attention"),
            "logit_loss": ("kd",),
            "normalisation": ("softplus", "biased_softmax"),
            "strategy": ("tpe", "random"),
            "augmentation": ("none", "shift", "crop_flip"),
            "hypergradient": ("exact",),
        }.items()
        for name in names
    ],
    "models": ["test_resnet", "test_efficientnet", "test_vit", "resnet18"],
    "datasets": [
        {"name": "digits", "kind": "digits", "classes": 10, "channels": 1, "size": 32, "images": 1797}
    ],
    "devices": [{"kind": "cpu", "count": 2}],
    "versions": {"limbeck": "0.1.0"},
}
ACCURACY = {
    "student_alone": 0.905,
    "plain_kd": 0.918,
    "tuned_kd": 0.924,
    "longer_kd": 0.935,
    "uniform": 0.921,
    "constant": 0.938,
    "shuffled": 0.929,
    "searched": 0.947,
    "schedule": 0.944,
    "averaged": 0.939,
}
STUDENT_BYTES = bytes(range(256)) * 2048


def small_spec(**parts: Any) -> JobSpec:
    """A job like the demo's."""
    document: dict[str, Any] = {
        "name": "Digits, small ResNet to EfficientNet",
        "teachers": [{"model": "test_resnet"}],
        "student": {"model": "test_efficientnet"},
        "budget": {"trials": 4, "epochs_per_trial": 12},
        "proof": {
            "seeds": [0, 1, 2],
            "arms": ["student_alone", "plain_kd", "tuned_kd", "uniform", "searched"],
        },
        "search": {"pruning": {"startup_trials": 1, "warmup_epochs": 2}},
        "labels": {"purpose": "story"},
    }
    return JobSpec.model_validate({**document, **parts})


def spec_without_labels() -> JobSpec:
    """The same, reading no labels."""
    return small_spec(
        teachers=[{"model": "test_resnet", "weights": "teacher.safetensors"}],
        data={"labels": "none"},
        proof={"seeds": [0, 1, 2], "arms": ["plain_kd", "tuned_kd", "uniform", "searched"]},
    )


@dataclass
class Story:
    """One job's worker, plan and invented figures. `tell` goes on until a stage, or to the end."""

    store: Store
    artifact_root: ArtifactRoot
    spec: JobSpec = field(default_factory=small_spec)
    accuracy: dict[str, float] = field(default_factory=lambda: dict(ACCURACY))
    seed: int = 7
    cards: dict[str, Any] = field(default_factory=dict)
    job_id: str = ""
    mark: str = field(default_factory=lambda: f"story:{uuid.uuid4().hex}")
    lease: Lease | None = None
    records: list[TrialRecord] = field(default_factory=list)
    ids: dict[TrialKey, str] = field(default_factory=dict)
    curves: dict[TrialKey, list[CurvePoint]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def submit(self) -> str:
        """Queue the job; its id."""
        new = NewJob(
            spec=self.spec.model_dump(mode="json"),
            requirements=[self.mark],
            name=self.spec.name,
            labels=self.spec.labels,
        )
        with self.store.begin_write() as session:
            self.job_id = jobs.insert_queued(session, new=new).id
        return self.job_id

    def adopt(self, job_id: str) -> None:
        """Take over a queued job that somebody else has submitted."""
        with self.store.begin_write() as session:
            job = jobs.change(session, job_id=job_id, requirements=[self.mark])
        self.job_id, self.spec = job.id, JobSpec.model_validate(job.spec)

    def claim(self) -> None:
        """Begin an attempt at the job; the mark keeps all others away from it."""
        with self.store.begin_write() as session:
            claimed = queue.claim(session, owner=self.mark, lease_seconds=600.0, offers={self.mark})
        assert claimed is not None
        assert claimed.job.id == self.job_id
        self.lease = claimed.lease

    def tell(self, *, until: StageName | None = None) -> None:
        """Carry the job on: to its end, or to the first trial of the stage, which is left running."""
        if self.lease is None:
            self.claim()
        while True:
            action = next_trials(self.spec, self.records)
            if isinstance(action, Finish):
                return self._succeed(action.report)
            if isinstance(action, Fail):
                return self.fail(action.code, action.message)
            assert isinstance(action, Start), action
            assert not isinstance(action, Wait)
            self._propose(action.proposals)
            for proposal in action.proposals:
                stop_here = proposal.key.stage is until
                self._run(proposal, half=stop_here)
                if stop_here:
                    return None

    def fail(self, code: str, message: str) -> None:
        """End the job without success."""
        assert self.lease is not None
        with self.store.begin_write() as session:
            queue.finish(session, lease=self.lease, state="failed", reason=code, message=message)

    def say(self, message: str, kind: EventKind = EventKind.JOB_PROGRESS) -> None:
        """One more event."""
        assert self.lease is not None
        with self.store.begin_write() as session:
            events.report(session, lease=self.lease, kind=kind, message=message)

    def _propose(self, proposals: tuple[Proposal, ...]) -> None:
        assert self.lease is not None
        new = [
            trials.NewTrial(p.key.stage, p.key.arm, p.key.seed, p.key.index, p.parameters) for p in proposals
        ]
        with self.store.begin_write() as session:
            rows = trials.insert_proposals(session, lease=self.lease, proposals=new)
            stage = proposals[0].key.stage.value
            done = sum(record.state.is_final for record in self.records)
            progress = {"stage": stage, "trials_done": done, "trials_total": 30, "running": len(rows)}
            queue.update_progress(session, lease=self.lease, progress=progress)
        self.ids |= {proposal.key: row.id for proposal, row in zip(proposals, rows, strict=True)}

    def _run(self, proposal: Proposal, *, half: bool) -> None:
        assert self.lease is not None
        trial_id = self.ids[proposal.key]
        with self.store.begin_write() as session:
            trials.mark_running(session, lease=self.lease, trial_id=trial_id, node="127.0.0.1")
        stopped = None
        if proposal.key.stage in (StageName.SEARCH, StageName.TUNING):
            stopped = self._validate(proposal, trial_id, half=half)
        if half:
            return
        state = TrialState.STOPPED_EARLY if stopped else TrialState.COMPLETED
        result = None if stopped else self._result(proposal)
        seconds = (
            0.4 if proposal.key.stage in (StageName.PREFLIGHT, StageName.EXPORT) else self._seconds(proposal)
        )
        with self.store.begin_write() as session:
            trials.finish(
                session,
                lease=self.lease,
                trial_id=trial_id,
                state=state,
                result=result,
                stopped=vars(stopped) if stopped else None,
                device_seconds=seconds,
            )
        if proposal.key.stage is StageName.EXPORT:
            self._keep_files(trial_id, result or {})
        self._record(proposal, state, result=result, stopped=stopped, seconds=seconds)

    def _record(self, proposal: Proposal, state: TrialState, **figures: Any) -> None:
        self.records = [one for one in self.records if one.key != proposal.key]
        curve = self.curves.get(proposal.key, ())
        self.records.append(
            TrialRecord(
                proposal.key,
                state,
                proposal.parameters,
                result=figures.get("result"),
                curve=tuple(curve),
                stopped=figures.get("stopped"),
                device_seconds=figures.get("seconds", 0.0),
            )
        )

    def _validate(self, proposal: Proposal, trial_id: str, *, half: bool) -> Stopped | None:
        """Report a validation per epoch; stop where the plan says so."""
        assert self.lease is not None
        points = self.curves.setdefault(proposal.key, [])
        epochs = int(proposal.parameters["epochs"])
        goal = self._goal(proposal)
        for epoch in range(1, (epochs // 2 if half else epochs) + 1):
            reached = 1 - math.exp(-4.5 * epoch / epochs)
            value = 0.1 + (goal - 0.1) * reached + self.random.gauss(0, 0.006)
            points.append(CurvePoint(step=epoch * 7, epoch=float(epoch), accuracy=min(value, 0.999)))
            row = NewReport(
                epoch * 7, float(epoch), {"accuracy": points[-1].accuracy, "loss": 2.3 - 2 * reached}, True
            )
            with self.store.begin_write() as session:
                reports.upsert(session, lease=self.lease, trial_id=trial_id, rows=[row])
            self._record(proposal, TrialState.RUNNING)
            stopped = should_stop(self.spec, self.records, proposal.key)
            if stopped is not None:
                return stopped
        return None

    def _goal(self, proposal: Proposal) -> float:
        arm = self.accuracy.get(proposal.key.arm.removeprefix("pruned_"), 0.95)
        # Later trials of a stage differ: one of them is poor, so that something is stopped early.
        return arm - (0.0, 0.25, 0.01, 0.03)[proposal.key.index % 4]

    def _seconds(self, proposal: Proposal) -> float:
        return round(self.random.uniform(5.0, 8.0) * (2.1 if proposal.parameters.get("learn") else 1.0), 2)

    def _result(self, proposal: Proposal) -> dict[str, Any]:
        stage = proposal.key.stage
        if stage is StageName.TEACHER:
            return TeacherResult(accuracy=0.985, weights_sha256="a" * 64, cached=False).model_dump(
                mode="json"
            )
        if stage is StageName.PREFLIGHT:
            return preflight().model_copy(update={"cards": self.cards}).model_dump(mode="json")
        if stage is StageName.EXPORT:
            return {"accuracy": 0.947, "recipe": {"schema_version": 1, "arm": proposal.parameters["arm"]}}
        parameters = RunParameters.model_validate(proposal.parameters)
        spread = self._spread(proposal) if stage is StageName.PROOF else 0.0
        process = learned(parameters.process) if parameters.learn else parameters.process
        accuracy = self._goal(proposal) + spread
        return RunResult(
            accuracy=accuracy,
            expected_calibration_error=0.03,
            loss=0.3,
            images=997 if stage is StageName.PROOF else 200,
            steps=84,
            seconds=6.0,
            process=process,
            without_labels=None if self.spec.data.is_labelled else figures_without_labels(accuracy),
        ).model_dump(mode="json")

    def _spread(self, proposal: Proposal) -> float:
        """A lucky seed is lucky for every arm, but for a little."""
        luck = random.Random(f"{self.seed}:{proposal.key.seed}").gauss(0, 0.005)
        return luck + random.Random(f"{self.seed}:{proposal.key}").gauss(0, 0.0015)

    def _keep_files(self, trial_id: str, result: dict[str, Any]) -> None:
        assert self.lease is not None
        for name, data in (
            ("student.safetensors", STUDENT_BYTES),
            ("recipe.json", b'{"schema_version": 1}\n'),
        ):
            path = f"jobs/{self.job_id}/{trial_id}/{name}"
            written = self.artifact_root.write_bytes(path, data)
            with self.store.begin_write() as session:
                artifacts.record(
                    session,
                    lease=self.lease,
                    trial_id=trial_id,
                    name=name,
                    path=path,
                    bytes=written.bytes,
                    sha256=written.sha256,
                )

    def _succeed(self, report: dict[str, Any] | None) -> None:
        assert self.lease is not None
        with self.store.begin_write() as session:
            recipe = recipes.record(
                session,
                lease=self.lease,
                document={"schema_version": 1, "arm": "searched"},
                schema_version=1,
                arm="searched",
                teacher=self.spec.teacher.model,
                student=self.spec.student.name,
                data=self.spec.data.name,
            )
            queue.finish(
                session,
                lease=self.lease,
                state="succeeded",
                reason="completed",
                report=report,
                recipe_id=recipe.id,
            )


def register_worker(store: Store, catalogue: dict[str, Any] | None = None) -> str:
    """A worker that lives for a while, so that jobs can be submitted; its id."""
    worker_id = str(uuid.uuid4())
    with store.begin_write() as session:
        workers.register(
            session, worker_id=worker_id, host="localhost", pid=1, catalogue=catalogue or CATALOGUE
        )
    return worker_id


def preflight() -> PreflightResult:
    """What preflight would have found for two four-stage models on digits."""
    stages = [
        Stage(index=index, channels=16 * 2**index, reduction=2.0**index, depth=index / 3)
        for index in range(4)
    ]
    return PreflightResult(
        data_sha256="d" * 64,
        classes=10,
        input_channels=1,
        input_size=32,
        split_sizes={"train": 400, "meta": 200, "validation": 200, "test": 997},
        majority_rate=0.1,
        floor_accuracy=0.15,
        teacher_accuracy=0.985,
        teacher_parameters=470_000,
        student_parameters=360_000,
        teacher_stages=stages,
        student_stages=stages,
        teacher_weights_sha256="a" * 64,
        seconds_per_step={"student_alone": 0.03, "kd": 0.035, "pathways": 0.05, "search": 0.11},
        steps_per_epoch={"search": 7, "proof": 13},
    )


def learned(start: Process, *, points: int = 33) -> Process:
    """A process as a search may learn it: some pathways fade, one grows, temperatures part."""
    rates = [2.2, 0.7, -4.0, -2.0, 1.4, -0.3, -5.5, 0.2]

    def at(progress: float) -> Point:
        first = start.points[0]
        return Point(
            progress=progress,
            logit_weights=[w * math.exp(-1.1 * progress) for w in first.logit_weights],
            pathway_weights=[
                w * math.exp(rates[i % len(rates)] * progress + 0.15 * math.sin(9 * progress + i))
                for i, w in enumerate(first.pathway_weights)
            ],
            teacher_temperatures=[t + 2.4 * progress for t in first.teacher_temperatures],
            student_temperatures=[t + 0.7 * math.sin(3 * progress) for t in first.student_temperatures],
        )

    moments = [index / (points - 1) for index in range(points)]
    pathways: list[Pathway] = [path.model_copy(update={"scale": 0.8}) for path in start.pathways]
    return start.model_copy(update={"pathways": pathways, "points": [at(moment) for moment in moments]})
