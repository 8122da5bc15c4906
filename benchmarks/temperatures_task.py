"""Learned temperatures against fixed ones on the CIFAR-10 task: what is trained, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.cifar10_figures import lower, points
from benchmarks.pooled_job import PooledJob
from benchmarks.results import Result
from search.planning.arms import kd, proof_run
from search.planning.history import accuracy
from search.recipe import Process
from search.records import Learning, Proposal, RunParameters, StageName, TrialKey, TrialRecord

TEMPERATURES_ONLY = "temperatures_only"
"""The hypergradient that `benchmarks.temperatures_only` registers."""
USUAL = 4.0
"""The field's fixed temperature, at which learned ones start."""
WEIGHT = 1.0
LEARNING_RATE = 0.1
MODES = ("separate", "tied")
Accuracies = Mapping[int, float]


@dataclass(frozen=True)
class Form:
    """How much is run."""

    grid: tuple[float, ...]
    epochs: int
    seeds: int


FULL = Form(grid=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0), epochs=20, seeds=5)
QUICK = Form(grid=(1.0, 2.0, 4.0, 8.0), epochs=8, seeds=3)


@dataclass(frozen=True)
class Outcome:
    """Test accuracies by arm and seed, and what was learned."""

    arms: Mapping[str, Accuracies]
    validation: Mapping[float, float]
    best: float
    learned: Mapping[str, Sequence[Process]]


def fixed_run(temperature: float, *, epochs: int) -> RunParameters:
    """KD at a temperature, judged on validation."""
    return RunParameters(process=kd(temperature=temperature, weight=WEIGHT), epochs=epochs, splits="search")


def learning_run(mode: str, *, epochs: int) -> RunParameters:
    """KD that learns its temperatures, of teacher and student apart or tied, and nothing else."""
    learn = Learning(
        learning_rate=LEARNING_RATE,
        tie_temperatures=mode == "tied",
        hypergradient=TEMPERATURES_ONLY,
        at_constant_length=True,
        record_points=33,
    )
    return RunParameters(process=kd(temperature=USUAL, weight=WEIGHT), epochs=epochs, learn=learn)


def run(job: PooledJob, form: Form) -> Outcome:
    """The grid on validation; temperatures learned for each seed; then everything on test."""
    seeds = range(form.seeds)
    on_validation = job.run(
        _proposal(f"fixed_{temperature:g}", seed, fixed_run(temperature, epochs=form.epochs))
        for temperature in form.grid
        for seed in seeds
    )
    validation = _by_temperature(form, on_validation)
    best = max(form.grid, key=lambda temperature: validation[temperature])
    learned = {
        mode: [
            _process(record)
            for record in job.run(
                _proposal(mode, seed, learning_run(mode, epochs=form.epochs)) for seed in seeds
            )
        ]
        for mode in MODES
    }
    fixed = {"t4": [kd(temperature=USUAL, weight=WEIGHT)] * form.seeds}
    fixed["best_fixed"] = [kd(temperature=best, weight=WEIGHT)] * form.seeds
    arms = {
        arm: _proved(job, arm if best != USUAL or arm != "best_fixed" else "t4", processes, form)
        for arm, processes in {**fixed, **learned}.items()
    }
    return Outcome(arms, validation, best, learned)


def results(outcome: Outcome) -> list[Result]:
    """The figures: paired differences with 95% lower bounds, and the temperatures themselves."""
    found = [Result("temperatures_best_fixed", outcome.best, "temperature")]
    for mode in MODES:
        ends = [process.points[-1] for process in outcome.learned[mode]]
        found += [
            Result(
                f"temperatures_{mode}_teacher_end",
                fmean(e.teacher_temperatures[0] for e in ends),
                "temperature",
            ),
            Result(
                f"temperatures_{mode}_student_end",
                fmean(e.student_temperatures[0] for e in ends),
                "temperature",
            ),
        ]
        for baseline in ("t4", "best_fixed"):
            pair = outcome.arms[mode], outcome.arms[baseline]
            name = f"temperatures_{mode}_vs_{baseline}"
            found += [
                Result(f"{name}_points", points(*pair), "points"),
                Result(f"{name}_lower", lower(*pair), "points"),
            ]
    return found


def _proved(job: PooledJob, arm: str, processes: Sequence[Process], form: Form) -> Accuracies:
    records = job.run(
        _proposal(f"{arm}_replayed", seed, proof_run(process, epochs=form.epochs))
        for seed, process in enumerate(processes)
    )
    return {record.key.seed: accuracy(record) for record in records}


def _by_temperature(form: Form, records: Sequence[TrialRecord]) -> dict[float, float]:
    found = iter(records)
    return {temperature: fmean(accuracy(next(found)) for _ in range(form.seeds)) for temperature in form.grid}


def _process(record: TrialRecord) -> Process:
    assert record.result is not None
    return Process.model_validate(record.result["process"])


def _proposal(name: str, seed: int, parameters: RunParameters) -> Proposal:
    stage = StageName.PROOF if parameters.splits == "proof" else StageName.SEARCH
    return Proposal(TrialKey(stage, name, seed, 0), parameters.model_dump(mode="json"))
