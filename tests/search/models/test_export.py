"""Students as files: plain timm loads them, with the same logits to the bit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from search.models import TappedModel, export_student, weights_sha256
from search.models.weights import read_metadata
from tests.search.models.building import build, images

MODELS_PAGE = Path(__file__).parents[3] / "docs" / "models.md"


class TestExport:
    @pytest.fixture
    def trained(self) -> TappedModel:
        model = build(data_mean=(0.30406,), data_std=(1 / 3,)).train()
        with torch.no_grad():
            for _ in range(3):
                model(images(16))
        return model.eval()

    def test_plain_timm_loads_the_file_alone_and_gives_the_same_bits(
        self, trained: TappedModel, tmp_path: Path
    ) -> None:
        path = tmp_path / "student.safetensors"
        export_student(trained, path, {"limbeck.role": "student"})
        loaded = timm.create_model("test_resnet", num_classes=10, in_chans=1, checkpoint_path=path).eval()
        metadata = read_metadata(path)
        mean, std = (torch.tensor(json.loads(metadata[key]))[:, None, None] for key in ("mean", "std"))
        with torch.no_grad():
            assert torch.equal(loaded((images(16) - mean) / std), trained(images(16)))
        assert json.loads(metadata["input_size"]) == [1, 32, 32]
        assert metadata["model"] == "test_resnet"
        assert metadata["interpolation"] == "bilinear"
        assert metadata["limbeck.role"] == "student"
        assert "img_size" not in metadata
        assert list(tmp_path.iterdir()) == [path]

    def test_it_comes_back_with_its_own_preprocessing(self, trained: TappedModel, tmp_path: Path) -> None:
        path = tmp_path / "student.safetensors"
        export_student(trained, path, {})
        again = build(weights=path, data_mean=(0.9,), data_std=(0.9,)).eval()
        assert again.preprocessing == trained.preprocessing
        with torch.no_grad():
            assert torch.equal(again(images()), trained(images()))

    def test_a_model_of_fixed_size_says_its_img_size(self, tmp_path: Path) -> None:
        model, path = build("test_vit").eval(), tmp_path / "student.safetensors"
        export_student(model, path, {})
        img_size = int(read_metadata(path)["img_size"])
        loaded = timm.create_model(
            "test_vit", num_classes=10, in_chans=1, img_size=img_size, checkpoint_path=path
        ).eval()
        with torch.no_grad():
            assert torch.equal(loaded((images() - 0.3) / torch.tensor(0.25)), model(images()))
        assert weights_sha256(build("test_vit", seed=9, weights=path)) == weights_sha256(model)

    @pytest.mark.parametrize("name", ["test_vit", "test_resnet", "resnet8_w8"])
    def test_the_documented_lines_load_it(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first example by its metadata alone, the second as a folder without any argument, the third by
        Limbeck, which normalises images itself."""
        model = build(name).eval()
        monkeypatch.chdir(tmp_path)
        export_student(model, Path("student.safetensors"), {})
        found: dict[str, Any] = {}
        for example in re.findall(r"```python\n(.*?)```", MODELS_PAGE.read_text(), re.DOTALL):
            exec(example, found)
            with torch.no_grad():
                is_whole = "load_student" in example
                given = images() if is_whole else (images() - 0.3) / torch.tensor(0.25)
                logits = found["model"].eval()(given)
                assert torch.equal(logits, model(images()))

    def test_a_net_that_timm_does_not_know_says_what_registers_it(self, tmp_path: Path) -> None:
        export_student(build("resnet8_w8"), tmp_path / "own.safetensors", {})
        export_student(build("test_resnet"), tmp_path / "timms.safetensors", {})
        own, timms = (read_metadata(tmp_path / f"{name}.safetensors") for name in ("own", "timms"))
        assert "requires_import" not in timms
        known = "import timm; print(timm.is_model('resnet8_w8'))"
        for code, said in ((known, "False"), (f"import {own['requires_import']}; {known}", "True")):
            answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert answer.stdout.strip() == said
