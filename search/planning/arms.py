"""The arms of a job: every way to train is a process, and how it is run. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any

from pydantic import JsonValue

from search.dimensions import Choices, Dimension, Interval, Options, number
from search.label_free import meta_loss_of
from search.pathway_rules import MapFacts, enumerate_pathways, fits
from search.planning.logit_givers import logit_givers
from search.planning.method_choices import (
    DISTANCES,
    FEATURE_LOSSES,
    LOGIT_LOSSES,
    TEMPERATURE_RULES,
    TRANSFORMS,
    as_uses,
    chosen_methods,
    feature_losses_of,
    logit_losses_of,
    setting_dimensions,
)
from search.planning.process_edits import averaged
from search.planning.process_rate import process_rate, process_rate_dimension
from search.recipe import AnyPathway, FeatureLoss, Pathway, Point, Process, Stage, constant
from search.records import Learning, PreflightResult, RunParameters
from search.spec import JobSpec, MethodUse, Range, name_of

LOGIT_LOSS_OF_KD = "kd"
LAST_PART = 2 / 3
"""From here on training shows what was learned: before, weights are still on their way."""


class ArmName(StrEnum):
    """The arms of proof, in the order of a report."""

    STUDENT_ALONE = "student_alone"
    PLAIN_KD = "plain_kd"
    TUNED_KD = "tuned_kd"
    LONGER_KD = "longer_kd"
    UNIFORM = "uniform"
    CONSTANT = "constant"
    SHUFFLED = "shuffled"
    SEARCHED = "searched"


def dimensions_of(spec: JobSpec) -> tuple[Dimension, ...]:
    """The job's search space as dimensions; a value listed twice counts once."""
    space = spec.search.space
    feature_losses = [as_uses(uses) for uses in space.feature_losses]
    rules = as_uses(space.temperature_rules or [])
    return (
        _options("connections", space.connections),
        _options(TRANSFORMS, [as_uses(uses) for uses in space.transforms]),
        _options(DISTANCES, [as_uses(uses) for uses in space.distances]),
        _options(LOGIT_LOSSES, [as_uses(uses) for uses in space.logit_losses]),
        *([_options(FEATURE_LOSSES, feature_losses)] if any(feature_losses) else []),
        *([_options(TEMPERATURE_RULES, rules)] if rules else []),
        *setting_dimensions(space),
        _options("taps", space.taps),
        process_rate_dimension(space),
        _options("update_every_steps", space.update_every_steps),
    )


def tuning_dimensions(spec: JobSpec) -> tuple[Dimension, ...]:
    """What tunes KD: temperature and, beside cross-entropy, weight."""
    temperature = _interval("temperature", spec.tuning.temperature)
    if not spec.data.is_labelled:
        return (temperature,)
    return (temperature, _interval("weight", spec.tuning.weight))


def pathways_of(choices: Choices, preflight: PreflightResult) -> list[AnyPathway]:
    """The pathways that a choice means for this pair of models; those that do not fit are left out.

    Feature losses follow: which of them fit, preflight has seen.
    """
    return pathways_between(
        choices,
        preflight.teacher_stages,
        preflight.student_stages,
        MapFacts.of(preflight.cards),
        input_size=preflight.input_size,
    )


def pathways_between(
    choices: Choices, teacher: list[Stage], student: list[Stage], facts: MapFacts, *, input_size: int
) -> list[AnyPathway]:
    """The pathways that a choice means between these stages, for images of `input_size`."""
    joined = enumerate_pathways(
        _connections(choices["connections"]),
        list(chosen_methods(choices, TRANSFORMS)),
        list(chosen_methods(choices, DISTANCES)),
        teacher,
        student,
        facts,
        input_size=input_size,
    )
    return [*joined, *feature_losses_of(choices)]


