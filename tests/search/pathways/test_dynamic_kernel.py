"""Meta-KD-SR's dynamic kernels: the plain distance at the identity, the formula by hand, no way to zero."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from search.models import export_student
from search.pathways import PathwayLoss, build_pathway
from search.pathways.dynamic_kernel import DynamicKernel, convolved
from search.pathways.meta_parameters import meta_parameters, set_meta_parameters
from search.recipe import Pathway
from search.registry import Kind, methods
from search.spec import Training
from tests.search.pathways.maps import CASES, case_of, normal, stage
from tests.search.training.runs import make_run

DISTANCES = [method.name for method in methods(Kind.DISTANCE)]
SIZE = 233


def loss_of(transform: str, distance: str, *, student: int, teacher: int) -> PathwayLoss:
    pathway = Pathway(teacher_stage=0, student_stage=0, transform=transform, distance=distance)
    return build_pathway(pathway, student=stage(student), teacher=stage(teacher), seed=1).double()


def learned(student: int, teacher: int, *, seed: int = 7, size: float = 0.5) -> DynamicKernel:
    """A transform whose kernels depend on the maps."""
    torch.manual_seed(0)
    module = DynamicKernel(stage(student), stage(teacher)).double()
    set_meta_parameters(module, size * normal(SIZE, seed=seed))
    return module


@pytest.mark.system("meta_kd_sr")
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", CASES)
def test_at_the_identity_the_loss_is_the_plain_distance(name: str, distance: str) -> None:
    case = case_of(name)
    channels = {"student": case.student.channels, "teacher": case.teacher.channels}
    plain, kernels = (loss_of(each, distance, **channels) for each in ("projection", "dynamic_kernel"))
    kernels.transform.load_state_dict(plain.transform.state_dict(), strict=False)
    student, projected = (case.student_map.clone().requires_grad_() for _ in range(2))
    found, expected = kernels(student, case.teacher_map), plain(projected, case.teacher_map)
    assert torch.equal(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(student.grad, projected.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.system("meta_kd_sr")
def test_the_student_that_is_served_has_no_trace_of_it(tmp_path: Path) -> None:
    """Inference costs what it costs without."""
    pathway = Pathway(teacher_stage=1, student_stage=1, transform="dynamic_kernel", distance="l1")
    training = Training(batch_size=16, report_every_steps=1)
    written = []
    for pathways in ([pathway], []):
        run = make_run(training)
        process = run.parameters.process
        point = process.points[0].model_copy(update={"pathway_weights": [0.1] * len(pathways)})
        run = make_run(training, process=process.model_copy(update={"pathways": pathways, "points": [point]}))
        names = list(run.student.state_dict())
        next(run.steps())
        export_student(run.student, tmp_path / "student.safetensors", {})
        written.append(
            (names, list(run.student.state_dict()), (tmp_path / "student.safetensors").stat().st_size)
        )
    assert written[0] == written[1]
    assert written[0][0] == written[0][1]


def by_hand(student: np.ndarray, teacher: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides after the kernels, of one image's maps (C, H, W), loop by loop."""
    enter_weight, enter_bias = phi[:64].reshape(16, 4), phi[64:80]
    leave_weight, leave_bias = phi[80:224].reshape(9, 16), phi[224:]
    unit = [each / np.sqrt((each**2).mean()) for each in (student, teacher)]
    sides = np.zeros_like(student), np.zeros_like(teacher)
    for channel in range(len(student)):
        values, product = unit[0][channel], unit[0][channel] * unit[1][channel]
        said = [
            values.mean(),
            np.log(1 + (values**2).mean()),
            product.mean(),
            np.log(1 + (product**2).mean()),
        ]
        hidden = np.tanh(enter_weight @ said + enter_bias)
        kernel = (leave_weight @ hidden + leave_bias).reshape(3, 3)
        kernel[1, 1] += 1
        kernel /= np.abs(kernel).sum()
        for side, feature_map in zip(sides, (student, teacher), strict=True):
            padded = np.pad(feature_map[channel], 1)
            for row, column in np.ndindex(*feature_map.shape[1:]):
                side[channel, row, column] = (padded[row : row + 3, column : column + 3] * kernel).sum()
    return sides


