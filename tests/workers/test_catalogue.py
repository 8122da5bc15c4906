"""What a worker publishes: everything registered, plug-ins too; its own process stays without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.catalogue_checks import check_spec, offers, requirements
from tests.search.planning.simulated_job import make_spec
from workers.catalogue import CatalogueError, read_catalogue

PLUG_IN = '''
"""A plug-in of one distance, which talks while it is imported."""
from search.registry import Kind, register

print("hello from a plug-in")


@register(Kind.DISTANCE, "planted", source="tests")
def planted(student, teacher):
    """Planted by a test."""
    return (student - teacher).abs().mean()
'''


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed plug-in package."""
    (tmp_path / "planted_plug_in.py").write_text(PLUG_IN)
    metadata = tmp_path / "planted_plug_in-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-plug-in\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[limbeck.methods]\nplanted = planted_plug_in\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    return tmp_path


def test_names_methods_with_plug_ins_models_data_sets_and_versions(plug_in: Path) -> None:
    catalogue = read_catalogue()
    methods = {method["id"]: method for method in catalogue["methods"]}
    assert methods["distance/planted"]["summary"] == "Planted by a test."
    assert {"distance/mse", "logit_loss/kd", "strategy/tpe"} <= set(methods)
    assert "test_resnet" in catalogue["models"]
    assert "digits" in [dataset["name"] for dataset in catalogue["datasets"]]
    assert {"python", "torch", "timm", "ray"} <= set(catalogue["versions"])
    assert catalogue["devices"]["cpus"] >= 1
    spec = make_spec()
    assert check_spec(spec, catalogue) == []
    assert set(requirements(spec)) <= offers(catalogue)


def test_a_plug_in_that_breaks_is_an_error_with_its_words(plug_in: Path) -> None:
    (plug_in / "planted_plug_in.py").write_text("raise ZeroDivisionError('half a plug-in')")
    with pytest.raises(CatalogueError, match="half a plug-in"):
        read_catalogue()


def test_the_worker_itself_loads_neither_torch_nor_ray() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, workers.__main__; print(sorted({'torch', 'ray'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
