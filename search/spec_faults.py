"""What is wrong with a spec, said so that it can be mended: field, message, remedy. Imports pydantic only.

API, client and command line all show pydantic's errors through `explain_validation`.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from search.spec import JobSpec

SHOWN_INPUT_CHARACTERS = 60
SUGGESTIONS = 3
MAX_FAULTS = 100  # a hostile document has 80,000; explaining them all took 26 s
Location = tuple[int | str, ...]
Explainer = Callable[[Mapping[str, Any], Location, type[BaseModel]], tuple[str, str]]
"""(pydantic's error, where, the model) -> (message, remedy)."""


@dataclass(frozen=True)
class SpecFault:
    """One thing that is wrong. `field` is a path such as `budget.trials`; empty for the document itself."""

    field: str
    message: str
    remedy: str


def explain_validation(error: ValidationError, model: type[BaseModel] = JobSpec) -> list[SpecFault]:
    """Pydantic's errors (at most 100) in plain words, with the nearest known field for each unknown one."""
    problems = _of_one_alternative(error.errors(include_url=False)[:MAX_FAULTS])
    return [_explain(problem, model) for problem in problems]


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known names that are nearest to a mistaken one, as a question; None where nothing is near.

    Near is what is spelled alike, or else what contains the name.
    """
    folded, by_folded = name.casefold(), {candidate.casefold(): candidate for candidate in sorted(known)}
    near = difflib.get_close_matches(folded, by_folded, n=SUGGESTIONS, cutoff=0.6)
    near = near or [candidate for candidate in by_folded if len(folded) > 2 and folded in candidate]
    names = [repr(by_folded[candidate]) for candidate in near[:SUGGESTIONS]]
    return f"did you mean {' or '.join(names)}?" if names else None


def _of_one_alternative(problems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where a value may be a name or a list, pydantic lists what is wrong with it as either.

    Only what is wrong with what it was meant as is kept, without pydantic's words for the alternatives.
    """
    kept = []
    for problem in problems:
        location = tuple(problem["loc"])
        tags = [place for place, part in enumerate(location) if _is_alternative(part)]
        if tags:
            asked = _was_list(problems, location[: tags[0]])
            if location[tags[0]].startswith("list") != asked:
                continue
        plain = tuple(part for part in location if not _is_alternative(part))
        kept.append({**problem, "loc": plain, "has_alternatives": bool(tags)})
    return kept


def _is_alternative(part: int | str) -> bool:
    """Whether a part of a location is no field but a type or its tag: `list[list[int]]`, `<name>`."""
    return isinstance(part, str) and part.startswith(("literal[", "list[", "<"))


def _was_list(problems: Sequence[Mapping[str, Any]], place: Location) -> bool:
    """Whether a list was given at this place, by the alternative that is a name."""
    return any(
        tuple(problem["loc"][:-1]) == place
        and str(problem["loc"][-1]).startswith("literal[")
        and isinstance(problem["input"], list | tuple)
        for problem in problems
    )


def _explain(problem: Mapping[str, Any], model: type[BaseModel]) -> SpecFault:
    location: Location = tuple(problem["loc"])
    field = ".".join(map(str, location))
    message, remedy = _explainer(problem["type"])(problem, location, model)
    return SpecFault(field, message, remedy)


def _unknown_field(problem: Mapping[str, Any], location: Location, model: type[BaseModel]) -> tuple[str, str]:
    name = str(location[-1])
    owner = _model_at(model, location[:-1])
    known = sorted(owner.model_fields) if owner else []
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == name]
    guess = did_you_mean(name, known)
    if elsewhere and (guess is None or len(elsewhere) == 1):
        guess = f"it belongs at {' or '.join(elsewhere[:SUGGESTIONS])};"
    listed = f"known fields: {', '.join(known)}"
    return f"unknown field {_shown(name)}", f"{guess} {listed}" if guess else listed


def _missing_field(problem: Mapping[str, Any], location: Location, model: type[BaseModel]) -> tuple[str, str]:
    described = _described(model, location)
    return "is missing", f"give {location[-1]}" + (f": {described}" if described else "")


def _no_such_value(problem: Mapping[str, Any], location: Location, model: type[BaseModel]) -> tuple[str, str]:
    expected, found = str(problem["ctx"]["expected"]), problem["input"]
    guess = did_you_mean(found, re.findall(r"'([^']*)'", expected)) if isinstance(found, str) else None
    remedy = f"use {expected}" + (", or a list" if problem.get("has_alternatives") else "")
    said = _shown(found) or _kind(found)
    return f"must not be {said}", f"{guess} {remedy}" if guess else remedy


