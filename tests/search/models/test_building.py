"""Models by name: seeds, sizes, normalisation, names."""

from __future__ import annotations

import pytest
import timm
import torch

from search.models import available_models, similar_models, weights_sha256
from search.problems import SearchProblem
from tests.search.models.building import build, images


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


class TestUnsupported:
    def test_a_model_that_cannot_take_the_channels_is_refused(self) -> None:
        with pytest.raises(SearchProblem, match=r"cannot sort 1-channel images into 10 classes") as caught:
            build("csatv2")
        assert caught.value.code == "model_unsupported"

    def test_an_encoder_is_no_classifier(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """timm's encoders (`qwen3_vit_88m_enc`) ignore the number of classes; here a small net does."""
        create = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda name, **kwargs: create(name, num_classes=0, in_chans=1)
        )
        with pytest.raises(SearchProblem, match="no classifier") as caught:
            build("test_resnet")
        assert caught.value.code == "model_unsupported"

    def test_overlapping_patches_ask_for_no_multiple(self) -> None:
        assert build("pvt_v2_b0").preprocessing.size == 32
