"""One run of the CIFAR-10 benchmark: teacher, measurement, plan, both schedules."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.cifar10_figures import Figures, results, verdict
from benchmarks.cifar10_form import Form, Schedule, StepSeconds, planned
from benchmarks.cifar10_runs import Arm, ProofOfSchedule, Seeds
from benchmarks.cifar10_task import PROCESS, SPACE, job_spec, write_place
from benchmarks.cifar10_teacher import teacher_file
from benchmarks.ledger import Ledger
from benchmarks.pool import Place, Pool
from benchmarks.pooled_job import PooledJob
from benchmarks.results import Result
from benchmarks.steps_in_turn import replay_cost
from search.dimensions import starting_choices
from search.planning.arms import dimensions_of, plain_kd, proof_run, search_run
from search.planning.history import History
from search.records import Proposal, RunParameters, StageName, TrialKey
from search.spec import JobSpec

COST_EPOCHS = 8
"""A replay of so many epochs is timed: its weights go over all their values in it."""
MEASURED_EPOCHS = 2


@dataclass
class Benchmark:
    """Where it works and what it knows so far."""

    form: Form
    data: Path
    cache: Path
    json_path: Path
    device: str
    processes: int
    teacher_epochs: int
    started: float = field(default_factory=time.monotonic)

    def run(self) -> tuple[list[Result], dict[str, Any]]:
        """The figures, and all that led to them. Raises SearchProblem, OtherSettingsError."""
        self.teacher = teacher_file(
            self.data, self.cache, device=self.device, threads=self.processes, epochs=self.teacher_epochs
        )
        datasets_file, self.data_name = write_place(self.data, self.cache)
        self.ledger = Ledger(self.json_path, self._settings())
        self.place = Place(self.cache / "trials" / self.json_path.stem, datasets_file, self.device)
        self.started = time.monotonic()
        with Pool(self.processes) as self.pool:
            form = self._plan()
            short, long = (self._schedule(name, form) for name in ("short", "long"))
        for sentence in verdict(short, long):
            self.say(sentence)
        return results(short, long), {
            **self.ledger.document,
            "figures": {"short": asdict(short), "long": asdict(long)},
            "verdict": verdict(short, long),
        }

    def say(self, sentence: str) -> None:
        """With the minutes since the start."""
        print(f"[{(time.monotonic() - self.started) / 60:5.1f} min] {sentence}", flush=True)

    def _settings(self) -> dict[str, Any]:
        spec = self._spec(self.form.short).model_dump(mode="json", exclude={"teachers": {0: {"weights"}}})
        return {
            "form": asdict(self.form),
            "spec": {name: spec[name] for name in ("teachers", "student", "training", "search", "tuning")},
            "splits": spec["data"]["splits"],
            "teacher_epochs": self.teacher_epochs,
            "device": self.device,
            "processes": self.processes,
        }

    def _spec(self, schedule: Schedule) -> JobSpec:
        return job_spec(
            data_name=self.data_name,
            teacher=self.teacher,
            search_epochs=schedule.search_epochs,
            epochs=schedule.epochs,
            seeds=list(range(self.form.seeds)),
            trials=schedule.trials,
            at_once=self.processes,
            training={"batch_size": schedule.batch_size, "learning_rate": schedule.learning_rate},
            search={
                "rounds": schedule.rounds,
                "replay_seeds": schedule.replay_seeds,
                "space": {
                    **SPACE.model_dump(),
                    "distances": [list(schedule.distances)],
                    "process_learning_rate": {
                        "low": schedule.process_learning_rate / 2,
                        "high": schedule.process_learning_rate * 2,
                    },
                    "update_every_steps": [schedule.update_every_steps],
                },
                "process": {**PROCESS.model_dump(), "meta_batch_size": schedule.meta_batch_size},
            },
        )

    def _job(self, part: str, schedule: Schedule) -> PooledJob:
        place = replace(self.place, directory=self.place.directory / part)
        place.directory.mkdir(parents=True, exist_ok=True)
        _share_cache(place.directory, self.cache / "shared")
        return PooledJob(part, self._spec(schedule), place, self.pool, self.ledger, self.say)

    def _plan(self) -> Form:
        """The form as far as it fits; the plan of a run that was killed is kept."""
        steps = {part: self._step_seconds(part) for part in ("short", "long")}
        form = planned(self.form, **steps, processes=self.processes)
        self.say(
            f"{form.short.epochs} epochs, then {form.long.epochs} (search {form.long.search_epochs}), "
            f"{form.seeds} seeds"
        )
        return form

    def _step_seconds(self, part: str) -> StepSeconds:
        noted = self.ledger.note(f"{part}_step_seconds")
        step = StepSeconds(**noted) if noted else self._measured(part)
        if not noted:
            self.ledger.write_note(f"{part}_step_seconds", asdict(step))
        self.say(
            f"{part:>6}: a step of plain KD takes {1000 * step.kd:.0f} ms, of the search "
            f"{1000 * step.search:.0f} ms, {self.processes} at once"
        )
        return step

    def _measured(self, part: str) -> StepSeconds:
        """Also fills the teacher's cache, whose building belongs to no arm."""
        job = self._job(f"measure_{part}", getattr(self.form, part))
        job.advance(until=StageName.SEARCH)
        preflight = History(job.records).preflight()
        learn = search_run(job.spec, starting_choices(dimensions_of(job.spec)), preflight)
        views = job.spec.training.views
        job.run(
            _proposals(
                "fill",
                [
                    learn.model_copy(update={"learn": None, "splits": splits, "epochs": views})
                    for splits in ("search", "proof")
                ],
            )
        )
        timed = learn.model_copy(update={"epochs": MEASURED_EPOCHS})
        kd = timed.model_copy(update={"learn": None, "process": plain_kd()})
        seconds = [
            min(_step_seconds(record.result) for record in job.run(_proposals(name, [run] * self.processes)))
            for name, run in (("timed_kd", kd), ("timed_search", timed))
        ]
        return StepSeconds(kd=seconds[0], search=seconds[1])

    def _schedule(self, part: str, form: Form) -> Figures:
        schedule: Schedule = getattr(form, part)
        job = self._job(part, schedule)
        job.advance(until=StageName.PROOF)
        seeds = list(range(form.seeds))
        proof = ProofOfSchedule(
            job, Seeds(seeds, seeds[: form.longer_seeds], seeds[: form.orientation_seeds])
        )
        chosen = proof.found.chosen.candidate
        self.say(f"{part:>6}: searched is {chosen.arm}, {len(chosen.process.pathways)} pathways")
        proof.compare()
        cost = self._replay_cost(part, job, proof)
        curves = {
            arm: [round(share * schedule.epochs) for share in shares]
            for arm, shares in ((Arm.PLAIN_KD, schedule.curve), (Arm.SEARCHED, schedule.searched_curve))
        }
        proof.beyond(proof.longer_epochs(cost), curves)
        return self._figures(proof, cost, curves)

    def _figures(self, proof: ProofOfSchedule, cost: float, curves: Mapping[Arm, Sequence[int]]) -> Figures:
        plain, searched = (proof.curve(arm, epochs) for arm, epochs in curves.items())
        for arm, curve in (("plain KD", plain), ("searched", searched)):
            figures = ", ".join(f"{count}: {_percent(runs.values())}" for count, runs in curve.items())
            self.say(f"{arm} by epochs: {figures}")
        arms = {arm.value: proof.accuracies(arm) for arm in Arm}
        for name, runs in arms.items():
            single = " ".join(f"{100 * one:.1f}" for one in runs.values())
            self.say(f"{name}: {_percent(runs.values())} ({single})")
        return Figures(
            epochs=proof.epochs,
            arms=arms,
            plain_curve=plain,
            searched_curve=searched,
            replay_cost=cost,
            search_seconds=proof.search_seconds(),
            tuning_seconds=proof.tuning_seconds(),
        )

    def _replay_cost(self, part: str, job: PooledJob, proof: ProofOfSchedule) -> float:
        noted = self.ledger.note(f"{part}_replay_cost")
        if noted is not None:
            return float(noted)
        runs = [proof_run(process, epochs=COST_EPOCHS) for process in (proof.found.searched, plain_kd())]
        replay, plain = _proposals("cost", runs)
        needed = tuple(record for record in job.records if record.key.stage is StageName.TEACHER)
        cost = self.pool.alone(replay_cost, job.spec.model_dump_json(), job.place, needed, replay, plain)
        self.ledger.write_note(f"{part}_replay_cost", cost)
        self.say(f"{part:>6}: a replayed step takes {cost:.3f} plain KD steps")
        return cost


def _proposals(name: str, runs: Sequence[RunParameters]) -> list[Proposal]:
    stages = [StageName.PROOF if run.splits == "proof" else StageName.SEARCH for run in runs]
    return [
        Proposal(TrialKey(stage, name, 0, index), run.model_dump(mode="json"))
        for index, (stage, run) in enumerate(zip(stages, runs, strict=True))
    ]


def _share_cache(directory: Path, shared: Path) -> None:
    """All parts read one teacher's cache."""
    shared.mkdir(parents=True, exist_ok=True)
    link = directory / "cache"
    if not link.exists():
        link.symlink_to(shared.resolve(), target_is_directory=True)


def _percent(accuracies: Iterable[float]) -> str:
    return f"{100 * fmean(accuracies):.2f}%"


def _step_seconds(result: dict[str, Any] | None) -> float:
    assert result is not None
    return float(result["seconds"]) / int(result["steps"])
