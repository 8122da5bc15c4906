"""Imports point one way: the table of which package may import what, and what a process really loads.

The rules with names are in pyproject.toml (import-linter). Here are those that name what *is* allowed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("search", "service", "workers", "limbeck", "migrations")

# Who may import which of our modules; the longest matching name on the left counts.
MAY_IMPORT = {
    "search": ("search",),
    "service.store": ("service.store", "search.spec", "service.settings"),
    "service.settings": ("service.settings", "search.spec"),
    "service": ("service", "search.spec", "search.recipe", "search.catalogue_checks", "search.label_free"),
    "migrations": ("migrations", "search.spec", "service.settings", "service.store"),
    "workers": ("workers", "search", "service.store", "service.files", "service.settings", "service.logs"),
    "service.logs": (),
    "limbeck": ("limbeck", "search.spec"),
}

# Who alone may import a library, so that one place changes with it.
SOLE_IMPORTERS = {
    "ray": ("workers.tune",),
    "optuna": ("search.strategies", "search.planning.pruning"),
    "sqlalchemy": ("service.store", "migrations"),
    "alembic": ("service.store", "migrations"),
    "fastapi": ("service",),
    "jinja2": ("service.web",),
    "fsspec": ("service.remote_files",),
    "httpx": ("limbeck",),
    "timm": ("search.models", "search.cifar_nets", "search.training.optimizers", "search.training.averaging"),
    "safetensors": ("search.models.weights",),
    "sklearn": ("search.datasets", "search.evaluation_without_labels"),
    "kornia": ("search.augment",),
    "PIL": ("search.datasets",),
    "pyarrow": ("search.datasets",),
}

# What the base installation is enough for, and what only the extras bring.
LIGHT = ("limbeck", "limbeck.command", "search.spec")
TORCH_FREE = (
    *("spec", "plan", "planning", "recipe", "records", "problems", "pathway_rules", "strategies", "registry"),
    *("dimensions", "label_free", "method_card", "combinations", "allowed_choices"),
)
TORCH = {"torch", "torchvision", "timm", "ray"}
SERVER_ONLY = {"fastapi", "sqlalchemy", "alembic", "uvicorn", "jinja2", "structlog"}
WORKER_ONLY = TORCH | {"optuna", "numpy", "pandas", "scipy", "sklearn", "safetensors", "psutil", "kornia"}

BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocker())
"""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def within(module: str, *names: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def our_imports() -> Iterator[tuple[str, str]]:
    """(importer, imported) among our modules; a package's own __init__, which holds nothing, is left out."""
    for importer in sorted(module for module in graph().modules if within(module, *PACKAGES)):
        for imported in sorted(graph().find_modules_directly_imported_by(importer)):
            if within(imported, *PACKAGES) and imported not in PACKAGES:
                yield importer, imported


def allowed(importer: str) -> tuple[str, ...]:
    return MAY_IMPORT[max((name for name in MAY_IMPORT if within(importer, name)), key=len)]


def test_every_package_imports_only_what_the_table_allows() -> None:
    assert [pair for pair in our_imports() if not within(pair[1], *allowed(pair[0]))] == []


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_a_library_has_one_place(library: str) -> None:
    importers = sorted(graph().find_modules_that_directly_import(library))
    assert importers, f"nothing imports {library}: is it still needed?"
    assert [importer for importer in importers if not within(importer, *SOLE_IMPORTERS[library])] == []


def test_the_named_import_contracts_hold() -> None:
    lint = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    linter = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_the_client_needs_the_base_installation_only(module: str) -> None:
    run_python(f"import {module}", without=SERVER_ONLY | WORKER_ONLY)


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_plan_works_without_torch(name: str) -> None:
    run_python(f"import search.{name}", without=TORCH)


def test_strategies_register_without_torch() -> None:
    names = run_python(
        "import search.strategies\n"
        "from search.registry import Kind, methods\n"
        "print(*(method.name for method in methods(Kind.STRATEGY)))",
        without=TORCH,
    )
    assert "tpe" in names.split()


@pytest.mark.parametrize(
    "module", ["service.app", "service.__main__", "service.store.session", "workers.__main__"]
)
def test_the_server_never_loads_torch_or_ray(module: str) -> None:
    loaded = run_python(f"import sys, {module}; print(*sys.modules)").split()
    assert TORCH & {name.partition(".")[0] for name in loaded} == set()


@pytest.mark.parametrize("package", ["search", "workers"])
def test_a_package_imports_nothing_by_itself(package: str) -> None:
    loaded = run_python(
        f"import sys; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)"
    )
    assert loaded.split() == [package]


def run_python(code: str, *, without: Set[str] = frozenset()) -> str:
    """Run code in a fresh interpreter in which some libraries do not exist; what it printed."""
    lines = f"BLOCKED = {sorted(without)!r}\n{BLOCKER}\n{code}" if without else code
    process = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