def why_no_stage(process: Process, preflight: PreflightResult) -> str | None:
    """Which stage of a process's pathways these models do not have; None where they have them all."""
    stages = {"teacher": preflight.teacher_stages, "student": preflight.student_stages}
    for pathway in process.pathways:
        if isinstance(pathway, FeatureLoss):
            continue
        asked = (pathway.teacher_stage, pathway.student_stage)
        for (model, found), index in zip(stages.items(), asked, strict=True):
            known = [stage.index for stage in found]
            if index not in known:
                has = f"the stages {', '.join(map(str, known))}" if known else "no stages"
                return f"{pathway.name} asks for stage {index} of the {model}, which has {has}"
    return None


def why_no_pathway(spec: JobSpec, preflight: PreflightResult) -> str | None:
    """Why not one choice of the space has a pathway that fits these models; None where there is one.

    Where the space has a feature loss, there is one. Where it has a logit loss, no pathway is needed if it
    allows `none` for connections, or if a model has no stages to tap: the search then learns the logit losses
    alone.
    """
    teacher, student = preflight.teacher_stages, preflight.student_stages
    space, has_stages = spec.search.space, bool(teacher and student)
    if any(space.feature_losses):
        return None
    if any(space.logit_losses) and ("none" in space.connections or not has_stages):
        return None
    every = {TRANSFORMS: _all_names(space.transforms), DISTANCES: _all_names(space.distances)}
    if any(pathways_of({"connections": as_choice(name), **every}, preflight) for name in space.connections):
        return None
    if not has_stages:
        return (
            "the teacher or the student has no stages that pathways could join, and there is no loss in "
            "search.space.logit_losses: add one"
        )
    pathway = Pathway(
        teacher_stage=teacher[-1].index,
        student_stage=student[-1].index,
        transform=name_of(space.transforms[0][0]),
        distance=name_of(space.distances[0][0]),
    )
    facts = MapFacts.of(preflight.cards)
    reason = fits(pathway, teacher[-1], student[-1], facts, input_size=preflight.input_size)
    return f"no pathway of search.space fits these models: {reason or 'no stages are connected'}"


def starting_process(
    spec: JobSpec,
    choices: Choices,
    pathways: Sequence[AnyPathway],
    cards: Mapping[str, Mapping[str, Any]],
) -> Process:
    """Where a search trial's process begins; held, it is the arm `uniform`. Cards are by "kind/name"."""
    losses = logit_losses_of(choices)
    has_cross_entropy = spec.data.is_labelled and not logit_givers(pathways, cards)
    return Process(
        cross_entropy_weight=1.0 if has_cross_entropy else 0.0,
        logit_losses=losses,
        pathways=list(pathways),
        taps="pre_activation" if choices["taps"] == "pre_activation" else "output",
        skip_below=spec.search.process.skip_below,
        points=[starting_weights(spec, len(losses), len(pathways))],
    )


def starting_weights(spec: JobSpec, logit_losses: int, pathways: int) -> Point:
    """The weights and temperatures of so many losses from which a search starts."""
    settings = spec.search.process
    return Point(
        progress=0.0,
        logit_weights=[settings.initial_logit_weight] * logit_losses,
        pathway_weights=[settings.initial_pathway_weight] * pathways,
        teacher_temperatures=[settings.initial_temperature] * logit_losses,
        student_temperatures=[settings.initial_temperature] * logit_losses,
    )


def is_at_constant_length(spec: JobSpec) -> bool:
    """Whether losses are judged, and trained with, at constant length of the student's gradient."""
    asked = spec.search.process.at_constant_length
    return spec.training.optimizer == "sgd" if asked is None else asked


def learning(spec: JobSpec, *, learning_rate: float, update_every_steps: int) -> Learning:
    """How a search run learns its process, with all that the spec says of it."""
    settings = spec.search.process
    return Learning(
        learning_rate=learning_rate,
        update_every_steps=update_every_steps,
        normalisation=settings.normalisation,
        pathway_weight_factor=settings.pathway_weight_factor,
        learn_temperatures=settings.learn_temperatures,
        tie_temperatures=settings.tie_temperatures,
        hypergradient=settings.hypergradient,
        lookahead_steps=settings.lookahead_steps,
        at_constant_length=is_at_constant_length(spec),
        average_decay=settings.average_decay,
        meta_loss=meta_loss_of(spec),
        retry_every_updates=settings.retry_every_updates,
        meta_batch_size=settings.meta_batch_size,
        record_points=settings.record_points,
    )


