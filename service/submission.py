"""From a request's body to a job that may be stored: everything that can be said at once is said here.

What needs the data or the models themselves is left to preflight, in a worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from search.catalogue_checks import SpecFault, check_spec, explain_validation, requirements
from search.spec import JobSpec
from service.authentication import Principal
from service.dependencies import Services
from service.problems import Code, Fault, Problem
from service.store.jobs import NewJob
from service.strict_json import parse_json

SHOWN_CHARACTERS = 200
TOLD_FAULTS = 10
WEIGHTS_WORDS = ("train", "pretrained", "untrained")


def read_spec(body: bytes, services: Services) -> JobSpec:
    """The spec in the body. Raises Problem 422 naming all fields at fault, or 503 without a worker."""
    return checked_spec(parse_json(body), services)


def checked_spec(document: object, services: Services) -> JobSpec:
    """The spec, if its form is right, a live worker knows every name, and weights lie in the weights root."""
    if not isinstance(document, dict):
        remedy = 'Send an object: {"teachers": [...], "student": {...}}.'
        raise _refused([Fault(field="body", message="is not a JSON object", remedy=remedy)])
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        raise _refused(_faults(explain_validation(error))) from None
    faults = _faults(check_spec(spec, services.catalogues.required()))
    faults += weights_faults(spec, services.settings.weights_root)
    if faults:
        raise _refused(faults)
    return spec


def new_job(spec: JobSpec, *, principal: Principal, dry_run: bool, parent_id: str | None = None) -> NewJob:
    """The job to be queued; its spec has all defaults filled in."""
    return NewJob(
        spec=spec.model_dump(mode="json"),
        requirements=sorted(requirements(spec)),
        name=spec.name,
        dry_run=dry_run,
        labels=spec.labels,
        metadata=spec.metadata,
        parent_id=parent_id,
        api_key_id=principal.key_id,
    )


def weights_faults(spec: JobSpec, weights_root: Path) -> list[Fault]:
    """Weights that are no word of the spec must be a file inside the weights root, links resolved."""
    return [
        Fault(
            field=f"teachers.{index}.weights",
            message=f"{teacher.weights!r} is no file inside the weights root",
            remedy=f"Put the file below {weights_root} and name it relative to that, or use one of "
            f"{', '.join(f'`{word}`' for word in WEIGHTS_WORDS)}.",
        )
        for index, teacher in enumerate(spec.teachers)
        if teacher.weights not in WEIGHTS_WORDS and not _is_file_inside(weights_root, teacher.weights)
    ]


def _is_file_inside(root: Path, name: str) -> bool:
    try:
        place = (root / name).resolve(strict=True)
        return place.is_relative_to(root.resolve(strict=True)) and place.is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _faults(found: Iterable[SpecFault]) -> list[Fault]:
    """As the API shows them; what a user sent is echoed in bounds."""
    return [
        Fault(field=fault.field[:SHOWN_CHARACTERS] or "body", message=fault.message, remedy=fault.remedy)
        for fault in found
    ]


def _refused(faults: list[Fault]) -> Problem:
    told = [f"{fault.field}: {fault.message}" for fault in faults[:TOLD_FAULTS]]
    more = [f"and {len(faults) - TOLD_FAULTS} more"] if len(faults) > TOLD_FAULTS else []
    detail = "; ".join(told + more)
    return Problem(Code.INVALID_SPEC, detail, errors=faults)
