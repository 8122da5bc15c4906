"""Losses that give the student a part before its logits: folded into it, or served with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.distill import Distillation
from search.evaluation_without_labels import said_of
from search.features import Seen
from search.features.atsc import AdaptiveTeaching
from search.features.norm import grouped_error
from search.features.simkd import matching_error
from search.models import export_student, weights_sha256
from search.models.embedding import EMBEDDING
from search.models.exported import load_student
from search.models.head import LinearHead, linear_head, pools_last_map
from search.models.part import PART, GroupedExpansion, SharedClassifier, embedding_tap
from search.models.tapped import evaluating
from search.models.weights import read_metadata
from search.problems import SearchProblem
from search.recipe import FeatureLoss, LogitLoss, Point, Process
from search.records import Learning
from search.spec import Training
from search.training.precision import forward_taps
from tests.search.features.seen import built, model, pair, seen, value
from tests.search.features.seen import images as seen_images
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, weights

TRAINING = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
STUDENTS = ["resnet8_w8", "test_vit", "test_convnext", "test_efficientnet"]


def process(loss: str, config: dict[str, float] | None = None, *, weight: float = 1.0) -> Process:
    """Beside cross-entropy and KD, or alone where the loss owns the student's logits."""
    shares = loss != "norm"
    return Process(
        cross_entropy_weight=0.0 if shares else 1.0,
        logit_losses=[] if shares else [LogitLoss()],
        pathways=[FeatureLoss(loss=loss, config=config or {})],
        points=[
            Point(
                progress=0.0,
                logit_weights=[] if shares else [1.0],
                pathway_weights=[weight],
                teacher_temperatures=[] if shares else [2.0],
                student_temperatures=[] if shares else [2.0],
            )
        ],
    )


def run_of(
    loss: str, config: dict[str, float] | None = None, *, student: str = "resnet8_w8", weight: float = 1.0
) -> Distillation:
    return make_run(TRAINING, process=process(loss, config, weight=weight), student=student)


def images(count: int = 16) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(8))


def logits_of(network: nn.Module, given: Tensor) -> Tensor:
    with torch.no_grad(), evaluating(network):
        found: Tensor = network(given)
    return found


