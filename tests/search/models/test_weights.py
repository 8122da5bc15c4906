"""Weights from files: exactly, or refused in words; nothing is executed or downloaded."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from search.models import weights_sha256
from search.problems import SearchProblem
from tests.search.models.building import build


class _Hostile:
    """Makes a directory when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.directory,)


class TestWeights:
    def test_safetensors_and_torch_files_are_loaded_exactly(self, tmp_path: Path) -> None:
        state = build(seed=5).network.state_dict()
        safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
        torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pt")
        for file in ("plain.safetensors", "wrapped.pth", "parallel.pt"):
            loaded = build(seed=0, weights=tmp_path / file)
            assert weights_sha256(loaded) == weights_sha256(build(seed=5))
            assert loaded.preprocessing.mean == (0.3,)

    @pytest.mark.parametrize("other", [{"classes": 7}, {"channels": 3, "data_mean": (0.3,) * 3}])
    def test_weights_of_another_shape_are_refused_by_name(
        self, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        std = (0.25,) * len(other.get("data_mean", (0.3,)))
        safetensors.torch.save_file(
            build(**other, data_std=std).network.state_dict(), tmp_path / "w.safetensors"
        )
        with pytest.raises(
            SearchProblem, match=r"w\.safetensors do not fit test_resnet.*in the file"
        ) as caught:
            build(weights=tmp_path / "w.safetensors")
        assert caught.value.code == "weights_do_not_fit"

    def test_weights_of_another_model_are_refused(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(build("test_convnext").network.state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(SearchProblem, match=r"missing.*unknown") as caught:
            build(weights=tmp_path / "w.safetensors")
        assert caught.value.code == "weights_do_not_fit"

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x80\x02not weights at all")
        with pytest.raises(SearchProblem) as caught:
            build(weights=tmp_path / name)
        assert caught.value.code == "weights_unreadable"

    def test_a_file_that_wants_to_run_code_is_refused_and_runs_nothing(self, tmp_path: Path) -> None:
        made = tmp_path / "made"
        torch.save({"state_dict": _Hostile(made)}, tmp_path / "w.pth")
        (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Hostile(made), protocol=2))
        for name in ("w.pth", "raw.pth"):
            with pytest.raises(SearchProblem) as caught:
                build(weights=tmp_path / name)
            assert caught.value.code == "weights_unreadable"
        assert not made.exists()
        pickle.loads((tmp_path / "raw.pth").read_bytes())
        assert made.exists()  # the file does run its code where it is unpickled

    def test_pretrained_weights_that_are_not_here_are_refused_without_a_download(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
        with pytest.raises(SearchProblem, match="nothing is downloaded") as caught:
            build("test_resnet", weights="pretrained")
        assert caught.value.code == "weights_unavailable"

    def test_pretrained_weights_from_the_cache_come_with_timms_normalisation(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        original = timm.create_model("test_resnet")
        (tmp_path / "checkpoints").mkdir()
        file = tmp_path / "checkpoints" / "test_resnet.safetensors"
        safetensors.torch.save_file(original.state_dict(), file)
        monkeypatch.setattr("search.models.pretrained.cached_files", lambda config: [file])
        model = build(
            "test_resnet",
            weights="pretrained",
            classes=1000,
            channels=3,
            data_mean=(0,) * 3,
            data_std=(1,) * 3,
        )
        assert weights_sha256(model) == weights_sha256(original)
        assert model.preprocessing.mean == tuple(original.pretrained_cfg["mean"])
        assert model.preprocessing.std == tuple(original.pretrained_cfg["std"])
