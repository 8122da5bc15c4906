"""A run and the teacher's cache: the same bits whether that is warm, cold, deleted, or has no room."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search.checkpoint import from_bytes
from search.data import ImageSet
from search.evaluate import Evaluation
from search.plan import teacher_proposal
from search.planning.arms import plain_kd
from search.problems import NonFiniteFigure, SearchProblem
from search.recipe import Pathway, Process
from search.records import Learning, RunParameters, StageName, TrialKey
from search.registry import load_everything
from search.spec import JobSpec
from search.stages.student import StudentRun
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import TeacherPass
from search.trial import Places, open_trial

KEY = TrialKey(StageName.SEARCH, "searched", 0, 0)
STEPS = 6


def spec_of(**training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "teachers": [{"model": "test_resnet", "weights": "untrained"}],
            "student": {"model": "resnet8_w8"},
            "data": {"splits": {"train": 48, "meta": 16, "validation": 16, "test": 20}},
            "training": {"batch_size": 16, "views": 2, "augmentation": "crop_flip", **training},
            "budget": {"epochs_per_trial": 2},
        }
    )


def process(*weights: float, skip_below: float = 0.0) -> Process:
    """Plain KD and as many pathways, from the teacher's last stages to the student's last."""
    kd = plain_kd()
    pathways = [
        Pathway(teacher_stage=4 - index, student_stage=2, transform="projection", distance="mse")
        for index in range(len(weights))
    ]
    points = [point.model_copy(update={"pathway_weights": list(weights)}) for point in kd.points]
    changes = {"pathways": pathways, "points": points, "skip_below": skip_below}
    return Process.model_validate(kd.model_copy(update=changes).model_dump())


SEARCH = RunParameters(process=process(0.05, 0.05), epochs=2, learn=Learning(learning_rate=0.1))
REPLAY = RunParameters(process=process(1.0, 0.5), epochs=2)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_everything()
    places = Places(tmp_path_factory.mktemp("teacher"), tmp_path_factory.mktemp("cache"))
    proposal = teacher_proposal(spec_of())
    run = open_trial(spec_of(), proposal.key, proposal.parameters, places)
    return run.outcome().files["teacher.safetensors"]


@pytest.fixture
def places(tmp_path: Path, teacher_file: Path) -> Places:
    (tmp_path / "trial").mkdir()
    return Places(tmp_path / "trial", tmp_path / "cache", teacher_file=teacher_file)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """The teacher's passes over whole views: view and stages."""
    made: list[tuple[int, tuple[int, ...]]] = []
    over_view = TeacherPass.over_view

    def counted(self: TeacherPass, view: int, stages: Any, keep: Any) -> None:
        made.append((view, tuple(stages)))
        over_view(self, view, stages, keep)

    monkeypatch.setattr(TeacherPass, "over_view", counted)
    return made


def opened(
    places: Places,
    run: RunParameters,
    *,
    state: bytes | None = None,
    max_steps: int | None = None,
    **training: Any,
) -> StudentRun:
    parameters = run.model_dump(mode="json")
    found = open_trial(spec_of(**training), KEY, parameters, places, state=state, max_steps=max_steps)
    assert isinstance(found, StudentRun)
    return found


def ended(run: StudentRun) -> dict[str, Any]:
    """All of its state at the end but the time it took."""
    assert sum(1 for _ in run.steps()) <= STEPS
    state = from_bytes(run.state())
    return {name: value for name, value in state.items() if "seconds" not in name}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def _no_room(*_: object) -> Iterator[None]:
    raise OSError(28, "No space left on device")


