"""Is what a spec names in the catalogue? Shared by API, client and workers. Imports pydantic only.

The catalogue is plain JSON: `methods` (each with `id` and `kind`), `models` (names), `datasets` (each with
`name`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from search.allowed_choices import SETS, Cards, named_in, sets_of, why_no_choice
from search.combinations import facts_of
from search.method_card import Need
from search.registry import Kind
from search.setting_checks import parts_of_use, setting_faults, uses_in
from search.spec import JobSpec
from search.spec_faults import MAX_FAULTS, SpecFault, did_you_mean, explain_validation

__all__ = [
    "SpecFault",
    "check_combinations",
    "check_names",
    "check_spec",
    "explain_validation",
    "named_methods",
    "offers",
    "requirements",
]

MODEL, DATASET = "model", "dataset"
ALWAYS_USED = (("proof.arms", Kind.LOGIT_LOSS.value, "kd"),)
IN_SETS = {*(kind for _, kind in SETS), Kind.OPERATOR}
WHERE_TO_LOOK = {MODEL: "GET /v1/models", DATASET: "GET /v1/datasets"}
LISTED_NAMES = 12


def check_spec(spec: JobSpec, catalogue: Mapping[str, Any]) -> list[SpecFault]:
    """What `check_names` finds, and why not one choice of the space can be used; at most 100 faults."""
    return [*check_names(spec, catalogue), *check_combinations(spec, catalogue)][:MAX_FAULTS]


def check_combinations(spec: JobSpec, catalogue: Mapping[str, Any]) -> list[SpecFault]:
    """Why not one choice of the space can be used, by the catalogue's cards; empty where there is one."""
    fault = why_no_choice(spec.search.space, _cards(catalogue), facts_of(spec))
    return [] if fault is None else [fault]


def check_names(spec: JobSpec, catalogue: Mapping[str, Any]) -> list[SpecFault]:
    """What the spec names and the catalogue does not have, with the nearest names; settings that cannot be
    searched so; and outside of sets what needs labels that the job has not. At most 100 faults."""
    names = _names(catalogue)
    unknown = (
        _unknown(field, kind, name, names.get(kind, set()), names.get(Kind.OPERATOR, set()))
        for field, kind, name in _named(spec)
        if _catalogue_name(kind, name) not in names.get(kind, set())
    )
    faults = chain(unknown, setting_faults(spec, catalogue), label_faults(spec, catalogue))
    return list(islice(faults, MAX_FAULTS))


def label_faults(spec: JobSpec, catalogue: Mapping[str, Any]) -> Iterator[SpecFault]:
    """The methods that a job without labels names and that need them, by what the catalogue says.

    Not those of sets: a set that needs labels is passed over where there are others.
    """
    if spec.data.is_labelled:
        return
    needing = {
        (method["kind"], _name(method).removeprefix(f"{method['kind']}/"))
        for method in catalogue.get("methods", ())
        if Need.LABELS in method.get("needs", ())
    }
    for field, kind, name in _named(spec):
        if kind not in IN_SETS and (kind, name) in needing:
            yield SpecFault(
                field,
                f"{kind.replace('_', ' ')} {name!r} needs labels, and data.labels is `none`",
                "choose one that does not; docs/methods.md says what each needs",
            )


def named_methods(spec: JobSpec, cards: Cards) -> set[str]:
    """All methods that a job may use, as "kind/name": those that its spec names, and those that, by these
    cards, their settings name."""
    found = {f"{kind}/{name}" for _, kind, name in _named(spec) if kind not in (MODEL, DATASET)}
    for field, kind in SETS:
        for uses in sets_of(spec.search.space, field):
            found.update(named_in(uses, kind, cards))
    return found


def requirements(spec: JobSpec) -> list[str]:
    """What a worker must offer to carry the job out: sorted strings such as `model:test_resnet`."""
    return sorted({f"{kind}:{_catalogue_name(kind, name)}" for _, kind, name in _named(spec)})


def offers(catalogue: Mapping[str, Any]) -> set[str]:
    """What a worker with this catalogue can serve, in the words of `requirements`."""
    return {f"{kind}:{name}" for kind, names in _names(catalogue).items() for name in names}


def _named(spec: JobSpec) -> Iterator[tuple[str, str, str]]:
    """(field, kind, name) of everything that a spec takes from the catalogue."""
    for index, teacher in enumerate(spec.teachers):
        yield f"teachers.{index}.model", MODEL, teacher.model
    yield "student.model", MODEL, spec.student.name
    yield "data.name", DATASET, spec.data.name
    if spec.data.out_of_distribution is not None:
        yield "data.out_of_distribution", DATASET, spec.data.out_of_distribution
    yield "training.augmentation", Kind.AUGMENTATION.value, spec.training.augmentation
    yield "search.strategy", Kind.STRATEGY.value, spec.search.strategy
    yield "search.process.normalisation", Kind.NORMALISATION.value, spec.search.process.normalisation
    yield "search.process.hypergradient", Kind.HYPERGRADIENT.value, spec.search.process.hypergradient
    for field, kind, use in uses_in(spec):
        for part_kind, name in parts_of_use(kind, use):
            yield field, part_kind.value, name
    yield from ALWAYS_USED


def _catalogue_name(kind: str, name: str) -> str:
    """A model's name without its weights tag: `resnet18.a1_in1k` is the architecture `resnet18`."""
    return name.partition(".")[0] if kind == MODEL else name


def _cards(catalogue: Mapping[str, Any]) -> Cards:
    """The catalogue's methods by "kind/name"."""
    methods = catalogue.get("methods", ())
    return {f"{each['kind']}/{_name(each).removeprefix(each['kind'] + '/')}": each for each in methods}


def _names(catalogue: Mapping[str, Any]) -> dict[str, set[str]]:
    """The catalogue's names by kind."""
    names: dict[str, set[str]] = {
        MODEL: {_catalogue_name(MODEL, _name(entry)) for entry in catalogue.get("models", ())},
        DATASET: {_name(entry) for entry in catalogue.get("datasets", ())},
    }
    for method in catalogue.get("methods", ()):
        names.setdefault(method["kind"], set()).add(_name(method).removeprefix(f"{method['kind']}/"))
    return names


def _name(entry: str | Mapping[str, Any]) -> str:
    """An entry is a name, or an object with a `name`, or with an `id` such as `mse` or `distance/mse`."""
    return entry if isinstance(entry, str) else str(entry.get("name") or entry["id"])


def _unknown(
    field: str, kind: str, name: str, known: Collection[str], operators: Collection[str]
) -> SpecFault:
    what = kind.replace("_", " ")
    if kind == Kind.TRANSFORM and name in operators:
        return SpecFault(field, f"{name!r} is an operator", f"put a transform before it: identity+{name}")
    guess = did_you_mean(_catalogue_name(kind, name), known)
    where = WHERE_TO_LOOK.get(kind, f"GET /v1/methods?kind={kind}")
    listed = (
        f"known: {', '.join(sorted(known))}" if 0 < len(known) <= LISTED_NAMES else f"{where} lists them all"
    )
    return SpecFault(field, f"unknown {what} {name!r}", f"{guess} {listed}" if guess else listed)
