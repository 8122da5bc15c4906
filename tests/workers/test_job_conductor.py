"""A job carried out without Ray and torch: what is recorded, in what order, and what survives a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search.problems import SearchProblem
from search.records import StageName, TrialKey
from service.settings import Settings
from service.store import artifacts
from service.store.errors import LeaseLost
from service.store.session import Store, migrate, open_store
from service.store.states import EventKind, JobState, TrialState
from service.store.tables import Trial
from tests.search.planning.simulated_job import make_spec
from tests.workers.claimed_job import SMALL, ClaimedJob, check_reports, check_runs_once
from tests.workers.in_process import InProcessExecutor
from tests.workers.tiny_trials import STEPS_PER_EPOCH, TEACHER_EPOCHS, TinyRun, TinyTrials
from workers.assignment import Assignment, Started
from workers.conductor import Answer, Death
from workers.job_conductor import JobConductor


def steps_of(trial: Trial) -> int:
    """How many steps a completed tiny trial has."""
    if trial.stage == StageName.TEACHER:
        return TEACHER_EPOCHS * STEPS_PER_EPOCH
    return int(trial.parameters.get("epochs", 0)) * STEPS_PER_EPOCH


def carry_out(job: ClaimedJob, trials: TinyTrials | None = None, *, seed: int = 0) -> InProcessExecutor:
    """One driver, to the end."""
    conductor = job.conductor()
    executor = InProcessExecutor(conductor, trials or TinyTrials(), seed=seed)
    assert executor.run()
    executor.kill()
    conductor.conclude()
    return executor


def check(job: ClaimedJob) -> None:
    check_reports(job.store, Path(job.settings.artifact_root), job.id, steps=steps_of)
    check_runs_once(job.events())


class TestWholeJob:
    def test_succeeds_with_report_recipe_and_files(self, claimed_job: ClaimedJob) -> None:
        carry_out(claimed_job)
        row = claimed_job.row()
        assert (row.state, row.status_reason) == (JobState.SUCCEEDED, "completed")
        assert row.report is not None
        assert row.status_message == row.report["verdict"]["sentence"]
        assert row.recipe_id is not None
        assert row.preflight is not None
        with claimed_job.store.session() as session:
            names = [file.name for file in artifacts.list_for_job(session, job_id=claimed_job.id)]
        assert names.count("student.safetensors") == 6
        assert {"teacher.safetensors", "recipe.json"} <= set(names)
        check(claimed_job)

    def test_comes_to_the_stages_in_order_and_tells_of_each_once(self, claimed_job: ClaimedJob) -> None:
        carry_out(claimed_job)
        told = [event.data["stage"] for event in claimed_job.events(EventKind.JOB_STAGE)]
        assert told == [stage.value for stage in StageName]

    def test_progress_ends_with_all_trials_done(self, claimed_job: ClaimedJob) -> None:
        carry_out(claimed_job)
        progress = claimed_job.row().progress
        assert progress is not None
        assert progress["trials_done"] == progress["trials_total"] == len(claimed_job.trials())
        assert progress["running"] == 0

    def test_a_trial_is_stopped_early_with_step_value_and_threshold(self, claimed_job: ClaimedJob) -> None:
        carry_out(claimed_job)
        stopped = [trial for trial in claimed_job.trials() if trial.state is TrialState.STOPPED_EARLY]
        assert stopped, "none was stopped"
        for trial in stopped:
            assert trial.stopped is not None
            assert trial.stopped["step"] % STEPS_PER_EPOCH == 0
            assert trial.stopped["value"] < trial.stopped["threshold"]
            assert trial.device_seconds > 0

    def test_never_has_more_trials_at_work_than_the_spec_allows(
        self, sqlite_store: Store, settings: Settings
    ) -> None:
        spec = make_spec(**{**SMALL, "search": {**SMALL["search"], "concurrent_trials": 3}})
        job = ClaimedJob(sqlite_store, settings, spec)
        conductor = job.conductor()
        executor = InProcessExecutor(conductor, TinyTrials(), slots=10)
        most = 0
        while executor.step():
            most = max(most, len(executor.at_work))
        assert most == 3

    def test_leaves_logs_and_no_checkpoints(self, claimed_job: ClaimedJob) -> None:
        carry_out(claimed_job)
        files = [path.name for path in Path(claimed_job.settings.artifact_root).rglob("*") if path.is_file()]
        assert not [name for name in files if name.startswith("checkpoint-")]
        assert [name for name in files if name.startswith("reports-")]

    def test_a_dry_run_ends_after_preflight(self, sqlite_store: Store, settings: Settings) -> None:
        spec = make_spec(teachers=[{"model": "test_resnet", "weights": "untrained"}])
        job = ClaimedJob(sqlite_store, settings, spec, dry_run=True)
        carry_out(job)
        row = job.row()
        assert (row.state, row.report, row.recipe_id) == (JobState.SUCCEEDED, None, None)
        assert row.preflight is not None
        assert [trial.stage for trial in job.trials()] == ["teacher", "preflight"]


class TestFailure:
    def test_a_trial_that_fails_gives_its_code_and_the_job_goes_on(self, claimed_job: ClaimedJob) -> None:
        def break_one(run: TinyRun) -> None:
            if run.key == TrialKey(StageName.TUNING, "tuned_kd", 0, 1):
                raise ZeroDivisionError("in the middle")

        carry_out(claimed_job, TinyTrials(on_step=break_one))
        (failed,) = [trial for trial in claimed_job.trials() if trial.state is TrialState.FAILED]
        assert (failed.error_code, failed.error_message) == ("internal", "ZeroDivisionError: in the middle")
        assert claimed_job.row().state is JobState.SUCCEEDED

    @pytest.mark.parametrize("stage", [StageName.TEACHER, StageName.PREFLIGHT, StageName.EXPORT])
    def test_a_stage_of_one_trial_ends_the_job_with_its_code(
        self, claimed_job: ClaimedJob, stage: StageName
    ) -> None:
        problem = SearchProblem("the teacher is no better than chance", code="teacher_check_failed")
        carry_out(claimed_job, TinyTrials(problems={stage: problem}))
        row = claimed_job.row()
        assert (row.state, row.status_reason) == (JobState.FAILED, "teacher_check_failed")
        assert row.status_message == "the teacher is no better than chance"

    def test_what_is_running_when_the_job_fails_is_cancelled(self, claimed_job: ClaimedJob) -> None:
        problems = {StageName.PROOF: SearchProblem("too hot", code="nan")}
        carry_out(claimed_job, TinyTrials(problems=problems))
        states = {trial.state for trial in claimed_job.trials() if trial.stage == StageName.PROOF}
        assert claimed_job.row().state is JobState.FAILED
        assert states <= {TrialState.FAILED, TrialState.CANCELLED}

    def test_refused_resources_end_the_job_before_any_trial(self, claimed_job: ClaimedJob) -> None:
        conductor = claimed_job.conductor()
        conductor.refuse("no_resources", "each trial needs 1 GPU")
        conductor.conclude()
        row = claimed_job.row()
        assert (row.state, row.status_reason) == (JobState.FAILED, "no_resources")
        assert row.status_message == "each trial needs 1 GPU"
        assert claimed_job.trials() == []
        assert [event.data["stage"] for event in claimed_job.events(EventKind.JOB_STAGE)] == ["preflight"]

    def test_a_job_that_is_not_over_cannot_be_concluded(self, claimed_job: ClaimedJob) -> None:
        with pytest.raises(RuntimeError, match="before the job"):
            claimed_job.conductor().conclude()


class TestDeath:
    """A trial's process has died; the driver lives."""

    @staticmethod
    def _assigned(conductor: JobConductor) -> Assignment:
        assignment = conductor.next_assignment()
        assert isinstance(assignment, Assignment)
        return assignment

    def test_the_trial_is_assigned_again_at_once(self, claimed_job: ClaimedJob) -> None:
        conductor = claimed_job.conductor()
        first = self._assigned(conductor)
        assert conductor.next_assignment() is Answer.WAIT
        conductor.lost(first.trial_id, Death(out_of_memory=False, message="killed"))
        assert self._assigned(conductor) == first

    @pytest.mark.parametrize(
        ("out_of_memory", "deaths", "code"), [(False, 3, "worker_died"), (True, 2, "oom")]
    )
    def test_but_not_for_ever(
        self, claimed_job: ClaimedJob, out_of_memory: bool, deaths: int, code: str
    ) -> None:
        conductor = claimed_job.conductor()
        for _ in range(deaths):
            trial_id = self._assigned(conductor).trial_id
            conductor.lost(trial_id, Death(out_of_memory=out_of_memory, message="killed by signal 9"))
        assert conductor.next_assignment() is Answer.DONE
        conductor.conclude()
        (trial,) = claimed_job.trials()
        assert (trial.state, trial.error_code) == (TrialState.FAILED, code)
        assert trial.error_message is not None
        assert "killed by signal 9" in trial.error_message
        assert claimed_job.row().status_reason == code

    def test_an_interruption_counts_for_nothing(self, claimed_job: ClaimedJob) -> None:
        conductor = claimed_job.conductor()
        for _ in range(10):
            conductor.interrupted(self._assigned(conductor).trial_id)
        assert isinstance(conductor.next_assignment(), Assignment)


