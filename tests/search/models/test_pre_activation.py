"""Maps before a stage's last activation, where there is one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F  # noqa: N812

from search.augment import views
from search.data import as_float
from search.distill import Distillation
from search.records import Learning
from search.spec import Training
from tests.search.cached_teacher import EVERY, cache, teacher
from tests.search.cached_teacher import images as images_to_cache
from tests.search.models.building import build, images
from tests.search.training.runs import make_run, model, searching

# The stages that end in an activation, and which.
ENDING = {
    "resnet8_w8": ([0, 1, 2], F.relu),
    "vgg8_cifar": ([0, 1, 2, 3, 4], F.relu),
    "shufflenetv1_cifar": ([0, 1, 2], F.relu),
    "resnet10t": ([0, 1, 2, 3, 4], F.relu),
    "test_byobnet": ([0, 1, 2, 3, 4], F.relu),
    "wrn_16_1_cifar": ([], None),
    "resnetv2_18": ([], None),
    "test_vit": ([], None),
    "test_convnext": ([], None),
}


@pytest.mark.parametrize("name", ENDING)
def test_the_activation_of_these_maps_is_the_output_and_other_stages_are_tapped_there(name: str) -> None:
    stages, activation = ENDING[name]
    model = build(name).train()
    assert model.pre_activation_stages == stages
    every = range(len(model.stages))
    logits, maps = copy.deepcopy(model).forward_taps(images(), every)
    same, before = model.forward_taps(images(), every, taps="pre_activation")
    assert torch.equal(same, logits)
    for stage in every:
        if activation is None:
            assert torch.equal(before[stage], maps[stage])
        else:
            # A block whose last BatchNorm starts at zero passes on what the block before has activated.
            assert stage > 0 or (before[stage] < 0).any()
            assert torch.equal(activation(before[stage]), maps[stage])


def test_one_module_that_activates_several_times_is_known_by_the_call() -> None:
    """timm's SENets have one ReLU per block, called twice or more in it."""
    model = build("legacy_seresnet18").eval()
    every = range(len(model.stages))
    with torch.no_grad():
        maps = model.forward_taps(images(), every)[1]
        before = model.forward_taps(images(), every, taps="pre_activation")[1]
    assert model.pre_activation_stages
    for stage in model.pre_activation_stages:
        assert torch.equal(before[stage].relu(), maps[stage])


def test_they_are_differentiable_in_both_modes() -> None:
    model = build("resnet8_w8").double().train()
    given = images().double()
    weight = model.network.stem[0].weight
    tangent = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    value = model.forward_taps(given, [2], taps="pre_activation")[1][2].square().sum()
    (gradient,) = torch.autograd.grad(value, weight)
    with torch.no_grad(), forward_ad.dual_level():
        original = weight.detach().clone()
        del model.network.stem[0].weight
        model.network.stem[0].weight = forward_ad.make_dual(original, tangent)
        dual = model.forward_taps(given, [2], taps="pre_activation")[1][2].square().sum()
        along = forward_ad.unpack_dual(dual).tangent
    assert float(along) == pytest.approx(float((gradient * tangent).sum()), rel=1e-9)


def test_nothing_is_kept_after_a_pass_nor_without_asking() -> None:
    model = build("resnet8_w8")
    model.forward_taps(images(), [0], taps="pre_activation")
    assert model._before._watch.seen is None
    with pytest.raises(RuntimeError):
        model.forward_taps(torch.rand(1, 7, 32, 32), [0], taps="pre_activation")
    assert model._before._watch.seen is None


class TestProcess:
    """A process that taps there: by the loop, its hypergradient and the teacher's cache."""

    def runs(self) -> tuple[Distillation, Distillation]:
        found = []
        for taps in ("output", "pre_activation"):
            process = searching(model("test_resnet", seed=1), model("resnet8_w8", seed=2))
            process = process.model_copy(update={"taps": taps})
            training = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
            learn = Learning(learning_rate=0.05)
            found.append(make_run(training, process=process, student="resnet8_w8", learn=learn))
        return found[0], found[1]

    def test_its_losses_are_those_of_these_maps(self) -> None:
        output, before = self.runs()
        batch = before.batch()
        every = before.losses.teacher_stages()
        assert before.teacher is not None
        with torch.no_grad():
            expected = before.teacher.forward_taps(batch.images, every, taps="pre_activation")[1]
            _, maps = copy.deepcopy(before.student).forward_taps(
                batch.images, before.losses.student_stages(), taps="pre_activation"
            )
            twin = copy.deepcopy(before.losses)
            twin.scales.fill_(1.0)
            twin.is_measured = True
            raw = twin.pathway_losses(maps, batch.teacher_maps)
        assert all(torch.equal(batch.teacher_maps[stage], expected[stage]) for stage in every)
        for run in (output, before):
            next(run.steps())
        assert torch.allclose(before.losses.scales, raw, rtol=1e-5)
        assert not torch.allclose(before.losses.scales, output.losses.scales, rtol=1e-2)
        moved = [point.pathway_weights for point in before.recorded().points]
        assert moved[0] != before.parameters.process.points[0].pathway_weights

    def test_a_teachers_maps_before_and_behind_are_kept_apart(self, tmp_path: Path) -> None:
        whole = teacher().eval()
        seen = as_float(views(images_to_cache().images, indices=EVERY, seed=7, view=0, policy="shift"))
        for taps in ("pre_activation", "output"):
            kept = cache(tmp_path, stages=[2], taps=taps).read(EVERY, 0, [2])[1][2]
            with torch.no_grad():
                expected = whole.forward_taps(seen, [2], taps=taps)[1][2]
            assert torch.allclose(kept, expected, rtol=1e-3, atol=1e-5)
            assert bool((kept < 0).any()) == (taps == "pre_activation")
