"""Every published system that a method claims to carry has a test of the property by which it is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from search.registry import load_built_in, methods

TESTS = Path(__file__).parent


def marked(source: str) -> Iterator[str]:
    """The ids in `pytest.mark.system("id")` of tests and classes of tests."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.system":
                    yield from (str(ast.literal_eval(argument)) for argument in decorator.args)


def claimed() -> dict[str, list[str]]:
    """By system the methods that carry it."""
    load_built_in()
    found: dict[str, list[str]] = {}
    for method in methods():
        for system in method.card.systems:
            found.setdefault(system, []).append(f"{method.kind}/{method.name}")
    return found


def test_each_claimed_system_is_tested_and_no_test_is_of_a_system_that_nobody_claims() -> None:
    tested = {system for file in TESTS.rglob("test_*.py") for system in marked(file.read_text())}
    assert tested == set(claimed())


def test_a_claim_without_a_test_would_be_found() -> None:
    source = (
        "import pytest\n@pytest.mark.system('one')\nclass TestOne:\n    pass\n"
        "@pytest.mark.slow\ndef test_two(): ...\n@pytest.mark.system('three')\ndef test_three(): ...\n"
    )
    assert list(marked(source)) == ["one", "three"]


def test_no_method_stands_for_two_systems() -> None:
    load_built_in()
    assert [method.name for method in methods() if len(method.card.systems) > 1] == []