def search_run(spec: JobSpec, choices: Choices, preflight: PreflightResult) -> RunParameters:
    """A search trial: learns its process by hypergradient, from the starting process of its choices."""
    update_every_steps = int(number(choices["update_every_steps"]))
    steps = spec.budget.epochs_per_trial * preflight.steps_per_epoch["search"]
    return RunParameters(
        process=starting_process(spec, choices, pathways_of(choices, preflight), preflight.cards),
        epochs=spec.budget.epochs_per_trial,
        splits="search",
        learn=learning(
            spec,
            learning_rate=process_rate(choices, updates=steps // update_every_steps),
            update_every_steps=update_every_steps,
        ),
        choices=choices,
    )


def warm_started(run: RunParameters, learned: Process) -> RunParameters:
    """The search trial once more, from where it ended: the mean of what it learned in the last third."""
    start = averaged(learned, begin=LAST_PART)
    unmeasured = [
        pathway.model_copy(update={"scale": before.scale})
        for pathway, before in zip(start.pathways, run.process.pathways, strict=True)
    ]
    return run.model_copy(update={"process": start.model_copy(update={"pathways": unmeasured})})


def plain_kd(*, is_labelled: bool = True) -> Process:
    """Hinton's KD with the field's usual figures: 0.1 cross-entropy + 0.9 KL at T = 4; without labels the KL
    term alone."""
    if not is_labelled:
        return kd(temperature=4.0)
    return constant(cross_entropy_weight=0.1, logit_loss=LOGIT_LOSS_OF_KD, logit_weight=0.9, temperature=4.0)


def kd(*, temperature: float, weight: float | None = None) -> Process:
    """KD as it is tuned: cross-entropy, and the KL term at a weight and a temperature; without a weight the
    KL term alone."""
    return constant(
        cross_entropy_weight=0.0 if weight is None else 1.0,
        logit_loss=LOGIT_LOSS_OF_KD,
        logit_weight=1.0 if weight is None else weight,
        temperature=temperature,
    )


def tuning_run(spec: JobSpec, choices: Choices) -> RunParameters:
    """A tuning trial: KD at the chosen temperature and weight; without choices it is plain KD itself."""
    process = (
        kd(
            temperature=number(choices["temperature"]),
            weight=number(choices["weight"]) if spec.data.is_labelled else None,
        )
        if choices
        else plain_kd(is_labelled=spec.data.is_labelled)
    )
    return RunParameters(
        process=process, epochs=spec.budget.epochs_per_trial, splits="search", choices=choices
    )


def replay_run(spec: JobSpec, process: Process) -> RunParameters:
    """A run of a known process on the search splits, to be compared on validation."""
    return RunParameters(process=process, epochs=spec.budget.epochs_per_trial, splits="search")


def proof_run(process: Process, *, epochs: int) -> RunParameters:
    """A run of a known process on the proof splits."""
    return RunParameters(process=process, epochs=epochs, splits="proof")


def _options(name: str, values: Sequence[Any]) -> Options:
    return Options(name, tuple(value for place, value in enumerate(values) if value not in values[:place]))


def _interval(name: str, chosen: Range) -> Interval:
    return Interval(name, chosen.low, chosen.high, chosen.log)


def as_choice(connections: str | list[list[int]]) -> JsonValue:
    """Connections as a value of a choice."""
    return connections if isinstance(connections, str) else [list(pair) for pair in connections]


def _connections(value: object) -> str | list[list[int]]:
    if isinstance(value, list):
        return [[int(teacher), int(student)] for teacher, student in value]
    return str(value)


def _all_names(sets: Iterable[Iterable[str | MethodUse]]) -> list[JsonValue]:
    """Each once. Settings do not decide whether a pathway fits."""
    return list(dict.fromkeys(map(name_of, chain.from_iterable(sets))))