class TestSameBits:
    @pytest.mark.parametrize("parameters", [SEARCH, REPLAY], ids=["search", "replay"])
    @pytest.mark.parametrize("meanwhile", ["warm", "deleted", "full"])
    def test_continued_at_any_step(
        self, places: Places, parameters: RunParameters, meanwhile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = ended(opened(places, parameters))
        for at in (1, 4):
            if meanwhile == "deleted":
                shutil.rmtree(places.cache_directory / "teacher_outputs")
            if meanwhile == "full":
                shutil.rmtree(places.cache_directory / "teacher_outputs", ignore_errors=True)
                monkeypatch.setattr("search.teacher_cache.files._append", _no_room)
            begun = opened(places, parameters)
            steps = begun.steps()
            for _ in range(at):
                next(steps)
            state = begun.state()
            if meanwhile == "deleted":
                shutil.rmtree(places.cache_directory / "teacher_outputs")
            assert_equal(ended(opened(places, parameters, state=state)), whole)


class TestPasses:
    def test_a_search_and_its_replay_run_the_teacher_once_for_each_view(
        self, places: Places, passes: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = opened(places, SEARCH)
        teacher = run.run.teacher
        assert teacher is not None
        monkeypatch.setattr(type(run.run.batches), "_asked", None)  # the live teacher: not to be called
        ended(run)
        ended(opened(places, REPLAY))
        ended(opened(places, RunParameters(process=plain_kd(), epochs=2)))
        assert passes == [(0, (3, 4)), (1, (3, 4))]

    def test_stages_that_a_replay_never_computes_are_not_kept(
        self, places: Places, passes: list[Any]
    ) -> None:
        run = RunParameters(process=process(1.0, 0.001, skip_below=0.01), epochs=2)
        ended(opened(places, run))
        assert passes == [(0, (4,)), (1, (4,))]  # the first step needs both, and asks the teacher itself

    def test_the_seconds_are_counted_apart(self, places: Places) -> None:
        first = opened(places, REPLAY)
        ended(first)
        result = first.outcome().result
        assert result["cache_seconds"] > 0
        assert result["seconds"] > 0
        assert result["seconds"] + result["cache_seconds"] == pytest.approx(first.run.seconds)
        again = opened(places, REPLAY, state=first.state())
        assert again.outcome().result["cache_seconds"] == pytest.approx(result["cache_seconds"])

    @pytest.mark.parametrize(
        ("max_steps", "training"), [(2, {}), (None, {"mixup_alpha": 0.4}), (None, {"cutmix_alpha": 1.0})]
    )
    def test_where_they_are_of_no_use_nothing_is_kept(
        self, places: Places, passes: list[Any], max_steps: int | None, training: dict[str, Any]
    ) -> None:
        ended(opened(places, REPLAY, max_steps=max_steps, **training))
        assert passes == []


def test_a_stage_that_does_not_fit_is_computed_live(
    places: Places, monkeypatch: pytest.MonkeyPatch, passes: list[Any]
) -> None:
    def small(directory: Path, teacher_pass: TeacherPass, **settings: Any) -> Any:
        images: ImageSet = teacher_pass.images
        (shape,) = teacher_pass.shapes([4])[1].values()
        return TeacherCache(
            directory, teacher_pass, **settings, limit_bytes=2 * 2 * len(images) * shape.numel()
        )

    monkeypatch.setattr("search.stages.kept_outputs.TeacherCache", small)
    run = opened(places, REPLAY)
    assert run.kept is not None
    assert run.kept.stages == (4,)
    whole = ended(run)
    assert passes == []  # every step needs a stage that is not kept
    assert_equal(ended(opened(places, REPLAY)), whole)


def test_a_run_on_other_data_than_preflights_is_refused(places: Places) -> None:
    other = SEARCH.model_copy(update={"data_sha256": "0" * 64})
    with pytest.raises(SearchProblem, match="not the one that the job began with") as caught:
        open_trial(spec_of(), KEY, other.model_dump(mode="json"), places)
    assert caught.value.code == "data_differs"


def test_a_figure_that_is_not_finite_fails_the_trial(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_trial(spec_of(), KEY, REPLAY.model_dump(mode="json"), places)
    broken = Evaluation(0.1, math.nan, None, 0.0, 16)
    monkeypatch.setattr("search.stages.judging.evaluate", lambda *_, **__: broken)
    with pytest.raises(NonFiniteFigure, match="the loss on the judged images became nan"):
        run.outcome()
