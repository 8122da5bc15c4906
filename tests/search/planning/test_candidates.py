"""Which edits of a learned process are judged, and which of them is taken."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.planning.candidates import (
    MOST_EDITS,
    Candidate,
    Judged,
    ProcessKind,
    doubled,
    earned_pathways,
    shapes,
    simplest_of_the_best,
    with_all_pathways,
)
from search.planning.process_shapes import scaled
from tests.search.planning.test_process_shapes import process_of

START = 0.05
ALL_SHAPES = ["constant", "averaged", "schedule"]
LEARNED = process_of([[START] * 4, [1.0, 0.02, 0.08, 0.9], [2.0, 0.01, 0.06, 1.5], [3.0, 0.0, 0.051, 2.0]])


class TestPruning:
    def test_a_pathway_earns_its_place_by_growing_and_by_its_share(self) -> None:
        """The second fell, the third grew a little but is 2% of the sum."""
        assert earned_pathways(LEARNED, LEARNED.points[0]) == [0, 3]

    def test_each_pathway_is_held_to_where_it_began_itself(self) -> None:
        process = process_of([[0.5, START], [0.4, 0.4]])
        assert earned_pathways(process, process.points[0]) == [1]

    def test_shares_are_of_scaled_losses(self) -> None:
        """Without unit scaling a weight says nothing without the loss's first value."""
        raw = process_of([[START] * 3, [1.0, 1.0, 10.0]]).model_copy(update={"unit_scaled": False})
        scaled = [
            pathway.model_copy(update={"scale": scale})
            for pathway, scale in zip(raw.pathways, (100.0, 1.0, 0.05), strict=True)
        ]
        process = raw.model_copy(update={"pathways": scaled})
        assert earned_pathways(process, process.points[0]) == [0]

    def test_what_was_heavy_early_but_not_late_has_not_earned_it(self) -> None:
        process = process_of([[START, START], [9.0, 0.5], [0.01, 1.0], [0.01, 1.0]])
        assert earned_pathways(process, process.points[0]) == [1]

    def test_none_may_be_left(self) -> None:
        faded = process_of([[START, START], [0.01, 0.02]])
        assert earned_pathways(faded, faded.points[0]) == []
        found = shapes(faded, faded.points[0])
        assert all(not candidate.process.pathways for candidate in found)
        assert all(candidate.process.logit_losses for candidate in found)

    def test_a_process_without_pathways_has_nothing_to_prune(self) -> None:
        alone = process_of([[1.0], [2.0]]).model_copy(update={"pathways": []})
        points = [point.model_copy(update={"pathway_weights": []}) for point in alone.points]
        alone = alone.model_copy(update={"points": points})
        assert {candidate.arm for candidate in shapes(alone, alone.points[0])} == {
            "constant",
            "averaged",
            "schedule",
        }


class TestShapes:
    def test_all_of_them_with_the_pathways_that_earned_their_weight(self) -> None:
        found = {candidate.arm: candidate for candidate in shapes(LEARNED, LEARNED.points[0])}
        assert list(found) == ["pruned_constant", "pruned_averaged", "pruned_schedule"]
        assert found["pruned_constant"].process.points[0].pathway_weights == [3.0, 2.0]
        (mean,) = found["pruned_averaged"].process.points
        assert mean.pathway_weights == pytest.approx([2.5, 1.75])
        assert len(found["pruned_schedule"].process.points) == len(LEARNED.points)

    def test_where_all_earned_theirs_nothing_is_called_pruned(self) -> None:
        grown = process_of([[0.1, 0.1], [1.0, 2.0]])
        assert [candidate.arm for candidate in shapes(grown, grown.points[0])] == [
            "constant",
            "averaged",
            "schedule",
        ]

    def test_what_is_alike_is_tried_once(self) -> None:
        settled = process_of([[1.0], [3.0], [3.0], [3.01]])
        assert [candidate.arm for candidate in shapes(settled, settled.points[0])] == ["constant", "schedule"]
        still = process_of([[1.0], [1.01]])
        assert [candidate.arm for candidate in shapes(still, still.points[0])] == ["constant"]

    def test_the_last_candidate_has_all_pathways(self) -> None:
        for chosen in shapes(LEARNED, LEARNED.points[0]):
            whole = with_all_pathways(LEARNED, chosen)
            assert whole is not None
            assert whole.arm == whole.kind == chosen.kind
            assert len(whole.process.pathways) == 4
            assert with_all_pathways(LEARNED, whole) is None

    @pytest.mark.parametrize("chosen", shapes(LEARNED, LEARNED.points[0]), ids=lambda one: one.arm)
    def test_the_best_is_tried_with_all_weights_doubled_and_doubled_again(self, chosen: Candidate) -> None:
        found = [chosen]
        while larger := doubled(found[-1]):
            found.append(larger)
        assert [one.arm for one in found] == [chosen.arm, f"{chosen.arm}_times_2", f"{chosen.arm}_times_4"]
        assert found[-1].process == scaled(chosen.process, 4)
        assert {one.kind for one in found} == {chosen.kind}
        assert [one.simplicity for one in found] == sorted(one.simplicity for one in found)

    def test_what_has_grown_has_grown_beside_cross_entropy(self) -> None:
        """As a search at constant length records it: all shrink, cross-entropy more than the first."""
        process = process_of([[1.0, 1.0], [0.8, 0.4], [0.8, 0.4]])
        points = [
            point.model_copy(update={"cross_entropy_weight": weight})
            for point, weight in zip(process.points, (1.0, 0.5, 0.5), strict=True)
        ]
        learned = process.model_copy(update={"points": points})
        assert earned_pathways(learned, points[0]) == [0]

    def test_never_more_than_the_budget_reserves(self) -> None:
        assert len(shapes(LEARNED, LEARNED.points[0])) + 1 == MOST_EDITS

    def test_every_candidate_is_a_process_that_can_be_stored(self) -> None:
        for candidate in shapes(LEARNED, LEARNED.points[0]):
            again = type(candidate.process).model_validate_json(candidate.process.model_dump_json())
            assert again == candidate.process


