"""A job without labels as the plan sees it: its processes, its arms, its verdict and its report."""

from __future__ import annotations

from typing import Any

import pytest

from search.planning.arms import ArmName, kd, plain_kd
from search.planning.candidates import earned_pathways, shapes
from search.planning.given import GivenProcess
from search.planning.verdict import Difference, Shortfall, VerdictArm, judge_without_labels
from search.recipe import Process, constant
from search.records import Fail, StageName
from search.spec import ARMS, JobSpec
from tests.search.planning.simulated_job import (
    SimulatedJob,
    accuracy_by_arm,
    finished,
    make_spec,
    preflight_result,
)
from tests.search.planning.test_process_shapes import process_of

EMBEDDINGS = {"connections": ["none"], "logit_losses": [[]], "feature_losses": [["tintem"]]}


def spec_without_labels(**parts: Any) -> JobSpec:
    teacher = {"model": "test_resnet", "weights": "teacher.safetensors"}
    return make_spec(teachers=[teacher], data={"labels": "none"}, **parts)


def job_without_labels(**settings: Any) -> SimulatedJob:
    spec = settings.pop("spec", None) or spec_without_labels()
    return SimulatedJob(spec, preflight=preflight_result(majority_rate=None, floor_accuracy=None), **settings)


def processes(job: SimulatedJob) -> list[Process]:
    return [
        Process.model_validate(trial.parameters["process"])
        for trial in job.records.values()
        if "process" in trial.parameters
    ]


@pytest.fixture(scope="module")
def ended() -> SimulatedJob:
    job = job_without_labels()
    finished(job)
    return job


class TestPlan:
    def test_no_process_weighs_cross_entropy(self, ended: SimulatedJob) -> None:
        assert len(processes(ended)) > 20
        for process in processes(ended):
            assert process.cross_entropy_weight == 0
            assert not any(point.cross_entropy_weight for point in process.points)

    def test_the_student_alone_is_not_trained(self, ended: SimulatedJob) -> None:
        arms = {key.arm for key in ended.records if key.stage is StageName.PROOF}
        assert {"plain_kd", "tuned_kd", "longer_kd", "uniform", "searched"} <= arms <= {*ARMS}
        assert "student_alone" not in arms

    def test_kd_is_tuned_by_its_temperature_alone(self, ended: SimulatedJob) -> None:
        tuned = [trial.parameters for trial in ended.of(StageName.TUNING)]
        assert tuned[0]["process"] == plain_kd(is_labelled=False).model_dump(mode="json")
        assert {tuple(run["choices"]) for run in tuned[1:]} == {("temperature",)}
        assert {run["process"]["points"][0]["logit_weights"][0] for run in tuned} == {1.0}

    @pytest.mark.parametrize(
        ("space", "meta_loss"), [({}, "teacher_logits"), (EMBEDDINGS, "teacher_embeddings")]
    )
    def test_the_teacher_judges_the_process(self, space: dict[str, Any], meta_loss: str) -> None:
        job = job_without_labels(spec=spec_without_labels(search={"space": space}))
        job.run_to(StageName.TUNING)
        learning = [run for trial in job.of(StageName.SEARCH) if (run := trial.parameters["learn"])]
        assert {learn["meta_loss"] for learn in learning} == {meta_loss}

    def test_without_tuned_kd_there_is_no_verdict(self) -> None:
        job = job_without_labels(failures={StageName.PROOF: lambda key: key.arm == "tuned_kd"})
        action = job.run()
        assert isinstance(action, Fail)
        assert action.message.startswith("tuned KD could not be trained")

    def test_a_given_process_may_not_need_labels(self) -> None:
        refused = job_without_labels(given=GivenProcess(plain_kd())).run()
        assert isinstance(refused, Fail)
        assert refused.code == "labels_needed"
        alone = constant(cross_entropy_weight=0.0)
        refused = job_without_labels(given=GivenProcess(alone)).run()
        assert isinstance(refused, Fail)
        assert refused.code == "labels_needed"
        assert "no losses beside cross-entropy" in refused.message
        taken = job_without_labels(given=GivenProcess(kd(temperature=3.0)))
        assert finished(taken)["verdict"]["arm"] in ("searched", "plain_kd")


