"""A trial in its actor: what it says, when it saves, how it goes on after a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.problems import SearchProblem
from search.records import StageName
from tests.search.planning.simulated_job import make_spec
from tests.workers.assignments import kinds, make_assignment, take
from tests.workers.tiny_trials import STEPS_PER_EPOCH, TinyRun, TinyTrials
from workers.assignment import MESSAGE, Completed, Failed, Message, Reported, Started
from workers.trial_actor import QUIET_SECONDS, converse
from workers.trial_files import Saved, TrialFiles, checkpoint_names

STEPS = 3 * STEPS_PER_EPOCH


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steps_saved(root: Path) -> list[int]:
    """Steps of the checkpoints that are there, newest first."""
    from service.files import ArtifactRoot

    names = checkpoint_names(ArtifactRoot(root / "artifacts"), "jobs/job_1/trl_1")
    return [int(name.rpartition("-")[2].removesuffix(".bin")) for name in names]


def last(messages: list[Message]) -> Message:
    return messages[-1]


class TestConversation:
    def test_begins_reports_every_step_and_completes(self, tmp_path: Path) -> None:
        heard = list(converse(make_assignment(tmp_path), TinyTrials().load, node="node-1"))
        assert kinds(heard) == ["started", *["reported"] * STEPS, "completed"]
        first, end = heard[0], heard[-1]
        assert isinstance(first, Started)
        assert (first.node, first.step) == ("node-1", 0)
        assert isinstance(end, Completed)
        assert end.result["accuracy"] > 0.5

    def test_every_message_survives_the_journey_as_json(self, tmp_path: Path) -> None:
        heard = list(converse(make_assignment(tmp_path), TinyTrials().load))
        assert [MESSAGE.validate_json(message.model_dump_json()) for message in heard] == heard

    def test_a_stage_without_steps_completes_at_once(self, tmp_path: Path) -> None:
        teacher = tmp_path / "teacher"
        teacher.write_bytes(b"teacher-teacher-0-0")
        (file,) = TrialFiles(make_assignment(tmp_path)).store({"teacher.safetensors": teacher})
        assignment = make_assignment(tmp_path, stage=StageName.PREFLIGHT, parameters={}, teacher_file=file)
        assert kinds(converse(assignment, TinyTrials().load)) == ["started", "completed"]
        assert steps_saved(tmp_path) == []

    def test_loading_is_not_the_trials_time(self, tmp_path: Path) -> None:
        clock, trials = Clock(), TinyTrials()

        def load() -> object:
            clock.now += 1000.0
            return trials.load()

        heard = list(converse(make_assignment(tmp_path), load, clock=clock))
        assert last(heard).device_seconds == 0.0

    def test_speaks_up_when_there_is_nothing_to_report_for_long(self, tmp_path: Path) -> None:
        clock = Clock()
        spec = make_spec(training={"report_every_steps": 1000})

        def pass_time(run: TinyRun) -> None:
            clock.now += QUIET_SECONDS * 0.6

        assignment = make_assignment(tmp_path, spec=spec)
        heard = kinds(converse(assignment, TinyTrials(on_step=pass_time).load, clock=clock))
        assert heard == ["started", *["alive", "reported"] * 3, "completed"]

    def test_scratch_is_gone_afterwards(self, tmp_path: Path) -> None:
        take(converse(make_assignment(tmp_path), TinyTrials().load), 4)
        assert list((tmp_path / "cache/scratch/job_1").iterdir()) == []


class TestSaving:
    def test_happens_only_once_the_report_before_it_is_recorded(self, tmp_path: Path) -> None:
        """To be asked for the next message means that the driver has the last one in SQL."""
        conversation = converse(make_assignment(tmp_path), TinyTrials().load)
        for message in conversation:
            if isinstance(message, Reported):
                recorded = message.step - 1
                assert all(step <= recorded for step in steps_saved(tmp_path)), message
        assert steps_saved(tmp_path)[0] == STEPS

    def test_happens_after_each_validation(self, tmp_path: Path) -> None:
        conversation = converse(make_assignment(tmp_path), TinyTrials().load)
        take(conversation, 1 + STEPS_PER_EPOCH + 1)
        assert steps_saved(tmp_path) == [STEPS_PER_EPOCH]

    def test_happens_in_time_without_any_report(self, tmp_path: Path) -> None:
        clock = Clock()
        spec = make_spec(training={"report_every_steps": 1000, "validate_every_epochs": 1})

        def pass_time(run: TinyRun) -> None:
            clock.now += 0.6

        assignment = make_assignment(tmp_path, spec=spec, checkpoint_seconds=1.0)
        conversation = converse(assignment, TinyTrials(on_step=pass_time).load, clock=clock)
        heard = take(conversation, 2)
        assert isinstance(last(heard), Reported)
        assert steps_saved(tmp_path) == [2], "in the middle of an epoch"

    def test_happens_after_the_last_step_before_the_outcome(self, tmp_path: Path) -> None:
        """What reads the test images must be repeatable, not the training."""

        class Unlucky(TinyRun):
            def outcome(self) -> object:
                raise OSError("disk full")

        def load() -> object:
            return lambda spec, key, parameters, places, **rest: Unlucky(spec, key, parameters, places)

        heard = list(converse(make_assignment(tmp_path), load))
        assert isinstance(last(heard), Failed)
        assert steps_saved(tmp_path)[0] == STEPS


class TestGoingOn:
    @pytest.mark.parametrize("messages", range(1, STEPS + 2))
    def test_wherever_it_was_killed_it_reports_the_rest_and_nothing_twice(
        self, tmp_path: Path, messages: int
    ) -> None:
        whole = list(converse(make_assignment(tmp_path / "whole"), TinyTrials().load))
        before = take(converse(make_assignment(tmp_path), TinyTrials().load), messages)
        after = list(converse(make_assignment(tmp_path, attempt=2), TinyTrials().load))
        started = after[0]
        assert isinstance(started, Started)
        newest = {m.step: m.figures for m in [*before, *after] if isinstance(m, Reported)}
        assert newest == {m.step: m.figures for m in whole if isinstance(m, Reported)}
        reported = [m.step for m in after if isinstance(m, Reported)]
        assert reported == list(range(started.step + 1, STEPS + 1))

    def test_adds_to_the_device_seconds_of_its_checkpoint(self, tmp_path: Path) -> None:
        clock = Clock()
        spec = make_spec(resources_per_trial={"cpus": 2.0}, training={"report_every_steps": 1})

        def pass_time(run: TinyRun) -> None:
            clock.now += 1.0

        trials = TinyTrials(on_step=pass_time)
        take(converse(make_assignment(tmp_path, spec=spec), trials.load, clock=clock), 6)
        clock.now += 500.0
        heard = list(converse(make_assignment(tmp_path, spec=spec, attempt=2), trials.load, clock=clock))
        assert last(heard).device_seconds == pytest.approx(2 * STEPS)

    def test_a_gpu_counts_instead_of_cores(self, tmp_path: Path) -> None:
        spec = make_spec(resources_per_trial={"cpus": 4.0, "gpus": 0.5})
        assert make_assignment(tmp_path, spec=spec).devices == 0.5
        assert make_assignment(tmp_path, spec=spec).threads == 4


class TestFailing:
    def test_with_a_problem_gives_its_code_and_sentence(self, tmp_path: Path) -> None:
        trials = TinyTrials(problems={StageName.SEARCH: SearchProblem("too small", code="budget_too_small")})
        end = last(list(converse(make_assignment(tmp_path), trials.load)))
        assert isinstance(end, Failed)
        assert (end.code, end.message) == ("budget_too_small", "too small")

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ZeroDivisionError("zero"), "internal"),
            (MemoryError("all gone"), "oom"),
            (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "oom"),
        ],
    )
    def test_with_anything_else_keeps_the_traceback(
        self, tmp_path: Path, error: Exception, code: str
    ) -> None:
        def fail(run: TinyRun) -> None:
            if run.step == 4:
                raise error

        heard = list(converse(make_assignment(tmp_path), TinyTrials(on_step=fail).load))
        end = last(heard)
        assert kinds(heard) == ["started", *["reported"] * 3, "failed"]
        assert isinstance(end, Failed)
        assert (end.code, end.message) == (code, f"{type(error).__name__}: {error}")
        trace = (tmp_path / "artifacts/jobs/job_1/trl_1/failure-1.log").read_text()
        assert trace.startswith("Traceback")
        assert "tiny_trials.py" in trace

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_with_a_figure_that_is_not_finite_never_lets_it_out(self, tmp_path: Path, value: float) -> None:
        class Diverging(TinyRun):
            def report(self, validates: bool) -> object:
                report = super().report(validates)
                return report if self.step < 3 else type(report)(3, 1.0, {"loss": value}, False)

        def load() -> object:
            return lambda spec, key, parameters, places, **rest: Diverging(spec, key, parameters, places)

        heard = list(converse(make_assignment(tmp_path), load))
        end = last(heard)
        assert kinds(heard) == ["started", "reported", "reported", "failed"]
        assert isinstance(end, Failed)
        assert end.code == "nan"
        log = (tmp_path / "artifacts/jobs/job_1/trl_1/reports-1.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in log] == [1, 2]

    def test_with_a_result_that_is_not_finite(self, tmp_path: Path) -> None:
        class Hopeless(TinyRun):
            def outcome(self) -> object:
                outcome = super().outcome()
                outcome.result["loss"] = float("nan")
                return outcome

        def load() -> object:
            return lambda spec, key, parameters, places, **rest: Hopeless(spec, key, parameters, places)

        end = last(list(converse(make_assignment(tmp_path), load)))
        assert isinstance(end, Failed)
        assert end.code == "nan"

    def test_with_every_checkpoint_damaged_begins_anew(self, tmp_path: Path) -> None:
        TrialFiles(make_assignment(tmp_path)).save_checkpoint(Saved(3, 1.0, b"3"))
        (tmp_path / "artifacts/jobs/job_1/trl_1/checkpoint-1-3.bin").write_bytes(b"{}")
        started = next(converse(make_assignment(tmp_path, attempt=2), TinyTrials().load))
        assert isinstance(started, Started)
        assert started.step == 0
