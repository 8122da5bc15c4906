"""How much of the CIFAR-10 benchmark is run, and what that will take."""

from __future__ import annotations

from dataclasses import dataclass, replace

PROOF_IMAGES, SEARCH_IMAGES = 5000, 3000
REPLAY_STEP = 1.15
"""A replayed step over a plain KD step, before it is measured."""
CANDIDATES = 4.5
"""Edits of a learned process that are replayed on validation."""


@dataclass(frozen=True)
class Schedule:
    """One part of the benchmark. `curve`, `searched_curve`: other numbers of epochs that plain KD and the
    searched process train for, as shares of `epochs`. A meta batch of None has as many images as a batch.
    The fewer updates the process has, the larger is its learning rate: it has to get as far."""

    epochs: int
    search_epochs: int
    trials: int
    batch_size: int = 128
    learning_rate: float = 0.2
    update_every_steps: int = 1
    meta_batch_size: int | None = None
    process_learning_rate: float = 0.1
    distances: tuple[str, ...] = ("mse", "attention")
    rounds: int = 1
    replay_seeds: int = 1
    curve: tuple[float, ...] = ()
    searched_curve: tuple[float, ...] = ()


@dataclass(frozen=True)
class Form:
    """Both schedules, the numbers of seeds, and the wall time to which the long schedule is cut."""

    short: Schedule
    long: Schedule
    seeds: int
    longer_seeds: int
    orientation_seeds: int
    minutes: float


FULL = Form(
    short=Schedule(12, 12, trials=1, rounds=2, replay_seeds=2),
    long=Schedule(
        60,
        60,
        trials=1,
        batch_size=32,
        learning_rate=0.4,
        update_every_steps=4,
        meta_batch_size=64,
        process_learning_rate=0.03,
        distances=("hcl", "attention"),
        replay_seeds=2,
        curve=(0.25, 0.5, 2.0),
        searched_curve=(0.25, 0.5),
    ),
    seeds=5,
    longer_seeds=3,
    orientation_seeds=2,
    minutes=115,
)
QUICK = Form(
    short=Schedule(6, 6, trials=1),
    long=replace(
        FULL.long,
        epochs=20,
        search_epochs=20,
        process_learning_rate=0.06,
        replay_seeds=1,
        curve=(0.5, 2.0),
        searched_curve=(0.5,),
    ),
    seeds=2,
    longer_seeds=1,
    orientation_seeds=1,
    minutes=19,
)


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of a schedule's step with all processes at work: of plain KD, and of the search, its updates
    spread over all steps."""

    kd: float
    search: float


def device_seconds(form: Form, schedule: Schedule, step: StepSeconds) -> float:
    """What one schedule will take, over all processes; evaluations left out."""
    batch = schedule.batch_size
    proof_epoch, search_epoch = PROOF_IMAGES // batch * step.kd, SEARCH_IMAGES // batch * step.kd
    learning = schedule.trials + schedule.rounds - 1
    replays = CANDIDATES * schedule.replay_seeds * search_epoch * REPLAY_STEP
    search = schedule.search_epochs * (learning * SEARCH_IMAGES // batch * step.search + replays)
    run = schedule.epochs * proof_epoch
    compared = form.seeds * (2 + 2 * REPLAY_STEP) * run + form.orientation_seeds * run
    longer = form.longer_seeds * (3 * REPLAY_STEP * run + search)
    curves = form.orientation_seeds * (sum(schedule.curve) + REPLAY_STEP * sum(schedule.searched_curve)) * run
    return 2 * search + compared + longer + curves


def planned(form: Form, *, short: StepSeconds, long: StepSeconds, processes: int) -> Form:
    """The form with its long schedule cut, in proof and search alike, until all of it fits its minutes.

    `short`, `long`: what a step of either schedule takes.
    """
    room = 60 * processes * form.minutes - device_seconds(form, form.short, short)
    wanted = device_seconds(form, form.long, long)
    share = min(1.0, max(room, 0.0) / wanted)
    epochs = max(form.short.epochs, int(share * form.long.epochs))
    if epochs >= form.long.epochs:
        return form
    search_epochs = max(1, round(form.long.search_epochs * epochs / form.long.epochs))
    return replace(form, long=replace(form.long, epochs=epochs, search_epochs=search_epochs))