class TestCancel:
    def test_ends_job_and_trials(self, claimed_job: ClaimedJob) -> None:
        conductor = claimed_job.conductor()
        executor = InProcessExecutor(conductor, TinyTrials())
        executor.run(most_messages=60)
        conductor.cancel()
        assert executor.run()
        conductor.conclude()
        assert claimed_job.row().state is JobState.CANCELLED
        assert claimed_job.row().status_reason == "cancelled_by_user"
        assert {trial.state for trial in claimed_job.trials() if not trial.result} <= {
            TrialState.CANCELLED,
            TrialState.STOPPED_EARLY,
        }


class TestCrash:
    def test_a_successor_finds_only_the_end_left_to_record(self, claimed_job: ClaimedJob) -> None:
        assert InProcessExecutor(claimed_job.conductor(), TinyTrials()).run()
        claimed_job.lose()
        conductor = claimed_job.conductor()
        assert conductor.is_over
        conductor.conclude()
        assert claimed_job.row().state is JobState.SUCCEEDED
        check(claimed_job)

    def test_a_lost_lease_is_noticed_at_the_next_write(self, claimed_job: ClaimedJob) -> None:
        conductor = claimed_job.conductor()
        executor = InProcessExecutor(conductor, TinyTrials())
        executor.run(most_messages=20)
        before = len(claimed_job.events())
        claimed_job.lose()
        with pytest.raises(LeaseLost):
            executor.run()
        assert len(claimed_job.events()) == before + 2  # driver_lost, claimed

    def test_unfinished_trials_go_on_under_their_ids_from_their_checkpoints(
        self, claimed_job: ClaimedJob
    ) -> None:
        trials = TinyTrials()
        executor = InProcessExecutor(claimed_job.conductor(), trials)
        while not any(work.assignment.stage is StageName.PROOF for work in executor.at_work):
            executor.step()
        executor.run(most_messages=12)
        unfinished = {work.assignment.trial_id for work in executor.at_work}
        executor.kill()
        claimed_job.lose()
        successor = carry_out(claimed_job, trials)
        resumed = [one for one in successor.assigned if one.trial_id in unfinished]
        assert {one.trial_id for one in resumed} == unfinished
        assert successor.assigned[: len(resumed)] == resumed, "they come first"
        assert {one.attempt for one in successor.assigned} == {2}
        check(claimed_job)

    def test_a_curve_beyond_the_checkpoint_is_not_looked_at(self, claimed_job: ClaimedJob) -> None:
        """An earlier attempt may have validated further: that is about to happen again."""
        first = claimed_job.conductor()
        executor = InProcessExecutor(first, TinyTrials(), slots=1)
        while not any(work.assignment.stage is StageName.SEARCH for work in executor.at_work):
            executor.step()
        (work,) = executor.at_work
        executor.run(most_messages=2 * STEPS_PER_EPOCH + 1)
        executor.kill()
        claimed_job.lose()
        second = claimed_job.conductor()
        assignment = second.next_assignment()
        assert isinstance(assignment, Assignment)
        assert assignment.trial_id == work.assignment.trial_id
        known = second._memory[assignment.trial_id]
        assert len(known.record.curve) == 2
        second.heard(assignment.trial_id, Started(node="here", process_id=1, step=STEPS_PER_EPOCH))
        assert [point.step for point in known.record.curve] == [STEPS_PER_EPOCH]

    @given(
        kills=st.lists(st.integers(min_value=0, max_value=120), min_size=1, max_size=8),
        every=st.sampled_from([0.0, 1000.0]),
        seed=st.integers(0, 1000),
    )
    @hypothesis_settings(
        max_examples=10,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],  # an example takes seconds: shrinking would take minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_kills_at_any_moment_leave_no_gap_no_double_and_no_second_run(
        self, tmp_path_factory: pytest.TempPathFactory, kills: list[int], every: float, seed: int
    ) -> None:
        home = tmp_path_factory.mktemp("killed")
        migrate(f"sqlite:///{home / 'limbeck.sqlite'}")
        store = open_store(f"sqlite:///{home / 'limbeck.sqlite'}")
        settings = Settings(home=home, checkpoint_seconds=every or 1e-9)
        job = ClaimedJob(store, settings)
        trials = TinyTrials()
        for number, messages in enumerate(kills):
            executor = InProcessExecutor(job.conductor(), trials, seed=seed + number)
            executor.run(most_messages=messages)
            executor.kill()
            job.lose()
        carry_out(job, trials, seed=seed)
        assert job.row().state is JobState.SUCCEEDED
        check(job)
        store.close()