def test_the_formula_by_hand() -> None:
    module = learned(3, 5)
    student, teacher = normal(2, 3, 4, 6, seed=0), normal(2, 5, 4, 6, seed=1).relu()
    with torch.no_grad():
        projected = module(student, (5, 4, 6))
        sides = module.both(student, teacher)
    phi = torch.cat([value.flatten() for value in meta_parameters(module).values()]).numpy()
    for image in range(2):
        expected = by_hand(projected[image].numpy(), teacher[image].numpy(), phi)
        for side, one in zip(sides, expected, strict=True):
            np.testing.assert_allclose(side[image].numpy(), one, rtol=1e-10, atol=1e-12)


def test_it_has_few_parameters_however_many_channels_there_are() -> None:
    for channels in (3, 512):
        found = meta_parameters(DynamicKernel(stage(channels), stage(2 * channels)))
        assert sum(value.numel() for value in found.values()) == SIZE


class TestKernels:
    def test_no_net_sends_the_maps_to_zero(self) -> None:
        """Of one size whatever the parameters: also where the net cancels the identity."""
        student, teacher = normal(4, 5, 6, 6, seed=0), normal(4, 5, 6, 6, seed=1)
        for size in (0.0, 0.5, 1e3):
            kernels = learned(5, 5, size=size).kernels(student, teacher)
            torch.testing.assert_close(kernels.abs().sum(dim=2), torch.ones(4, 5, dtype=torch.float64))
        module = learned(5, 5, size=0.0)
        with torch.no_grad():
            module.leave_bias[4] = 1e-3 - 1.0
        assert float(module.kernels(student, teacher)[0, 0, 4]) == pytest.approx(1.0)
        with torch.no_grad():
            module.leave_bias[4] = -1.0
        assert torch.isfinite(module.kernels(student, teacher)).all()

    def test_they_enlarge_no_map_and_each_lets_something_pass(self) -> None:
        """Of all waves the strongest comes through with a third at least, and none with more than it had."""
        kernels = learned(8, 8).kernels(normal(64, 8, 16, 16, seed=0), normal(64, 8, 16, 16, seed=1))
        gains = torch.fft.fft2(kernels.reshape(64, 8, 3, 3), s=(32, 32)).abs().amax(dim=(2, 3))
        assert float(gains.max()) <= 1 + 1e-12
        assert float(gains.min()) >= 1 / 3

    def test_they_depend_on_the_image_the_channel_and_the_teacher(self) -> None:
        module = learned(5, 5)
        student, teacher = normal(2, 5, 6, 6, seed=0), normal(2, 5, 6, 6, seed=1)
        kernels = module.kernels(student, teacher)
        assert (kernels[0] - kernels[1]).abs().amax() > 1e-3
        assert (kernels[:, 0] - kernels[:, 1]).abs().amax() > 1e-3
        assert (kernels - module.kernels(student, teacher.flip(2))).abs().amax() > 1e-3

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_they_ignore_how_large_the_maps_are(self, scale: float) -> None:
        module = learned(5, 5)
        student, teacher = normal(2, 5, 6, 6, seed=0), normal(2, 5, 6, 6, seed=1)
        torch.testing.assert_close(
            module.kernels(scale * student, teacher / scale), module.kernels(student, teacher)
        )

    def test_an_image_does_not_depend_on_the_others(self) -> None:
        module = learned(5, 5)
        student, teacher = normal(4, 5, 6, 6, seed=0), normal(4, 5, 6, 6, seed=1)
        torch.testing.assert_close(
            module.kernels(student, teacher)[1:2], module.kernels(student[1:2], teacher[1:2])
        )

    def test_shifted_sums_are_a_convolution(self) -> None:
        feature_map, kernels = normal(2, 3, 5, 4, seed=0), normal(2, 3, 9, seed=1)
        expected = torch.nn.functional.conv2d(
            feature_map.reshape(1, 6, 5, 4), kernels.reshape(6, 1, 3, 3), padding=1, groups=6
        )
        torch.testing.assert_close(convolved(feature_map, kernels), expected.reshape(2, 3, 5, 4))


