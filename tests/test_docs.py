"""The documentation says what the code does: states, arrows, requirements, names, links, tables of fields."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from search.records import StageName, TrialState
from search.spec import JobSpec
from service.settings import Settings
from service.store import states

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
STATES = (ROOT / "docs" / "states.md").read_text()
JOBS, TRIALS = STATES.split("\n## Trials\n")


def rows(text: str, *, columns: int) -> list[list[str]]:
    """Cells of the table rows with so many columns, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and row[0] not in ("state", "arrow", "requirement")]


def codes_raised() -> set[str]:
    """The codes that the sources of `search` give to problems, to failed trials and to failed jobs."""
    nodes = (
        node for path in (ROOT / "search").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    )
    return {
        value.value
        for node in nodes
        for value in _codes_in(node)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


def _codes_in(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        named = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        is_first = isinstance(node.func, ast.Name) and node.func.id in ("Fail", "TrialError")
        return [*named, *node.args[:1]] if is_first else named
    if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["code"]:
        return [node.value]
    return []


class TestStates:
    @pytest.mark.parametrize(("text", "enum"), [(JOBS, states.JobState), (TRIALS, TrialState)])
    def test_the_states_are_those_of_the_code(self, text: str, enum: type[StrEnum]) -> None:
        documented = {row[0].strip("`"): row[2] == "yes" for row in rows(text, columns=3)}
        assert documented == {state.value: state.is_final for state in enum}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("text", [JOBS, TRIALS])
    def test_every_letter_of_the_diagram_is_explained(self, text: str) -> None:
        diagram = text.split("```")[1]
        assert sorted(re.findall(r"\b[A-Z]\b", diagram)) == [row[0] for row in rows(text, columns=5)]

    @pytest.mark.parametrize(("text", "enum"), [(JOBS, states.JobState), (TRIALS, TrialState)])
    def test_arrows_join_states_and_none_leaves_a_final_one(self, text: str, enum: type[StrEnum]) -> None:
        for _, start, end, _, _ in rows(text, columns=5):
            assert end in set(enum)
            assert start == "-" or not enum(start).is_final  # type: ignore[attr-defined]

    @pytest.mark.parametrize("row", rows(STATES, columns=5), ids=lambda row: row[0])
    def test_every_arrow_names_a_function(self, row: list[str]) -> None:
        module, _, name = row[4].strip("`").rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))

    def test_the_stores_reasons_are_listed(self) -> None:
        listed = STATES.split("## Why a job is where it is")[1].split("Drivers add")[0]
        assert set(re.findall(r"`([a-z_]+)`", listed)) - {"status_reason"} == set(states.Reason)

    def test_every_code_of_what_is_found_is_listed_and_no_other(self) -> None:
        """Those of data sets on their own page."""
        datasets = (ROOT / "docs" / "datasets.md").read_text().split("## What is refused")[1]
        tables = [STATES.split("### Codes of what was found")[1], datasets.split("\n## ")[0]]
        listed = {row[0].strip("`") for text in tables for row in rows(text, columns=2)} - {"code"}
        assert listed == codes_raised() | {"worker_died"}  # one of a choice of two, so not found there

    def test_the_stages_are_listed_in_order(self) -> None:
        listed = JOBS.split("### Stages of a running job")[1]
        assert re.findall(r"`([a-z_]+)`", listed.split(", in this order")[0]) == list(StageName)

    @pytest.mark.parametrize(
        "match", list(re.finditer(r"`LIMBECK_([A-Z_]+)` \((\d+)\)", STATES)), ids=lambda match: match[1]
    )
    def test_defaults_of_settings_are_right(self, match: re.Match[str]) -> None:
        assert Settings.model_fields[match[1].lower()].default == float(match[2])


class TestRequirements:
    @staticmethod
    def declared() -> dict[str, set[str]]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        groups = {"Base": project["dependencies"], **project["optional-dependencies"]}
        names = {group: {re.match(r"[\w-]+", line)[0] for line in lines} for group, lines in groups.items()}  # type: ignore[index]
        return {group: found - {"limbeck"} for group, found in names.items()}

    def test_every_requirement_has_its_line(self) -> None:
        page = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text()
        parts = {part.split()[0].strip("`:"): part for part in page.split("\n## ")[1:]}
        documented = {group: {row[0] for row in rows(parts[group], columns=3)} for group in self.declared()}
        assert documented == self.declared()


class TestPages:
    def test_generated_tables_are_current(self) -> None:
        check = [sys.executable, "-m", "tools.schema_tables", "--check"]
        process = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_links_lead_somewhere(self, page: Path) -> None:
        links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text())
        broken = [target + anchor for target, anchor in links if not link_exists(page, target, anchor)]
        assert broken == []

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_modules_and_files_that_are_named_exist(self, page: Path) -> None:
        text = page.read_text()
        paths = re.findall(
            r"`((?:search|service|workers|limbeck|migrations|docs|tests|tools)/[\w/.-]*)`", text
        )
        assert [path for path in paths if not (ROOT / path).exists()] == []
        modules = re.findall(r"`((?:search|service|workers|limbeck|migrations)(?:\.\w+)+)", text)
        assert [name for name in modules if not (name_exists(name) or is_spec_field(name))] == []

    def test_every_decision_is_in_the_index(self) -> None:
        folder = ROOT / "docs" / "adr"
        listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
        assert listed == {page.name for page in folder.glob("[0-9]*.md")}


def link_exists(page: Path, target: str, anchor: str) -> bool:
    file = (page.parent / target).resolve() if target else page
    if not anchor or not file.is_file():
        return file.exists()
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return anchor[1:] in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def is_spec_field(dotted: str) -> bool:
    """Whether a dotted name is a field of the job spec, such as `search.process.hypergradient`."""
    model: Any = JobSpec
    for name in dotted.split("."):
        fields = getattr(model, "model_fields", {})
        if name not in fields:
            return False
        model = fields[name].annotation
    return True


def name_exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, name = dotted.rpartition(".")
    return "." in module and name_exists(module) and hasattr(importlib.import_module(module), name)