@pytest.mark.system("norm")
class TestManyToOne:
    def test_the_loss_of_the_groups_is_their_number_times_the_mean(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shown = torch.randn(3, 12, 4, 4, generator=generator, dtype=torch.float64)
        teacher = torch.randn(3, 4, 4, 4, generator=generator, dtype=torch.float64)
        found = grouped_error(shown, teacher, groups=3)
        by_group = [((shown[:, 4 * n : 4 * n + 4] - teacher) ** 2).mean() for n in range(3)]
        torch.testing.assert_close(found, torch.stack(by_group).sum())
        torch.testing.assert_close(found, 3 * F.mse_loss(shown, teacher.tile(1, 3, 1, 1)))
        assert grouped_error(teacher.tile(1, 3, 1, 1), teacher, groups=3) == 0

    def test_one_group_is_fitnets_loss_of_a_1x1_convolution_on_the_last_map(self) -> None:
        loss = built("norm", pair(), {"groups": 1})
        batch = seen(pair(), loss)
        student, part = model(pair().student.name), copy.deepcopy(loss.student_part)
        assert isinstance(part, GroupedExpansion)
        part = part.double().eval()
        with torch.no_grad():
            _, maps = student.forward_taps(seen_images()[: len(batch.targets)], [2])
            regressed = part.expanded(F.conv2d(maps[2], part.expand.weight))
        teacher = batch.teacher.maps[loss.teacher_taps[0]]
        torch.testing.assert_close(batch.student.maps[PART], regressed)
        expected = F.mse_loss(F.adaptive_avg_pool2d(regressed, teacher.shape[-2:]), teacher)
        torch.testing.assert_close(value(loss, batch), expected)

    def test_a_larger_map_of_the_teacher_is_max_pooled(self) -> None:
        teacher = torch.arange(32, dtype=torch.float64).reshape(1, 2, 4, 4)
        shown = F.max_pool2d(teacher, 2)
        assert grouped_error(shown, teacher, groups=1) == 0

    @pytest.mark.parametrize("student", STUDENTS)
    def test_folded_into_the_classifier_the_logits_are_the_same(self, student: str, tmp_path: Path) -> None:
        run = run_of("norm", student=student)
        finished(run)
        before = logits_of(run.trained, images())
        file = tmp_path / "student.safetensors"
        export_student(run.trained, file, {})
        plain = load_student(file)
        assert plain.part is None
        torch.testing.assert_close(logits_of(plain, images()), before, rtol=1e-5, atol=1e-5)
        without = copy.deepcopy(run.trained)
        without.part = None
        assert not torch.allclose(logits_of(without, images()), before, rtol=1e-2, atol=1e-2)

    def test_the_exported_student_is_timms_own(self, tmp_path: Path) -> None:
        run = run_of("norm", student="test_convnext")
        finished(run)
        file = tmp_path / "student.safetensors"
        export_student(run.trained, file, {})
        arguments = json.loads(read_metadata(file)["create_model"])
        network = timm.create_model(**arguments, checkpoint_path=file)
        normalised = (images() - 0.5) / 0.25
        expected = logits_of(run.trained, images())
        torch.testing.assert_close(logits_of(network, normalised), expected, rtol=1e-5, atol=1e-5)
        assert sum(value.numel() for value in network.parameters()) == run.trained.served_parameter_count

    def test_a_norm_before_the_classifier_is_seen_though_it_was_never_trained(self, tmp_path: Path) -> None:
        run = run_of("norm", student="starnet_s050")
        finished(run)
        file = tmp_path / "student.safetensors"
        before = logits_of(run.trained, images())
        export_student(run.trained, file, {})
        torch.testing.assert_close(logits_of(load_student(file), images()), before, rtol=1e-5, atol=1e-5)

    def test_in_float64_the_fold_is_exact(self) -> None:
        generator = torch.Generator().manual_seed(3)
        part = GroupedExpansion(6, 4, groups=2).double()
        for norm in (part.expanded, part.contracted):
            norm.running_mean = torch.randn(norm.num_features, generator=generator, dtype=torch.float64)
            norm.running_var = torch.rand(norm.num_features, generator=generator, dtype=torch.float64) + 0.5
        part.eval()
        classifier = nn.Linear(6, 3).double()
        last_map = torch.randn(5, 6, 3, 3, generator=generator, dtype=torch.float64)
        head = part.folded(LinearHead(classifier.weight.detach(), classifier.bias.detach()))
        expected = part(last_map, classifier).logits
        found = F.linear(last_map.mean(dim=(2, 3)), head.weight, head.bias)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.system("simkd")
class TestSharedClassifier:
    @pytest.mark.parametrize("teacher", ["resnet8_w8", "test_resnet", "test_vit3", "test_convnext"])
    def test_equal_features_give_the_teachers_logits(self, teacher: str) -> None:
        network = model(teacher)
        head = linear_head(network)
        assert head is not None
        part = SharedClassifier(3, head.weight.shape[1], len(head.weight)).double()
        part.take(head)
        part.projector = nn.Sequential()
        with torch.no_grad():
            last = len(network.stages) - 1
            logits, maps = network.forward_taps(images().double(), [last, EMBEDDING])
        given = maps[last] if pools_last_map(network) else maps[EMBEDDING]
        torch.testing.assert_close(part(given, nn.Identity()).logits, logits, rtol=1e-6, atol=1e-6)

    def test_the_loss_is_the_squared_error_at_the_smaller_size(self) -> None:
        generator = torch.Generator().manual_seed(1)
        shown = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
        target = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
        pooled = F.avg_pool2d(shown, 2)
        torch.testing.assert_close(matching_error(shown, target), F.mse_loss(pooled, target))
        torch.testing.assert_close(matching_error(target, shown), F.mse_loss(target, pooled))
        assert matching_error(target, target) == 0

    def test_the_students_own_classifier_learns_nothing_and_the_teachers_stays(self) -> None:
        run = run_of("simkd")
        before = weights(run)
        head = linear_head(run.teacher) if run.teacher else None
        assert head is not None
        finished(run)
        part = run.student.part
        assert isinstance(part, SharedClassifier)
        assert torch.equal(part.weight, head.weight)
        assert torch.equal(part.bias, head.bias)
        moved = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
        assert "part.projector.0.weight" in moved

    @pytest.mark.parametrize("loss", ["simkd", pytest.param("atsc", marks=pytest.mark.system("atsc"))])
    @pytest.mark.parametrize("student", ["resnet8_w8", "test_vit"])
    def test_exported_it_has_the_logits_of_training(self, loss: str, student: str, tmp_path: Path) -> None:
        run = run_of(loss, student=student)
        finished(run)
        before = logits_of(run.trained, images())
        file = tmp_path / "student.safetensors"
        export_student(run.trained, file, {})
        again = load_student(file)
        torch.testing.assert_close(logits_of(again, images()), before, rtol=1e-5, atol=1e-5)
        assert weights_sha256(again) == weights_sha256(run.trained)

    def test_a_part_that_is_not_finite_or_for_another_width_is_refused(self, tmp_path: Path) -> None:
        run = run_of("simkd")
        file = tmp_path / "student.safetensors"
        export_student(run.trained, file, {})
        metadata, state = read_metadata(file), safetensors.torch.load_file(file)
        state["part.weight"][0, 0] = float("nan")
        safetensors.torch.save_file(state, file, metadata)
        with pytest.raises(SearchProblem) as caught:
            load_student(file)
        assert caught.value.code == "weights_not_finite"
        other = make_run(TRAINING, process=process("simkd"), student="test_vit")
        export_student(other.trained, file, {})
        metadata = {**metadata, "limbeck_part": read_metadata(file)["limbeck_part"]}
        state = {
            **{name: value for name, value in state.items() if not name.startswith("part.")},
            **{n: v for n, v in safetensors.torch.load_file(file).items() if n.startswith("part.")},
        }
        safetensors.torch.save_file(state, file, metadata)
        with pytest.raises(SearchProblem, match="it is for a last map of") as caught:
            load_student(file)
        assert caught.value.code == "weights_do_not_fit"

    def test_before_the_last_activation_it_learns_the_embedding(self) -> None:
        of = process("simkd").model_copy(update={"taps": "pre_activation"})
        run = make_run(TRAINING, process=of, student="resnet8_w8")
        (loss,) = run.losses.feature_losses()
        assert list(loss.teacher_taps) == [EMBEDDING]

    def test_without_labels_it_is_judged_by_what_its_classifier_sees(self) -> None:
        run = run_of("simkd")
        part = run.student.part
        assert isinstance(part, SharedClassifier)
        assert embedding_tap(run.student) == PART
        seen = said_of(run.student, (images() * 255).to(torch.uint8)).embeddings
        assert seen is not None
        logits = F.linear(seen, part.weight, part.bias)
        given = (images() * 255).to(torch.uint8).float() / 255
        torch.testing.assert_close(logits, logits_of(run.student, given), rtol=1e-5, atol=1e-5)

    def test_what_is_served_is_counted(self) -> None:
        student = run_of("simkd").student
        part = student.part
        assert isinstance(part, SharedClassifier)
        own = sum(value.numel() for value in part.parameters()) + part.weight.numel() + part.bias.numel()
        unused = 10 * student.stages[-1].channels + 10
        assert student.served_parameter_count == student.parameter_count - unused + own

    def test_a_broken_part_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        run = run_of("simkd")
        file = tmp_path / "student.safetensors"
        export_student(run.trained, file, {})
        metadata = read_metadata(file)
        state = safetensors.torch.load_file(file)
        del state["part.weight"]
        safetensors.torch.save_file(state, file, metadata)
        with pytest.raises(
            SearchProblem, match=r"cannot be made again: .*part|give the file as it was"
        ) as caught:
            load_student(file)
        assert caught.value.code == "weights_do_not_fit"

    def test_a_file_that_does_not_say_what_it_holds_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "other.safetensors"
        safetensors.torch.save_file({"weight": torch.zeros(2)}, file)
        with pytest.raises(SearchProblem, match="does not say which model it holds") as caught:
            load_student(file)
        assert caught.value.code == "weights_unreadable"

    def test_two_parts_are_refused(self) -> None:
        both = process("simkd").model_copy(
            update={
                "pathways": [FeatureLoss(loss="simkd"), FeatureLoss(loss="norm")],
                "points": [Point(progress=0.0, pathway_weights=[1.0, 1.0])],
            }
        )
        with pytest.raises(SearchProblem, match=r"has a part .* already; choose one loss"):
            make_run(TRAINING, process=both, student="resnet8_w8")


@pytest.mark.system("atsc")
class TestAdaptiveTeaching:
    def loss(self, run: Distillation) -> AdaptiveTeaching:
        (found,) = run.losses.feature_losses()
        assert isinstance(found, AdaptiveTeaching)
        return found

    def distance(self, run: Distillation) -> float:
        assert run.teacher is not None
        start = dict(run.teacher.named_parameters())
        now = {name: value for name, value in self.loss(run).weights().items() if value.ndim > 1}
        return sum(float((value - start[name]).square().sum().detach()) for name, value in now.items())

    def test_at_the_beginning_the_anchor_holds_nothing(self) -> None:
        run = run_of("atsc")
        assert self.loss(run).anchor() == 0
        assert self.distance(run) == 0

    def test_the_heavier_the_anchor_the_less_the_teacher_moves(self) -> None:
        runs = [run_of("atsc", {"anchor_weight": weight, "teacher_rate": 1.0}) for weight in (0.0, 0.1, 5.0)]
        for run in runs:
            run.losses.scales.fill_(1.0)
            run.losses.is_measured = True
            finished(run)
        free, held, fixed = (self.distance(run) for run in runs)
        assert free > held > fixed
        assert fixed < 0.1 * free

    def test_the_teacher_itself_is_left_alone(self) -> None:
        run = run_of("atsc")
        assert run.teacher is not None
        before = weights_sha256(run.teacher)
        finished(run)
        assert weights_sha256(run.teacher) == before
        assert self.distance(run) > 0

    def test_the_student_classifies_with_the_teachers_classifier_whose_bias_learns(self) -> None:
        run = run_of("atsc")
        finished(run)
        part, loss = run.student.part, self.loss(run)
        assert isinstance(part, SharedClassifier)
        head = linear_head(run.teacher) if run.teacher else None
        assert head is not None
        assert torch.equal(part.weight, head.weight)
        assert torch.equal(part.bias, loss.bias)
        assert not torch.equal(part.bias, head.bias)

    def test_gradients_are_those_of_the_formula(self) -> None:
        of = pair()
        loss = built("atsc", of, {"anchor_weight": 0.5})
        assert isinstance(loss, AdaptiveTeaching)
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.add_(0.01)
        batch = seen(of, loss, learning=True)
        names = [name for name, _ in loss.named_parameters()]
        found = torch.autograd.grad(value(loss, batch), list(loss.parameters()), allow_unused=True)
        expected = torch.autograd.grad(
            sum(self.by_hand(loss, batch, weight=0.5)), list(loss.parameters()), allow_unused=True
        )
        for name, one, other in zip(names, found, expected, strict=True):
            assert (one is None) == (other is None), name
            if one is not None:
                torch.testing.assert_close(one, other, msg=name)

    def by_hand(self, loss: AdaptiveTeaching, batch: Seen, *, weight: float) -> Iterator[Tensor]:
        teacher = model(pair().teacher.name)
        last = len(teacher.stages) - 1
        weights = loss.weights()
        _, maps = forward_taps(teacher, batch.extra.tensors["images"], [last, EMBEDDING], parameters=weights)
        target = maps[loss.target]
        shown = batch.student.maps[PART]
        if target.shape[2] < shown.shape[2]:
            shown = F.adaptive_avg_pool2d(shown, target.shape[-2:])
        yield ((shown - F.adaptive_avg_pool2d(target, shown.shape[-2:])) ** 2).mean()
        start = dict(teacher.named_parameters())
        for name, now in weights.items():
            if now.ndim > 1:
                yield weight * ((now - start[name].detach()) ** 2).sum()
        head = linear_head(teacher)
        assert head is not None
        logits = maps[EMBEDDING].flatten(1).detach() @ head.weight.T + loss.bias
        yield -torch.log_softmax(logits, dim=1)[torch.arange(len(logits)), batch.targets].mean()


@pytest.mark.parametrize("loss", ["norm", "simkd", "atsc"])
def test_a_search_with_it_continues_bitwise(loss: str) -> None:
    learn = Learning(learning_rate=0.1, update_every_steps=2)
    assert_resumes_bitwise(TRAINING, at=4, process=process(loss), learn=learn, student="resnet8_w8")


@pytest.mark.parametrize("loss", ["norm", "simkd"])
def test_in_bfloat16_it_trains_too(loss: str) -> None:
    training = TRAINING.model_copy(update={"precision": "bfloat16"})
    learn = Learning(learning_rate=0.1)
    run = make_run(training, process=process(loss), student="resnet8_w8", learn=learn)
    figures = [report.figures["loss"] for report in islice(run.steps(), 4) if report]
    assert len(figures) == 4
