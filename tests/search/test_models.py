"""Models: taps in one pass, forward-mode derivatives, sizes, weights in and out."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.data import as_float
from search.models import (
    TappedModel,
    available_models,
    build_model,
    export_student,
    similar_models,
    weights_sha256,
)
from search.problems import SearchProblem
from search.taps import read_by_hooks
from search.weights import read_metadata
from tests.search.synthetic import blobs

FAMILIES = [
    "test_resnet",
    "resnet10t",
    "test_vit",
    "test_vit3",
    "test_convnext",
    "mobilenetv3_small_050",
    "mixer_s32_224",
    "test_efficientnet",
    "test_nfnet",
    "test_coatnet",
]
DIFFERENTIATED = [
    "test_resnet",
    "resnet10t",
    "test_vit",
    "test_vit3",
    "test_convnext",
    "mobilenetv3_small_050",
    "mixer_s32_224",
]


def build(name: str = "test_resnet", **changes: Any) -> TappedModel:
    arguments: dict[str, Any] = {
        "classes": 10,
        "channels": 1,
        "input_size": 32,
        "seed": 0,
        "data_mean": (0.3,),
        "data_std": (0.25,),
    }
    return build_model(name, **{**arguments, **changes})


def images(count: int = 4, *, size: int = 32, channels: int = 1) -> Tensor:
    return as_float(blobs(count, seed=3, size=size, channels=channels).images)


class _Taps(nn.Module):
    def __init__(self, model: TappedModel, stages: Sequence[int]) -> None:
        super().__init__()
        self.model, self.stages = model, stages

    def forward(self, images: Tensor) -> Tensor:
        logits, maps = self.model.forward_taps(images, self.stages)
        return torch.cat([logits.flatten(), *(value.flatten() for value in maps.values())])


@pytest.mark.parametrize("name", FAMILIES)
class TestTaps:
    def test_one_pass_gives_the_networks_own_logits_and_maps_of_the_stages_shapes(self, name: str) -> None:
        model, given = build(name), images()
        for mode in (True, False):
            model.train(mode)
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(0)
                expected = model.network((given - 0.3) / torch.tensor(0.25))
                torch.manual_seed(0)
                logits, maps = model.forward_taps(given, range(len(model.stages)))
                torch.manual_seed(0)
                plain = model(given)
            assert torch.equal(logits, plain)
            assert torch.allclose(logits, expected, atol=1e-5)
            for stage in model.stages:
                side = 32 / stage.reduction
                assert maps[stage.index].shape == (4, stage.channels, side, side)

    def test_a_handful_of_stages_from_first_to_last(self, name: str) -> None:
        stages = build(name).stages
        assert 3 <= len(stages) <= 5
        assert [stage.index for stage in stages] == list(range(len(stages)))
        assert stages[0].depth == 0.0
        assert stages[-1].depth == 1.0
        assert [stage.depth for stage in stages] == sorted({stage.depth for stage in stages})

    def test_asking_for_fewer_stages_gives_the_same_maps(self, name: str) -> None:
        model = build(name).eval()
        with torch.no_grad():
            every = model.forward_taps(images(), range(len(model.stages)))[1]
            last = len(model.stages) - 1
            logits, some = model.forward_taps(images(), [last, 1, 1])
        assert set(some) == {1, last}
        assert all(torch.equal(some[stage], every[stage]) for stage in some)
        assert logits.shape == (4, 10)

    def test_gradients_flow_from_every_stage(self, name: str) -> None:
        model = build(name).train()
        _, maps = model.forward_taps(images(), range(len(model.stages)))
        first = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
        for value in maps.values():
            (gradient,) = torch.autograd.grad(value.square().sum(), first, retain_graph=True)
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", DIFFERENTIATED)
class TestForwardMode:
    def test_the_derivative_along_a_tangent_is_the_gradient_and_the_difference_quotient(
        self, name: str
    ) -> None:
        """In training mode, with copies of the buffers, through the taps, in float64."""
        model = build(name).double().train()
        taps, given = _Taps(model, range(len(model.stages))), images().double()
        generator = torch.Generator().manual_seed(1)

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).double()

        # Away from timm's start, where the last BatchNorm of a block is zero and ReLU sits on its kink.
        start = {key: value.detach() + 0.05 * noise(value) for key, value in taps.named_parameters()}
        tangent = {key: noise(value) for key, value in start.items()}

        def value(parameters: dict[str, Tensor]) -> Tensor:
            buffers = {key: buffer.clone() for key, buffer in taps.named_buffers()}
            output: Tensor = torch.func.functional_call(taps, (parameters, buffers), (given,))
            return output.square().mean()

        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            duals = {key: forward_ad.make_dual(start[key], tangent[key]) for key in start}
            found = float(forward_ad.unpack_dual(value(duals)).tangent)

        leaves = {key: tensor.clone().requires_grad_() for key, tensor in start.items()}
        gradients = torch.autograd.grad(value(leaves), list(leaves.values()), allow_unused=True)
        along = sum(
            float((gradient * tangent[key]).sum())
            for key, gradient in zip(leaves, gradients, strict=True)
            if gradient is not None
        )
        assert found == pytest.approx(along, rel=1e-9)

        step = 1e-8  # small, so that hardly any unit passes the kink of its activation
        with torch.no_grad():
            above, below = (
                float(value({key: start[key] + sign * step * tangent[key] for key in start}))
                for sign in (1, -1)
            )
        assert found == pytest.approx((above - below) / (2 * step), rel=1e-4)

    def test_copied_buffers_leave_the_models_own_alone(self, name: str) -> None:
        model = build(name).train()
        before = {key: value.clone() for key, value in model.named_buffers()}
        copies = {key: value.clone() for key, value in model.named_buffers()}
        torch.func.functional_call(model, (dict(model.named_parameters()), copies), (images(),))
        assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
        counters = [key for key in copies if key.endswith("num_batches_tracked")]
        assert all(int(copies[key]) == 1 for key in counters)
        assert all(copies[key].dtype == torch.int64 for key in counters)

    def test_nothing_in_place_is_left(self, name: str) -> None:
        for module in build(name).modules():
            assert getattr(module, "inplace", False) is not True


class TestHooks:
    def test_they_give_what_forward_intermediates_gives(self) -> None:
        model = build("test_resnet").eval()
        given = (images() - 0.3) / 0.25
        with torch.no_grad():
            logits, maps = read_by_hooks(model.network, given, range(5))
            expected = model.forward_taps(images(), range(5))
        assert torch.equal(logits, expected[0])
        assert all(torch.equal(maps[index], expected[1][index]) for index in range(5))
        assert not any(module._forward_hooks for module in model.modules())


class TestSeeds:
    def test_weights_depend_on_the_seed_alone_and_the_random_state_stays(self) -> None:
        torch.manual_seed(11)
        state = torch.get_rng_state()
        first = weights_sha256(build(seed=1))
        torch.rand(3)
        second, other = weights_sha256(build(seed=1)), weights_sha256(build(seed=2))
        torch.set_rng_state(state)
        build("test_vit", seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert first == second != other

    def test_the_hash_sees_every_bit(self) -> None:
        model = build()
        before = weights_sha256(model)
        with torch.no_grad():
            model.network.conv1[0].weight.view(-1)[0] += 1e-7
        assert weights_sha256(model) != before


class TestInputs:
    def test_images_are_normalised_inside(self) -> None:
        model = build(data_mean=(0.1, 0.2, 0.3), data_std=(0.5, 0.6, 0.7), channels=3).eval()
        given = images(channels=3)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
        with torch.no_grad():
            assert torch.equal(model(given), model.network((given - mean) / std))

    def test_normalisation_is_no_part_of_the_state(self) -> None:
        assert all(name.startswith("network.") for name in build().state_dict())

    def test_a_model_of_fixed_size_is_built_for_the_datas(self) -> None:
        model = build("test_vit")
        assert model.img_size == model.preprocessing.size == 32
        assert model.network.patch_embed.img_size == (32, 32)

    def test_else_for_the_next_multiple_of_its_patch_with_images_resized(self) -> None:
        model = build("test_vit", input_size=40)
        assert model.img_size == model.preprocessing.size == 48
        assert model(images(size=40)).shape == (4, 10)
        assert model.stages[-1].reduction == pytest.approx(40 / 3)

    def test_else_it_keeps_its_own_size_with_images_resized(self) -> None:
        model = build("efficientformer_l1")
        assert model.img_size is None
        assert model.preprocessing.size == 224
        assert model(images(2)).shape == (2, 10)

    def test_an_exact_size_that_cannot_be_had_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(SearchProblem, match=r"test_vit.*40x40.*multiple of 16") as caught:
            build("test_vit", input_size=40, exact_size=True)
        assert caught.value.code == "input_size_unsupported"

    def test_enlarging_beyond_sense_is_refused(self) -> None:
        with pytest.raises(SearchProblem, match="efficientformer_l1") as caught:
            build("efficientformer_l1", input_size=8)
        assert caught.value.code == "input_size_unsupported"


class TestNames:
    def test_an_unknown_name_is_refused_with_suggestions(self) -> None:
        with pytest.raises(SearchProblem, match="test_resnet") as caught:
            build("test_resnett")
        assert caught.value.code == "unknown_model"

    @pytest.mark.parametrize(
        "name", ["hf-hub:timm/test_resnet.r160_in1k", "local-dir:/etc", "test_resnet.no_such_tag", ""]
    )
    def test_only_timms_own_names_count(self, name: str) -> None:
        with pytest.raises(SearchProblem) as caught:
            build(name)
        assert caught.value.code == "unknown_model"

    def test_all_architectures_are_listed(self) -> None:
        names = available_models()
        assert {"test_resnet", "resnet18", "vit_tiny_patch16_224"} <= set(names)
        assert similar_models("reznet18")[0] in names


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
        monkeypatch.setattr("search.models._cached_files", lambda config: [file])
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