class TestReport:
    def test_searched_beats_tuned_kd(self, ended: SimulatedJob) -> None:
        report = finished(ended)
        assert report["verdict"]["arm"] == "searched"
        assert report["verdict"]["sentence"].startswith(
            "Use the searched process: by agreement with the teacher on test images it beats tuned KD by +6"
        )
        assert "alone" not in report["verdict"]["sentence"]
        assert report["teacher"]["accuracy"] == 0.9  # of the simulated teacher; a real one is not asked

    def test_else_tuned_kd_is_used(self) -> None:
        job = job_without_labels(accuracy=accuracy_by_arm(searched=0.60, constant=0.6))
        verdict = finished(job)["verdict"]
        assert (verdict["arm"], verdict["proof_arm"]) == ("plain_kd", "tuned_kd")
        assert verdict["sentence"].startswith(
            "Use tuned KD: by agreement with the teacher on test images the"
        )

    def test_figures_are_means_over_all_runs(self, ended: SimulatedJob) -> None:
        report = finished(ended)["without_labels"]
        assert report["judged_by"] == "teacher_agreement"
        assert [row["label"] for row in report["rows"]][:2] == ["Teacher", "Plain KD"]
        runs = [run.result or {} for run in ended.of(StageName.PROOF, "plain_kd")]
        mean = sum(run["agreement"] for run in runs) / len(runs)
        assert report["rows"][1]["agreement"] == pytest.approx(mean)
        assert report["rows"][1]["knn_accuracy"] is None

    @pytest.mark.parametrize(
        ("loss", "card", "is_untrained"),
        [
            ("tintem", {"owns": []}, True),
            ("simkd", {"owns": ["student_logits"]}, False),
            ("r2kd", {"teaches_logits": True}, False),
        ],
    )
    def test_a_classifier_that_nothing_trained_is_told_of(
        self, loss: str, card: dict[str, Any], is_untrained: bool
    ) -> None:
        space = {**EMBEDDINGS, "feature_losses": [[loss]]}
        spec = spec_without_labels(search={"space": space})
        cards = {f"feature_loss/{loss}": {"id": f"feature_loss/{loss}", "kind": "feature_loss", **card}}
        preflight = preflight_result(majority_rate=None, floor_accuracy=None, cards=cards)
        sentence = finished(SimulatedJob(spec, preflight=preflight))["without_labels"]["sentence"]
        assert ("a classifier as it began" in sentence) == is_untrained

    def test_with_labels_there_are_none(self) -> None:
        assert finished(SimulatedJob(make_spec()))["without_labels"] is None


class TestVerdict:
    ABOVE = Difference(ArmName.SEARCHED, ArmName.TUNED_KD, 0.02, 0.01, 0.03, 5)
    AROUND = Difference(ArmName.SEARCHED, ArmName.TUNED_KD, 0.02, -0.01, 0.05, 5)
    BELOW = Difference(ArmName.SEARCHED, ArmName.TUNED_KD, -0.02, -0.03, -0.01, 5)
    SHORT = Shortfall(1.0, 9.0)

    @pytest.mark.parametrize(
        ("difference", "shortfall", "arm", "words"),
        [
            (ABOVE, None, VerdictArm.SEARCHED, "it beats tuned KD by +2.0"),
            (ABOVE, SHORT, VerdictArm.PLAIN_KD, "but that is no proof; KD was tuned for only 1 of"),
            (AROUND, None, VerdictArm.PLAIN_KD, "is not shown to be better than tuned KD"),
            (BELOW, None, VerdictArm.PLAIN_KD, "is worse than tuned KD"),
            (None, None, VerdictArm.PLAIN_KD, "could not be compared"),
        ],
    )
    def test_searched_only_where_the_whole_interval_is_above_zero(
        self, difference: Difference | None, shortfall: Shortfall | None, arm: VerdictArm, words: str
    ) -> None:
        found = judge_without_labels(difference, figure="some figure", shortfall=shortfall)
        assert found.arm is arm
        assert words in found.sentence
        assert "by some figure on test images" in found.sentence


class TestPruning:
    def learned(self, rows: list[list[float]]) -> Process:
        """Pathways alone, with these weights."""
        bare: dict[str, Any] = {"logit_weights": [], "teacher_temperatures": [], "student_temperatures": []}
        found = process_of(rows)
        points = [point.model_copy(update=bare) for point in found.points]
        return found.model_copy(update={"cross_entropy_weight": 0.0, "logit_losses": [], "points": points})

    @pytest.mark.parametrize("end", [0.1, 1.0, 3.0])
    def test_a_lone_loss_stays_however_its_weight_went(self, end: float) -> None:
        process = self.learned([[1.0], [end]])
        assert earned_pathways(process, process.points[0]) == [0]
        assert all(one.process.pathways for one in shapes(process, process.points[0]))

    def test_of_several_those_stay_whose_share_did_not_fall(self) -> None:
        process = self.learned([[1.0, 1.0, 1.0], [4.0, 1.0, 4.0], [4.0, 1.0, 4.0]])
        assert earned_pathways(process, process.points[0]) == [0, 2]

    def test_of_many_equal_ones_all_stay(self) -> None:
        process = self.learned([[1.0] * 50, [1.0] * 50])
        assert earned_pathways(process, process.points[0]) == list(range(50))

    def test_beside_logit_losses_all_may_go(self) -> None:
        process = process_of([[1.0], [0.5]]).model_copy(update={"cross_entropy_weight": 0.0})
        points = [point.model_copy(update={"logit_weights": [1.0]}) for point in process.points]
        process = process.model_copy(update={"points": points})
        assert earned_pathways(process, points[0]) == []
