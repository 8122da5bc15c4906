"""A trial's files: logs that agree with what was reported, checkpoints that are whole or passed over."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from service.files import ArtifactRoot
from tests.workers.assignments import make_assignment
from workers.assignment import Reported
from workers.trial_files import (
    Saved,
    TrialFiles,
    UnreadableCheckpointError,
    checkpoint_names,
    from_bytes,
    remove_checkpoints,
    to_bytes,
)


def report(step: int) -> Reported:
    return Reported(
        step=step, epoch=step / 3, figures={"loss": 0.1 + 0.2}, is_validation=False, device_seconds=1.0
    )


def logged_steps(root: Path, attempt: int) -> list[int]:
    lines = (root / f"artifacts/jobs/job_1/trl_1/reports-{attempt}.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


class TestCheckpoints:
    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        files = TrialFiles(make_assignment(tmp_path))
        files.save_checkpoint(Saved(7, 1.25, b"\x00\nstate\n"))
        assert files.newest_checkpoint() == Saved(7, 1.25, b"\x00\nstate\n")

    def test_there_is_none_at_first(self, tmp_path: Path) -> None:
        assert TrialFiles(make_assignment(tmp_path)).newest_checkpoint() is None

    def test_the_newest_two_are_kept_by_number_not_by_name(self, tmp_path: Path) -> None:
        files = TrialFiles(make_assignment(tmp_path))
        for step in (8, 9, 10):
            files.save_checkpoint(Saved(step, 0.0, b"state"))
        names = checkpoint_names(ArtifactRoot(tmp_path / "artifacts"), "jobs/job_1/trl_1")
        assert [Path(name).name for name in names] == ["checkpoint-1-10.bin", "checkpoint-1-9.bin"]

    def test_a_later_attempt_comes_before_a_later_step(self, tmp_path: Path) -> None:
        TrialFiles(make_assignment(tmp_path, attempt=9)).save_checkpoint(Saved(30, 0.0, b"nine"))
        TrialFiles(make_assignment(tmp_path, attempt=10)).save_checkpoint(Saved(20, 0.0, b"ten"))
        newest = TrialFiles(make_assignment(tmp_path, attempt=11)).newest_checkpoint()
        assert newest is not None
        assert newest.state == b"ten"

    @pytest.mark.parametrize(
        "damage",
        [
            lambda whole: whole[: len(whole) // 2],
            lambda whole: b"",
            lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
            lambda whole: b"no json\n" + whole,
            lambda whole: b"[1, 2]\nstate",
            lambda whole: b"\xff\xfe" + whole,
        ],
        ids=["truncated", "empty", "flipped", "headless", "foreign", "binary"],
    )
    def test_a_damaged_one_is_passed_over(self, tmp_path: Path, damage: object) -> None:
        files = TrialFiles(make_assignment(tmp_path))
        files.save_checkpoint(Saved(3, 0.5, b"three"))
        files.save_checkpoint(Saved(6, 1.0, b"six"))
        newest = tmp_path / "artifacts/jobs/job_1/trl_1/checkpoint-1-6.bin"
        assert callable(damage)
        newest.write_bytes(damage(newest.read_bytes()))
        assert files.newest_checkpoint() == Saved(3, 0.5, b"three")

    def test_bytes_that_are_none_say_so(self) -> None:
        with pytest.raises(UnreadableCheckpointError):
            from_bytes(b"nothing of the kind")
        assert from_bytes(to_bytes(Saved(1, 2.0, b""))) == Saved(1, 2.0, b"")

    def test_are_removed_at_the_end_and_nothing_else(self, tmp_path: Path) -> None:
        files = TrialFiles(make_assignment(tmp_path))
        files.save_checkpoint(Saved(3, 0.5, b"three"))
        files.log(report(3))
        remove_checkpoints(str(tmp_path / "artifacts"), "job_1", "trl_1")
        assert files.newest_checkpoint() is None
        assert logged_steps(tmp_path, 1) == [3]


class TestLog:
    def test_holds_figures_exactly(self, tmp_path: Path) -> None:
        TrialFiles(make_assignment(tmp_path)).log(report(1))
        line = (tmp_path / "artifacts/jobs/job_1/trl_1/reports-1.jsonl").read_text()
        assert json.loads(line) == {
            "step": 1,
            "epoch": 1 / 3,
            "figures": {"loss": 0.1 + 0.2},
            "is_validation": False,
        }

    def test_of_the_same_attempt_ends_where_the_trial_goes_on(self, tmp_path: Path) -> None:
        """As after the death of an actor under a living driver."""
        files = TrialFiles(make_assignment(tmp_path))
        for step in (1, 2, 3, 4):
            files.log(report(step))
        again = TrialFiles(make_assignment(tmp_path))
        again.open_log(after_step=2)
        again.log(report(3))
        assert logged_steps(tmp_path, 1) == [1, 2, 3]

    def test_of_an_earlier_attempt_is_left_alone(self, tmp_path: Path) -> None:
        TrialFiles(make_assignment(tmp_path)).log(report(5))
        TrialFiles(make_assignment(tmp_path, attempt=2)).open_log(after_step=0)
        assert logged_steps(tmp_path, 1) == [5]


class TestFiles:
    def test_are_stored_under_the_attempt_with_checksum(self, tmp_path: Path) -> None:
        source = tmp_path / "made"
        source.write_bytes(b"weights")
        (stored,) = TrialFiles(make_assignment(tmp_path, attempt=4)).store({"student": source})
        assert stored.path == "jobs/job_1/trl_1/outcome-4/student"
        assert stored.bytes == 7
        assert (tmp_path / "artifacts" / stored.path).read_bytes() == b"weights"

    def test_of_a_local_root_are_used_in_place(self, tmp_path: Path) -> None:
        source = tmp_path / "made"
        source.write_bytes(b"weights")
        files = TrialFiles(make_assignment(tmp_path))
        (stored,) = files.store({"student": source})
        assert files.fetch(stored) == tmp_path / "artifacts" / stored.path
        assert list((tmp_path / "cache/files").iterdir()) == []

    def test_of_a_remote_root_are_copied_once_and_checked(self, tmp_path: Path) -> None:
        source = tmp_path / "made"
        source.write_bytes(b"weights")
        root = f"memory://{uuid.uuid4().hex}"
        files = TrialFiles(make_assignment(tmp_path, artifact_root=root))
        (stored,) = files.store({"student": source})
        copy = files.fetch(stored)
        assert copy.read_bytes() == b"weights"
        assert copy.is_relative_to(tmp_path / "cache")
        ArtifactRoot(root).remove(stored.path)
        assert files.fetch(stored) == copy, "the copy is found again"
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(FileNotFoundError):
            files.fetch(stored)

    def test_with_another_checksum_are_refused(self, tmp_path: Path) -> None:
        source = tmp_path / "made"
        source.write_bytes(b"weights")
        root = f"memory://{uuid.uuid4().hex}"
        files = TrialFiles(make_assignment(tmp_path, artifact_root=root))
        (stored,) = files.store({"student": source})
        ArtifactRoot(root).write_bytes(stored.path, b"others")
        with pytest.raises(OSError, match="checksum"):
            files.fetch(stored)
        assert list((tmp_path / "cache/files").iterdir()) == []
