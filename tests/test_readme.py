"""What README and documentation name exists: commands, routes, methods; the quick start runs (slow)."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import pytest
import timm
from PIL import Image

from limbeck import Client, Job
from limbeck.submission import parse_spec
from search.data import open_dataset
from search.spec import JobSpec, Splits
from service.app import create_app
from service.settings import Settings
from service.store.session import open_store

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
}
TEXT = "\n".join([*PAGES.values(), (ROOT / "docker-compose.yml").read_text()])


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The commands of all shell blocks, as words; quoted arguments may span lines."""
    return [command for block in blocks(text, "bash") for command in split_commands(block)]


def split_commands(block: str) -> list[list[str]]:
    found: list[list[str]] = []
    waiting = ""
    for line in block.splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # a quotation that ends on a later line
            continue
        waiting = ""
        if words:
            found.append([Path(words[0]).name, *words[1:]])
    assert not waiting, f"a quotation does not end: {waiting}"
    return found


def mentioned(program: str) -> set[tuple[str, ...]]:
    """Calls of a program: whole ones from blocks, and `program word` from the prose."""
    whole = {tuple(words[1:]) for page in PAGES.values() for words in commands(page) if words[0] == program}
    short = {tuple(rest.split()) for rest in re.findall(rf"`(?:\w+=\S+ )*{program} ([^`]+)`", TEXT)}
    return whole | short


@cache
def help_of(*command: str) -> str:
    """What a command says of itself; fails where there is no such command."""
    process = subprocess.run(
        [*command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(BIN), "COLUMNS": "200"},
    )
    assert process.returncode == 0, f"{' '.join(command)}: {process.stderr}"
    return process.stdout


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for call in mentioned("make") for word in call if "=" not in word}
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_make_target_is_explained() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) - {"test-tools"} == set(re.findall(r"make ([a-z-]+)", shown))


@pytest.mark.parametrize("call", sorted(mentioned("limbeck")), ids=" ".join)
def test_limbeck_commands_exist(call: tuple[str, ...]) -> None:
    text = help_of(str(BIN / "limbeck"), call[0])
    assert [word for word in call if word.startswith("--") and word not in text] == []


@pytest.mark.parametrize("call", sorted(mentioned("python")), ids=" ".join)
def test_modules_run_with_these_options(call: tuple[str, ...]) -> None:
    flag, module, *words = call
    assert flag == "-m"
    assert is_runnable(module)
    if words:  # without any, as `python -m workers`, asking for help may start it
        text = help_of(sys.executable, "-m", module, *takewhile(lambda word: word[0] != "-", words))
        assert [word for word in words if word.startswith("--") and word not in text] == []


def is_runnable(module: str) -> bool:
    found = find_spec(module)
    is_package = found is not None and found.submodule_search_locations is not None
    return find_spec(f"{module}.__main__") is not None if is_package else found is not None


def test_routes_exist(sqlite_url: str, tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url), open_store(sqlite_url))
    known = {re.sub(r"\{\w+\}", "{}", path) for path in app.openapi()["paths"]}
    routes = re.findall(r"(?<![\w.])/v1(?:/[\w{}]+)+", TEXT)
    assert {re.sub(r"\{\w+\}", "{}", route) for route in routes} - known == set()
    assert len(routes) > 5


def test_jobs_in_requests_are_valid() -> None:
    bodies = [words[words.index("-d") + 1] for words in commands(PAGES["README.md"]) if "-d" in words]
    assert [JobSpec.model_validate(json.loads(body)).name for body in bodies] == ["digits"]


def test_models_that_are_named_exist() -> None:
    named = set(re.findall(r"\btest_(?:resnet|efficientnet|vit|convnext)\w*", TEXT))
    assert {"test_resnet", "test_efficientnet"} <= named
    assert named - set(timm.list_models("test_*")) == set()


@pytest.mark.parametrize("block", [block for page in PAGES.values() for block in blocks(page, "yaml")])
def test_job_files_are_valid(block: str) -> None:
    JobSpec.model_validate(parse_spec(block, name="block"))


@pytest.mark.parametrize(
    "block",
    [
        block
        for name, page in PAGES.items()
        if name != "docs/datasets.md"  # tests/search/data/test_documentation.py opens its tables
        for block in blocks(page, "toml")
    ],
)
def test_data_set_files_are_valid(block: str, tmp_path: Path) -> None:
    (path,) = re.findall(r'^path = "(.*)"', block, re.MULTILINE)
    for number in range(20):
        image = (
            tmp_path / "data" / ("train" if number < 16 else "test") / f"class-{number % 2}" / f"{number}.png"
        )
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(image)
    file = tmp_path / "datasets.toml"
    file.write_text(block.replace(path, str(tmp_path / "data")))
    (name,) = re.findall(r"^\[datasets\.(\w+)\]", block, re.MULTILINE)
    dataset = open_dataset(name, Splits(train=8, meta=4, validation=4, test=4), datasets_file=file)
    assert dataset.classes == 2


@pytest.mark.parametrize(
    "block", [block for page in PAGES.values() for block in blocks(page, "python") if "client." in block]
)
def test_methods_exist(block: str) -> None:
    called = [node.func for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    names = [ast.unparse(function).split(".") for function in called]
    assert [
        name for name in names if name[0] == "client" and not hasattr(getattr(Client(), name[1]), name[2])
    ] == []
    assert [name for name in names if name[0] == "job" and not hasattr(Job, name[1].partition("(")[0])] == []
    assert {name[0] for name in names} >= {"client", "job"}
