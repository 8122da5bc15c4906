"""A benchmark's job in a pool of processes: carried out by the plan, kept, continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ledger import Ledger, OtherSettingsError
from benchmarks.pool import Place, Pool
from benchmarks.pooled_job import PooledJob
from benchmarks.steps_in_turn import blocks, seconds_in_turn
from search.planning.arms import plain_kd, proof_run
from search.problems import SearchProblem
from search.recipe import Pathway, Process, constant
from search.records import Proposal, RunParameters, StageName, TrialKey
from search.spec import Budget, JobSpec, Search, Space, Student, Teacher, TeacherTraining

SPEC = JobSpec(
    teachers=[Teacher(model="test_resnet", training=TeacherTraining(epochs=1))],
    student=Student(model="test_resnet"),
    search=Search(space=Space(connections=["none"])),
    budget=Budget(trials=1, epochs_per_trial=1),
    floor_accuracy=0.0,
)


def proposal(name: str, run: RunParameters) -> Proposal:
    return Proposal(TrialKey(StageName.PROOF, name, 0, 0), run.model_dump(mode="json"))


def job(directory: Path, pool: Pool, said: list[str]) -> PooledJob:
    ledger = Ledger(directory / "runs.json", {"epochs": 1})
    return PooledJob("part", SPEC, Place(directory, directory / "datasets.toml"), pool, ledger, said.append)


def test_a_job_is_carried_out_kept_and_continued(tmp_path: Path) -> None:
    said: list[str] = []
    alone = proposal("alone", proof_run(constant(), epochs=1))
    with Pool(2) as pool:
        first = job(tmp_path, pool, said)
        first.advance(until=StageName.SEARCH)
        assert [record.key.stage for record in first.records] == [StageName.TEACHER, StageName.PREFLIGHT]
        (record,) = first.run([alone])
        assert record.result is not None
        assert record.result["images"] == 997

        count = len(said)
        again = job(tmp_path, pool, said)
        again.advance(until=StageName.SEARCH)
        assert again.run([alone]) == [record]
        assert len(said) == count, "what the file holds was run again"

        pathway = Pathway(teacher_stage=99, student_stage=0, transform="projection", distance="mse")
        bad = Process.model_validate(
            constant().model_dump()
            | {"pathways": [pathway], "points": [{"progress": 0, "pathway_weights": [1]}]}
        )
        with pytest.raises(SearchProblem, match="stage 99"):
            again.run([proposal("bad", proof_run(bad, epochs=1))])

    needed = [record for record in again.records if record.key.stage is StageName.TEACHER]
    turns = seconds_in_turn(
        SPEC.model_dump_json(), again.place, needed, [alone, proposal("kd", proof_run(plain_kd(), epochs=1))]
    )
    assert len(turns[0]) == len(turns[1]) == record.result["steps"]
    assert min(map(min, turns)) > 0


def test_a_file_of_other_settings_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    Ledger(path, {"epochs": 1}).write_note("seconds", 2.5)
    assert Ledger(path, {"epochs": 1}).note("seconds") == 2.5
    with pytest.raises(OtherSettingsError, match="other settings"):
        Ledger(path, {"epochs": 2})


def test_blocks_leave_out_the_first_step_and_what_disturbs_a_few() -> None:
    assert list(blocks([9.0, 1.0, 1.0, 50.0, 2.0, 2.0, 2.0], size=3)) == [1.0, 2.0]