def judged(arm: str, pathways: int, accuracy: float | tuple[float, ...], images: int = 200) -> Judged:
    kind = ProcessKind(arm.removeprefix("pruned_"))
    process = process_of([[1.0] * max(pathways, 1)])
    if pathways == 0:
        process = process.model_copy(update={"pathways": []})
    accuracies = accuracy if isinstance(accuracy, tuple) else (accuracy,)
    return Judged(Candidate(arm, kind, process), accuracies, images)


class TestChoice:
    def test_the_simpler_one_unless_the_dearer_is_better_by_more_than_a_standard_error(self) -> None:
        """One standard error of 0.80 on 200 images is 2.8 points."""
        simple, dear = judged("pruned_constant", 1, 0.78), judged("schedule", 4, 0.80)
        assert simplest_of_the_best([dear, simple]) is simple
        poor = judged("pruned_constant", 1, 0.77)
        assert simplest_of_the_best([poor, dear]) is dear

    def test_more_seeds_or_images_tell_smaller_differences_apart(self) -> None:
        simple, dear = (0.78,) * 4, (0.80,) * 4
        found = [judged("pruned_constant", 1, simple), judged("schedule", 4, dear)]
        assert simplest_of_the_best(found).candidate.arm == "schedule"
        found = [judged("pruned_constant", 1, 0.78, 10_000), judged("schedule", 4, 0.80, 10_000)]
        assert simplest_of_the_best(found).candidate.arm == "schedule"

    def test_fewer_pathways_count_before_constancy(self) -> None:
        found = [
            judged("constant", 4, 0.8),
            judged("pruned_schedule", 2, 0.8),
            judged("pruned_averaged", 2, 0.8),
        ]
        assert simplest_of_the_best(found).candidate.arm == "pruned_averaged"

    @settings(max_examples=100, deadline=None)
    @given(
        accuracies=st.lists(st.floats(0, 1), min_size=4, max_size=4),
        images=st.integers(1, 10_000),
    )
    def test_it_is_never_worse_than_the_best_by_more_than_the_standard_error(
        self, accuracies: list[float], images: int
    ) -> None:
        arms = [("pruned_constant", 1), ("pruned_averaged", 1), ("pruned_schedule", 1), ("schedule", 3)]
        found = [judged(*arm, value, images) for arm, value in zip(arms, accuracies, strict=True)]
        chosen, best = simplest_of_the_best(found), max(found, key=lambda one: one.accuracy)
        assert best.accuracy - chosen.accuracy <= best.standard_error
        for other in found:
            if other.candidate.simplicity < chosen.candidate.simplicity:
                assert best.accuracy - other.accuracy > best.standard_error

    def test_the_standard_error_is_the_binomials_and_never_zero(self) -> None:
        assert judged("constant", 1, 0.6, 96).standard_error == pytest.approx(math.sqrt(0.24 / 96))
        two = judged("constant", 1, (0.6, 0.6), 96)
        assert two.standard_error == pytest.approx(math.sqrt(0.24 / 192))
        assert judged("constant", 1, 1.0, 200).standard_error > 0

    def test_replays_that_differ_by_more_than_images_explain_say_how_sure_the_mean_is(self) -> None:
        apart = judged("constant", 1, (0.5, 0.7), 10_000)
        assert apart.accuracy == fmean((0.5, 0.7))
        assert apart.standard_error == pytest.approx(stdev((0.5, 0.7)) / math.sqrt(2))

    def test_without_replays_there_is_no_choice(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            simplest_of_the_best([])
