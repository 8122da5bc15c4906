"""The statistics against scipy's own tests, the rule at its borders, the sentences, and what longer training
buys.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.planning.arms import ArmName
from search.planning.payback import Choice, kd_accuracy_at, longer_sentence, uses_until_it_pays
from search.planning.verdict import (
    Difference,
    Shortfall,
    Verdict,
    VerdictArm,
    judge,
    mean_and_deviation,
    paired_difference,
)

IMAGES = 997
accuracies = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12)


def difference(lower: float, upper: float, *, arm: ArmName = ArmName.SEARCHED) -> Difference:
    return Difference(arm, ArmName.TUNED_KD, (lower + upper) / 2, lower, upper, 5)


ABOVE, BELOW = difference(0.001, 0.02), difference(-0.05, -0.01)
AROUND, AT_ZERO = difference(-0.01, 0.05), difference(0.0, 0.02)


def verdict(
    searched_over_tuned: Difference | None,
    searched_over_alone: Difference | None,
    tuned_over_alone: Difference | None,
    shortfall: Shortfall | None = None,
) -> Verdict:
    return judge(
        searched_over_tuned=searched_over_tuned,
        searched_over_alone=searched_over_alone,
        tuned_over_alone=tuned_over_alone,
        shortfall=shortfall,
    )


def measured(ours: list[float], theirs: list[float]) -> Difference:
    """The difference of runs with the seeds 0, 1, ..."""
    return paired_difference(
        ArmName.SEARCHED,
        ArmName.TUNED_KD,
        runs=by_seed(ours),
        against=by_seed(theirs),
        test_images=IMAGES,
    )


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


class TestPairedDifference:
    @settings(max_examples=200, deadline=None)
    @given(pairs=accuracies)
    def test_the_interval_is_that_of_scipys_paired_t_test(self, pairs: list[tuple[float, float]]) -> None:
        ours, theirs = ([pair[place] for pair in pairs] for place in (0, 1))
        deltas = np.subtract(ours, theirs)
        found = measured(ours, theirs)
        assert found.mean == pytest.approx(deltas.mean(), abs=1e-12)
        assert found.seeds == len(pairs)
        low, high = (
            stats.ttest_rel(ours, theirs).confidence_interval(0.95)
            if deltas.std(ddof=1) > 1 / IMAGES
            else stats.t.interval(
                0.95, len(pairs) - 1, loc=deltas.mean(), scale=1 / IMAGES / math.sqrt(len(pairs))
            )
        )
        assert found.lower == pytest.approx(low, abs=1e-9)
        assert found.upper == pytest.approx(high, abs=1e-9)

    def test_by_hand(self) -> None:
        """Differences 1, 2, 3: mean 2, deviation 1, and t of two degrees of freedom from the tables."""
        found = measured([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
        assert found.lower == pytest.approx(2 - 4.302652729911275 / math.sqrt(3))
        assert found.upper == pytest.approx(2 + 4.302652729911275 / math.sqrt(3))

    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_equal_differences_have_a_spread_of_one_image(self, seeds: int) -> None:
        """Each seed better by one image is no proof, by twenty images it is."""
        theirs = [700 / IMAGES] * seeds
        one, twenty = (measured([(700 + gain) / IMAGES] * seeds, theirs) for gain in (1, 20))
        half = stats.t.ppf(0.975, seeds - 1) / IMAGES / math.sqrt(seeds)
        for found, gain in ((one, 1), (twenty, 20)):
            assert found.mean == pytest.approx(gain / IMAGES)
            assert found.upper - found.mean == pytest.approx(half)
            assert found.mean - found.lower == pytest.approx(half)
        assert one.lower < 0 < twenty.lower

    def test_seeds_are_paired_not_places(self) -> None:
        found = paired_difference(
            ArmName.SEARCHED,
            ArmName.TUNED_KD,
            runs={3: 0.3, 1: 0.1, 2: 0.2, 9: 1.0},
            against={1: 0.1, 2: 0.2, 3: 0.3, 8: 0.0},
            test_images=IMAGES,
        )
        assert found.seeds == 3
        assert found.mean == 0

    def test_one_pair_is_too_few(self) -> None:
        with pytest.raises(ValueError, match="1 seeds in common"):
            paired_difference(
                ArmName.SEARCHED,
                ArmName.TUNED_KD,
                runs={1: 0.5, 2: 0.4},
                against={2: 0.5},
                test_images=IMAGES,
            )

    @given(values=st.lists(st.floats(0, 1), min_size=2, max_size=20))
    def test_mean_and_deviation(self, values: list[float]) -> None:
        mean, deviation = mean_and_deviation(values)
        assert mean == pytest.approx(np.mean(values), abs=1e-12)
        assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert mean_and_deviation(values[:1]) == (values[0], 0.0)


class TestRule:
    @pytest.mark.parametrize(
        ("over_tuned", "over_alone", "tuned_over_alone", "arm"),
        [
            (ABOVE, ABOVE, ABOVE, VerdictArm.SEARCHED),
            (ABOVE, ABOVE, AROUND, VerdictArm.SEARCHED),
            (ABOVE, ABOVE, BELOW, VerdictArm.SEARCHED),
            (ABOVE, AROUND, ABOVE, VerdictArm.PLAIN_KD),
            (ABOVE, AT_ZERO, AROUND, VerdictArm.STUDENT_ALONE),
            (ABOVE, BELOW, BELOW, VerdictArm.STUDENT_ALONE),
            (ABOVE, None, BELOW, VerdictArm.STUDENT_ALONE),
            (AT_ZERO, ABOVE, ABOVE, VerdictArm.PLAIN_KD),
            (AROUND, ABOVE, ABOVE, VerdictArm.PLAIN_KD),
            (None, ABOVE, ABOVE, VerdictArm.PLAIN_KD),
            (AROUND, ABOVE, AT_ZERO, VerdictArm.STUDENT_ALONE),
            (BELOW, BELOW, BELOW, VerdictArm.STUDENT_ALONE),
            (None, None, None, VerdictArm.STUDENT_ALONE),
        ],
    )
    def test_it_needs_the_whole_intervals_above_zero(
        self,
        over_tuned: Difference | None,
        over_alone: Difference | None,
        tuned_over_alone: Difference | None,
        arm: VerdictArm,
    ) -> None:
        assert verdict(over_tuned, over_alone, tuned_over_alone).arm is arm

    def test_a_process_that_is_worse_than_the_student_alone_is_never_recommended(self) -> None:
        """Student alone .72, tuned KD .60, searched .68: better than KD, and of no use."""
        alone, tuned, searched = ([mean + noise for noise in (0, 0.01, -0.01)] for mean in (0.72, 0.60, 0.68))
        found = verdict(measured(searched, tuned), measured(searched, alone), measured(tuned, alone))
        assert found.arm is VerdictArm.STUDENT_ALONE
        assert "the searched process is worse than the student alone: -4.0" in found.sentence

    def test_against_a_baseline_that_was_not_tuned_nothing_is_proved(self) -> None:
        shortfall = Shortfall(tuning=12.04, search=345.6)
        kept, lost = (verdict(ABOVE, ABOVE, alone, shortfall) for alone in (ABOVE, BELOW))
        assert (kept.arm, lost.arm) == (VerdictArm.PLAIN_KD, VerdictArm.STUDENT_ALONE)
        for found in (kept, lost, verdict(AROUND, ABOVE, ABOVE, shortfall)):
            assert found.sentence.endswith("; KD was tuned for only 12 of the search's 346 device-seconds.")

    def test_what_each_verdict_keeps(self) -> None:
        assert VerdictArm.SEARCHED.proof_arm is ArmName.SEARCHED
        assert VerdictArm.PLAIN_KD.proof_arm is ArmName.TUNED_KD
        assert VerdictArm.STUDENT_ALONE.proof_arm is ArmName.STUDENT_ALONE

    def test_a_false_alarm_is_as_rare_as_the_interval_says(self) -> None:
        """Arms that do not differ: `searched` in 2.5% of 2,000 jobs; 4 sigma are 1.4 points."""
        random = np.random.default_rng(0)
        wins = 0
        for _ in range(2000):
            ours, theirs = random.normal(0.7, 0.01, (2, 5))
            found = measured(ours.tolist(), theirs.tolist())
            wins += verdict(found, ABOVE, ABOVE).arm is VerdictArm.SEARCHED
        assert abs(wins / 2000 - 0.025) < 0.014

    @pytest.mark.parametrize("seeds", [2, 3, 5])
    @pytest.mark.parametrize("most", [1, 3])
    def test_nor_do_accuracies_in_whole_images_raise_more(self, seeds: int, most: int) -> None:
        """Equal arms that differ by up to 3 images: with 2 seeds both often win by the same number."""
        random = np.random.default_rng(seeds)
        wins = 0
        for _ in range(2000):
            gains = random.integers(-most, most + 1, seeds)
            found = measured(((700 + gains) / IMAGES).tolist(), [700 / IMAGES] * seeds)
            wins += found.lower > 0
        assert wins / 2000 < 0.025 + 0.014


class TestSentences:
    def test_in_percentage_points(self) -> None:
        assert difference(0.008, 0.03).in_words() == (
            "+1.9 percentage points (95% interval +0.8 to +3.0, 5 seeds)"
        )

    def test_small_figures_keep_their_sign(self) -> None:
        assert difference(0.0002, 0.01).in_words() == (
            "+0.51 percentage points (95% interval +0.02 to +1.00, 5 seeds)"
        )

    def test_each_verdict_says_what_and_why(self) -> None:
        won = verdict(difference(0.008, 0.03), difference(0.01, 0.03), None).sentence
        assert won == (
            "Use the searched process: it beats tuned KD by +1.9 percentage points "
            "(95% interval +0.8 to +3.0, 5 seeds), and the student alone by +2.0 percentage points "
            "(95% interval +1.0 to +3.0, 5 seeds)."
        )
        tuned = verdict(difference(-0.01, 0.03), None, difference(0.01, 0.02)).sentence
        assert tuned.startswith("Use tuned KD: it beats the student trained alone by +1.5 percentage points")
        assert "the searched process is not shown to be better than tuned KD: +1.0" in tuned
        alone = verdict(difference(-0.03, -0.01), None, None).sentence
        assert alone.startswith("Train the student alone")
        assert "the searched process is worse than tuned KD: -2.0" in alone
        assert "tuned KD could not be compared with the student alone, because runs failed" in alone


class TestPayback:
    tuned, longer = Choice(0.60, 10.0), Choice(0.70, 160.0)

    def uses(self, accuracy: float, *, seconds: float = 20.0, search: float = 140.0) -> int | None:
        searched = Choice(accuracy, seconds)
        return uses_until_it_pays(
            searched=searched, tuned=self.tuned, longer=self.longer, search_seconds=search
        )

    def test_at_once_when_it_beats_longer_training(self) -> None:
        assert self.uses(0.70) == 1
        assert self.uses(0.75) == 1

    def test_by_interpolation(self) -> None:
        """Half of the way from 0.60 to 0.70 is at sqrt(10 x 160) = 40 seconds: 20 over a training, 140 / 20
        uses.
        """
        assert self.uses(0.65) == 7
        assert self.uses(0.65, search=141.0) == 8

    def test_never_when_a_trainings_compute_is_enough_for_kd(self) -> None:
        assert self.uses(0.59) is None
        assert self.uses(0.65, seconds=40.0) is None
        assert self.uses(0.65, seconds=39.0) == 140

    def test_never_when_longer_training_costs_no_more_but_is_better(self) -> None:
        longer = Choice(0.7, 10.0)
        assert (
            uses_until_it_pays(
                searched=Choice(0.65, 5.0), tuned=self.tuned, longer=longer, search_seconds=1.0
            )
            is None
        )

    def test_longer_training_that_harms_is_not_done(self) -> None:
        worse = Choice(0.5, 160.0)
        searched = Choice(0.61, 20.0)
        assert uses_until_it_pays(searched=searched, tuned=self.tuned, longer=worse, search_seconds=1.0) == 1

    def test_unmeasured_costs_are_refused(self) -> None:
        with pytest.raises(ValueError, match="not been measured"):
            self.uses(0.65, seconds=0.0)

    @settings(max_examples=200, deadline=None)
    @given(
        accuracy=st.floats(0.55, 0.75),
        seconds=st.floats(1, 200),
        search=st.floats(1, 1000),
    )
    def test_the_answer_is_the_first_use_at_which_kd_is_no_better(
        self, accuracy: float, seconds: float, search: float
    ) -> None:
        """The oracle walks through the uses and reads KD's accuracy off the curve."""

        def kd_accuracy(compute: float) -> float:
            share = math.log(compute / 10.0) / math.log(160.0 / 10.0)
            return 0.60 + 0.10 * min(max(share, 0.0), 1.0)

        uses = self.uses(accuracy, seconds=seconds, search=search)
        if uses is None:
            assert all(kd_accuracy(search / n + seconds) > accuracy - 1e-9 for n in (1, 10, 1000, 10**6))
            return
        assert kd_accuracy(search / uses + seconds) <= accuracy + 1e-6
        assert uses == 1 or kd_accuracy(search / (uses - 1) + seconds) > accuracy - 1e-6

    @pytest.mark.parametrize(
        ("accuracy", "words"),
        [
            (0.75, "the search pays at the first use of its recipe"),
            (0.65, "the search pays after 6 reuses of its recipe"),
            (0.59, "Reusing the recipe does not change that"),
        ],
    )
    def test_the_sentence(self, accuracy: float, words: str) -> None:
        sentence = longer_sentence(
            difference(-0.01, 0.01),
            longer_over_tuned=difference(0.08, 0.12),
            searched=Choice(accuracy, 20.0),
            tuned=self.tuned,
            longer=self.longer,
            search_seconds=140.0,
            epochs=60,
        )
        assert sentence.startswith("For a one-off run the search and longer training cannot be told apart")
        assert "longer KD (60 epochs)" in sentence
        assert words in sentence

    def test_one_reuse_is_singular_and_unmeasured_costs_are_left_out(self) -> None:
        def sentence(search: float, seconds: float) -> str:
            return longer_sentence(
                difference(-0.01, 0.01),
                longer_over_tuned=difference(-0.01, 0.01),
                searched=Choice(0.65, seconds),
                tuned=self.tuned,
                longer=self.longer,
                search_seconds=search,
                epochs=60,
            )

        assert "after 1 reuse of" in sentence(40.0, 20.0)
        assert "reuse" not in sentence(40.0, 0.0)
        assert "One searched training" not in sentence(40.0, 0.0)

    @pytest.mark.parametrize(
        ("accuracy", "words"),
        [
            (0.65, "2.50 times one of tuned KD; it is 1.7 points ahead of tuned KD"),
            (0.62, "1.3 points behind"),
        ],
    )
    def test_one_trainings_compute_is_weighed_apart(self, accuracy: float, words: str) -> None:
        """25 of the 10 to 160 seconds are a third of the way in log compute: KD is at 63.3% there."""
        sentence = longer_sentence(
            difference(-0.01, 0.01),
            longer_over_tuned=difference(0.08, 0.12),
            searched=Choice(accuracy, 25.0),
            tuned=self.tuned,
            longer=self.longer,
            search_seconds=140.0,
            epochs=60,
        )
        assert words in sentence

    @pytest.mark.parametrize(
        ("gain", "words"),
        [
            (difference(0.08, 0.12), "Here training longer still helps KD: longer minus tuned KD is +10.0"),
            (difference(-0.01, 0.02), "Training longer is not shown to help KD any more"),
        ],
    )
    def test_the_regime_is_named(self, gain: Difference, words: str) -> None:
        sentence = longer_sentence(
            difference(-0.01, 0.01),
            longer_over_tuned=gain,
            searched=Choice(0.65, 25.0),
            tuned=self.tuned,
            longer=self.longer,
            search_seconds=140.0,
            epochs=60,
        )
        assert words in sentence

    @settings(max_examples=100, deadline=None)
    @given(st.floats(1, 1000))
    def test_kds_accuracy_at_a_compute(self, seconds: float) -> None:
        expected = np.interp(math.log(seconds), [math.log(10), math.log(160)], [0.6, 0.7])
        assert kd_accuracy_at(seconds, tuned=self.tuned, longer=self.longer) == pytest.approx(expected)
        worse = Choice(0.5, 160.0)
        assert kd_accuracy_at(seconds, tuned=self.tuned, longer=worse) == 0.6


def test_python_and_numpy_agree_on_the_deviation() -> None:
    assert statistics.stdev([0.1, 0.4]) == pytest.approx(np.std([0.1, 0.4], ddof=1))