def _own_sentence(problem: Mapping[str, Any], location: Location, model: type[BaseModel]) -> tuple[str, str]:
    """The spec's own validators say what is wrong; after a semicolon, what to do."""
    sentence = str(problem["ctx"]["error"])
    message, semicolon, remedy = sentence.rpartition("; ")
    return (message, remedy) if semicolon else (sentence, f"correct {'.'.join(map(str, location))}")


def _bound(relation: str, context: str) -> Explainer:
    def explain(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
        limit = f"{relation} {problem['ctx'][context]:.12g}"
        return f"must be {limit}, found {_shown(problem['input'])}", f"give a number {limit}"

    return explain


def _type(expected: str) -> Explainer:
    def explain(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
        found = problem["input"]
        is_quoted_number = isinstance(found, str) and expected.endswith("number")
        said = " ".join(filter(None, (_kind(found), _shown(found))))
        remedy = f"give {expected}, without quotation marks" if is_quoted_number else f"give {expected}"
        return f"must be {expected}, found {said}", remedy

    return explain


def _not_a_list(problem: Mapping[str, Any], location: Location, model: type[BaseModel]) -> tuple[str, str]:
    """What a list is to hold is in the field's description."""
    message, remedy = _type("a list")(problem, location, model)
    example = f", such as [{json.dumps(problem['input'])}]" if isinstance(problem["input"], str) else ""
    described = _described(model, location)
    return message, remedy + example + (f": {described}" if described else "")


def _length(what: str, relation: str, context: str) -> Explainer:
    def explain(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
        limit = problem["ctx"][context]
        noun = what if limit == 1 else f"{what}s"
        return f"must have {relation} {limit} {noun}", f"give {relation} {limit} {noun}"

    return explain


def _malformed(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
    return (
        f"{_shown(problem['input'])} is no name",
        "a name begins with a letter or digit and has letters, digits and . _ : / @ + - only",
    )


def _broken_json(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
    return f"is not valid JSON: {problem['ctx']['error']}", "send one complete JSON document"


def _in_pydantics_words(problem: Mapping[str, Any], *_: object) -> tuple[str, str]:
    return str(problem["msg"]), "see the job spec's schema at /docs"


_WORDS: dict[str, Explainer] = {
    "extra_forbidden": _unknown_field,
    "missing": _missing_field,
    "literal_error": _no_such_value,
    "value_error": _own_sentence,
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "finite_number": _type("a finite number"),
    "int_type": _type("a whole number"),
    "int_from_float": _type("a whole number"),
    "float_type": _type("a number"),
    "string_type": _type("a text"),
    "bool_type": _type("true or false"),
    "list_type": _not_a_list,
    "dict_type": _type("an object"),
    "model_type": _type("an object"),
    "model_attributes_type": _type("an object"),
    "string_too_short": _length("character", "at least", "min_length"),
    "string_too_long": _length("character", "at most", "max_length"),
    "too_short": _length("item", "at least", "min_length"),
    "too_long": _length("item", "at most", "max_length"),
    "string_pattern_mismatch": _malformed,
    "json_invalid": _broken_json,
}


def _explainer(kind: str) -> Explainer:
    return _WORDS.get(kind, _in_pydantics_words)


def _shown(found: Any) -> str:
    """An input as it is quoted back: short, and nothing of objects and lists but their kind."""
    if isinstance(found, dict | list | tuple) or found is None:
        return ""
    text = repr(found)
    return text if len(text) <= SHOWN_INPUT_CHARACTERS else f"{text[: SHOWN_INPUT_CHARACTERS - 3]}..."


def _kind(found: Any) -> str:
    """JSON's word for a value's type."""
    kinds: Sequence[tuple[type, str]] = ((bool, ""), (str, "the text"), (dict, "an object"), (list, "a list"))
    if found is None:
        return "null"
    return next((kind for of, kind in kinds if isinstance(found, of)), "")


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that a path leads to; list indices and keys of mappings lead into their items."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None or isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        current = _model_inside(field.annotation) if field else None
    return current


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `list[Teacher]` or `Range | None`."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    inside = (_model_inside(argument) for argument in typing.get_args(annotation))
    return next((found for found in inside if found is not None), None)


def _described(model: type[BaseModel], location: Location) -> str | None:
    """The description of the field at a path."""
    names = [part for part in location if isinstance(part, str)]
    owner = _model_at(model, tuple(names[:-1])) if names else None
    field: FieldInfo | None = owner.model_fields.get(names[-1]) if owner else None
    return field.description if field else None


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The paths of all fields of a model and of those inside it."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        inner = _model_inside(field.annotation)
        paths += _paths(inner, f"{prefix}{name}.") if inner else []
    return paths