class TestDerivatives:
    @pytest.mark.parametrize("distance", DISTANCES)
    @pytest.mark.parametrize("shape", [(3, 4, 3, 2), (2, 3, 1, 1)], ids=str)
    def test_by_maps_and_meta_parameters(self, distance: str, shape: tuple[int, ...]) -> None:
        """Reverse, forward and second derivatives, through both sides and through the kernels."""
        loss = loss_of("dynamic_kernel", distance, student=3, teacher=shape[1])
        student, teacher = normal(shape[0], 3, *shape[2:], seed=0), normal(*shape, seed=1)
        names = [f"transform.{name}" for name in meta_parameters(loss.transform)]
        phi = (0.3 * normal(SIZE, seed=2)).split([64, 16, 144, 9])

        def value(feature_map: Tensor, *values: Tensor) -> Tensor:
            shapes = [(16, 4), (16,), (9, 16), (9,)]
            named = dict(zip(names, map(Tensor.view, values, shapes), strict=True))
            found: Tensor = torch.func.functional_call(loss, named, (feature_map, teacher))
            return found

        leaves = [leaf.clone().requires_grad_() for leaf in (student, *phi)]
        torch.autograd.gradcheck(value, leaves, check_forward_ad=True, fast_mode=True)
        torch.autograd.gradgradcheck(value, leaves, fast_mode=True)

    @pytest.mark.parametrize("fill", [0.0, 1.0, 1e-6, 1e4])
    @pytest.mark.parametrize("distance", DISTANCES)
    def test_maps_that_say_nothing_give_finite_ones(self, distance: str, fill: float) -> None:
        loss = loss_of("dynamic_kernel", distance, student=4, teacher=4).float()
        set_meta_parameters(loss.transform, 0.5 * normal(SIZE, seed=3))
        flat, other = torch.full((3, 4, 4, 4), fill), normal(3, 4, 4, 4, seed=0, dtype=torch.float32)
        for student_map, teacher_map in ((flat, other), (other, flat), (flat, flat)):
            student = student_map.clone().requires_grad_()
            phi = {
                f"transform.{name}": value.clone().requires_grad_()
                for name, value in meta_parameters(loss.transform).items()
            }
            value = torch.func.functional_call(loss, phi, (student, teacher_map))
            found = torch.autograd.grad(value, [student, *phi.values()], create_graph=True)
            assert all(torch.isfinite(one).all() for one in (value, *found))
            along = torch.stack([one.sum() for one in found]).sum()
            if along.requires_grad:
                second = torch.autograd.grad(
                    along, [*phi.values()], allow_unused=True, materialize_grads=True
                )
                assert all(torch.isfinite(one).all() for one in second)
            with torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(student_map, other)
                assert torch.isfinite(forward_ad.unpack_dual(loss(dual, teacher_map)).tangent)


def test_the_teachers_side_moves_with_the_meta_parameters() -> None:
    """What the kernels make of the teacher's map is not held: the hypergradient goes through it too."""
    module = learned(4, 4)
    phi = {name: value.clone().requires_grad_() for name, value in meta_parameters(module).items()}
    student, teacher = normal(2, 4, 5, 5, seed=0), normal(2, 4, 5, 5, seed=1)

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self) -> Tensor:
            return self.inner.both(student, teacher)[1].square().sum()

    value = torch.func.functional_call(Both(), {f"inner.{name}": one for name, one in phi.items()}, ())
    assert all(one.abs().sum() > 0 for one in torch.autograd.grad(value, [*phi.values()]))


def test_what_it_declares_are_its_buffers() -> None:
    module = DynamicKernel(stage(4), stage(4))
    assert [*meta_parameters(module)] == [name for name, _ in module.named_buffers()]
    assert [name for name, _ in module.named_parameters()] == ["convolution.weight"]
    assert "233" in inspect.getdoc(DynamicKernel)  # type: ignore[operator]
