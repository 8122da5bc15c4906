"""R2KD: distances of values and ranks, to the teacher and to its pruned copy."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.nn.utils import prune

from search.features import Side, build_feature_loss
from search.features.r2kd import TwoTeachers
from search.logits.correlation_distance import rank_distance, value_distance
from search.models import TappedModel
from search.models.pruned import PrunedWeights
from search.problems import SearchProblem
from search.recipe import FeatureLoss, Point, Process
from search.spec import Training
from tests.search.features.embeddings_by_hand import Array, noise
from tests.search.features.seen import CLASSES, PAIRS, built, images, model, pair, seen
from tests.search.training.runs import make_run

TEACHERS = sorted({teacher for teacher, _ in PAIRS.values()})


def pruned_by_torch(network: TappedModel, share: float) -> TappedModel:
    found = copy.deepcopy(network)
    layers = [(module, "weight") for module in found.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=share)
    for layer, name in layers:
        prune.remove(layer, name)
    return found


@pytest.mark.system("r2kd")
class TestTwoTeachers:
    def distance(self, one: Tensor, other: Tensor, softness: float = 0.1) -> float:
        def ranks(logits: Array) -> Array:
            deviation = logits.std(axis=1)[:, None, None]
            differences = (logits[:, :, None] - logits[:, None, :]) / (softness * deviation)
            smaller: Array = special.expit(differences).sum(axis=2)
            return smaller

        def apart(one: Array, other: Array) -> float:
            rows = zip(one, other, strict=True)
            return 1 - float(np.mean([stats.pearsonr(a, b).statistic for a, b in rows]))

        values = [special.softmax(each.numpy() / 4, axis=1) for each in (one, other)]
        return apart(*values) + apart(ranks(one.numpy()), ranks(other.numpy()))

    def test_formula(self) -> None:
        of = pair("vit")  # whose untrained answers vary enough for no correlation to be damped
        loss = built("r2kd", of, {"teacher_weight": 0.7, "pruned_weight": 2.0, "pruned_share": 0.4})
        batch = seen(of, loss)
        student, teacher = (5 * noise(8, CLASSES, seed=seed) for seed in (1, 2))
        batch = replace(
            batch,
            student=replace(batch.student, logits=student),
            teacher=replace(batch.teacher, logits=teacher),
        )
        pruned = 5 * noise(8, CLASSES, seed=3)
        batch = replace(batch, extra=replace(batch.extra, tensors={"pruned": pruned}))
        expected = 0.7 * self.distance(student, teacher) + 2 * self.distance(student, pruned)
        assert float(loss(batch)) == pytest.approx(expected, rel=1e-9)

    def test_values_are_zero_apart_between_equals_and_after_a_positive_affine_map(self) -> None:
        one, other = (torch.softmax(3 * noise(8, CLASSES, seed=seed), dim=1) for seed in (1, 2))
        assert float(value_distance(one, one)) == pytest.approx(0, abs=1e-12)
        moved = 0.3 * one + 0.05
        assert float(value_distance(moved, one)) == pytest.approx(0, abs=1e-12)
        assert float(value_distance(moved, other)) == pytest.approx(float(value_distance(one, other)))
        assert 0 < float(value_distance(one, other)) < 2

    def test_hard_ranks_are_unchanged_by_a_rising_function(self) -> None:
        one, other = noise(8, CLASSES, seed=1), noise(8, CLASSES, seed=2)
        found = float(rank_distance(one, other, 1e-12))
        expected = 1 - np.mean([stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)])
        assert found == pytest.approx(expected, rel=1e-9)
        assert float(rank_distance(one.exp(), other**3, 1e-12)) == pytest.approx(found, rel=1e-9)

    def test_both_lie_between_0_and_2(self) -> None:
        one = noise(8, 2, seed=1)
        assert float(rank_distance(one, -one, 0.1)) == pytest.approx(2, rel=1e-12)
        shares = torch.softmax(3 * one, dim=1)
        assert float(value_distance(shares, shares.flip(1))) == pytest.approx(2, rel=1e-12)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
    @pytest.mark.parametrize("name", TEACHERS)
    def test_the_pruned_teacher_lacks_that_share_and_is_what_torch_prunes(
        self, name: str, share: float
    ) -> None:
        teacher = model(name)
        before = {key: kept.clone() for key, kept in teacher.state_dict().items()}
        weights = PrunedWeights(teacher, share)()
        whole = sum(value.numel() for value in weights.values())
        missing = sum(int((value == 0).sum()) for value in weights.values())
        already = sum(int((teacher.get_parameter(name) == 0).sum()) for name in weights)
        assert already == 0
        assert missing == round(share * whole)
        oracle = pruned_by_torch(teacher, share)
        for key, value in weights.items():
            assert torch.equal(value, oracle.get_parameter(key)), key
        assert all(torch.equal(kept, before[key]) for key, kept in teacher.state_dict().items())
        assert {key for key, value in oracle.named_parameters() if value.ndim in (2, 4)} == {*weights}

    def test_the_second_teacher_is_asked_of_the_same_images(self) -> None:
        of = pair()
        batch = seen(of, built("r2kd", of, {"pruned_share": 0.5}))
        oracle = pruned_by_torch(model(of.teacher.name), 0.5)(images()[:8])
        torch.testing.assert_close(batch.extra.tensors["pruned"], oracle.detach())
        assert not torch.allclose(batch.extra.tensors["pruned"], batch.teacher.logits)

    def test_nothing_of_the_teacher_is_kept_in_its_state(self) -> None:
        loss = built("r2kd", pair())
        seen(pair(), loss)
        assert isinstance(loss, TwoTeachers)
        assert loss.state_dict() == {}
        assert [*loss.modules()] == [loss]

    def test_a_teacher_that_is_not_at_hand_is_refused_with_the_remedy(self) -> None:
        of = pair()
        blind = replace(of, teacher=Side(of.teacher.stages, of.teacher.embedding, "blind"))
        with pytest.raises(SearchProblem, match="teacher blind is not at hand; use the logit loss"):
            build_feature_loss("r2kd", pair=blind)


@pytest.mark.parametrize("parts", [1, 2])
def test_in_training_the_pruned_teacher_is_the_runs_own(parts: int) -> None:
    process = Process(
        pathways=[FeatureLoss(loss="r2kd", config={"pruned_share": 0.5})],
        points=[Point(progress=0.0, pathway_weights=[0.5])],
    )
    training = Training(batch_size=16, report_every_steps=1, accumulate_parts=parts)
    run = make_run(training, process=process)
    batch = run.batch()
    assert run.teacher is not None
    with torch.no_grad():
        expected = pruned_by_torch(run.teacher, 0.5).eval()(batch.images)
    torch.testing.assert_close(batch.extras[0].tensors["pruned"], expected)
    assert len(expected) == 16
