"""Write the tables of fields and settings in docs/ from the pydantic models, so that both say the same.

`python -m tools.schema_tables` writes, `--check` only says whether a page is out of date. A page holds
`<!-- generated: MODULE:MODEL -->` and `<!-- end -->`; what stands between them is replaced.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_settings import BaseSettings

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(<!-- generated: (?P<module>[\w.]+):(?P<model>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LIMITS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
HEAD = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]

Schema = dict[str, Any]


def main() -> int:
    """Write or check every page; the exit status is 1 when a checked page is out of date."""
    parser = argparse.ArgumentParser(description="Write the tables of fields in docs/ from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a page is out of date")
    check = parser.parse_args().check
    stale = [page for page in sorted(DOCS.rglob("*.md")) if render(page.read_text()) != page.read_text()]
    for page in stale:
        if not check:
            page.write_text(render(page.read_text()))
        outcome = "is out of date: run `make docs`" if check else "written"
        sys.stderr.write(f"{page.relative_to(DOCS.parent)} {outcome}\n")
    return int(check and bool(stale))


def render(text: str) -> str:
    """The page's text with every generated block replaced."""

    def replace(match: re.Match[str]) -> str:
        model = getattr(importlib.import_module(match["module"]), match["model"])
        written = variables(model) if issubclass(model, BaseSettings) else tables(model)
        return f"{match[1]}\n{written}\n{match[4]}"

    return BLOCK.sub(replace, text)


def tables(model: type[BaseModel]) -> str:
    """One table per model: `model` first, then those of its home that it refers to, as first mentioned."""
    models = [model]
    for part in models:  # grows while it is read
        mentioned = (found for field in part.model_fields.values() for found in _models_in(field.annotation))
        here = (found for found in mentioned if _home(found) == _home(model))
        models += [other for other in dict.fromkeys(here) if other not in models]
    return "\n".join(_table(part) for part in models)


def variables(settings: type[BaseSettings]) -> str:
    """One table of environment variables, with the defaults that a user without any of them has."""
    prefix = settings.model_config["env_prefix"].upper()
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]
    defaults = settings(home="~/.limbeck")
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        value = getattr(defaults, name)
        shown = "" if value is None else f"`{str(value).replace(f'-{os.getuid()}', '-USER_ID')}`"
        lines.append(f"| `{prefix}{name.upper()}` | {shown} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _home(model: type[BaseModel]) -> str:
    """The module or package of a document: `search.spec` for all parts of the job spec."""
    return ".".join(model.__module__.split(".")[:2])


def _table(model: type[BaseModel]) -> str:
    lines = [f"### {model.__name__}", "", " ".join((model.__doc__ or "").split()), "", *HEAD]
    for name, part in model.model_json_schema().get("properties", {}).items():
        field = model.model_fields[name]
        own = {found.__name__ for found in _models_in(field.annotation) if _home(found) == _home(model)}
        meaning = part.get("description") or _summary(field.annotation)
        cells = (f"`{name}`", _type(part, own=own), _default(model, name), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _summary(annotation: Any) -> str:
    """A field that is a model, and says nothing itself, means what the model's first sentence says."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return ""
    return (annotation.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):  # {}: an empty object has all defaults
        value = value.model_dump(mode="json", exclude_defaults=True)
    return f"`{json.dumps(value)}`"


def _type(part: Schema, *, own: set[str]) -> str:
    if "$ref" in part:
        name = part["$ref"].rsplit("/", 1)[1]
        return (
            f"[{name}]({'' if name in own else 'job-spec.md'}#{name.lower()})"
            if name != "JsonValue"
            else "any JSON"
        )
    if "anyOf" in part:
        return " or ".join(_type(choice, own=own) for choice in part["anyOf"])
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of {_type(part.get('items', {}), own=own)}"
    kind = "map" if part.get("type") == "object" else part.get("type", "any JSON")
    limits = [f"{sign} {_number(part[key])}" for key, sign in LIMITS.items() if key in part]
    return f"{kind} {' and '.join(limits)}".strip()


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else str(value)


if __name__ == "__main__":
    sys.exit(main())
