"""Feature losses in the training loop: weighed, skipped, learned, kept by the teacher's cache, continued."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from search.checkpoint import from_bytes, to_bytes
from search.features import Lessons, Seen, build_feature_loss, pair_of
from search.features.contract import FeatureLossModule
from search.models.embedding import EMBEDDING
from search.problems import SearchProblem
from search.recipe import FeatureLoss, LogitLoss, Pathway, Point, Process
from search.records import Learning
from search.spec import Training
from tests.search.cached_teacher import cache
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, model, weights

TRAINING = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
LEARN = Learning(learning_rate=0.1, update_every_steps=2)
JOINED = Pathway(teacher_stage=1, student_stage=1, transform="projection", distance="mse")


def process(*weights: float, losses: tuple[str, ...] = ("rkd",), skip_below: float = 0.0) -> Process:
    """KD, a pathway and feature losses, at these weights of the latter two."""
    return Process(
        logit_losses=[LogitLoss()],
        pathways=[JOINED, *(FeatureLoss(loss=name) for name in losses)],
        skip_below=skip_below,
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0],
                pathway_weights=list(weights),
                teacher_temperatures=[2.0],
                student_temperatures=[2.0],
            )
        ],
    )


def test_it_travels_as_json_beside_pathways() -> None:
    whole = process(0.3, 0.2)
    again = Process.model_validate_json(whole.model_dump_json())
    assert again == whole
    assert [pathway.name for pathway in again.pathways] == ["t1-s1/projection/mse", "rkd"]


def test_one_loss_is_named_once_per_process_unless_its_settings_differ() -> None:
    one = FeatureLoss(loss="rkd")
    other = FeatureLoss(loss="rkd", config={"angle_weight": 1.0})
    point = {"progress": 0.0, "pathway_weights": [0.1, 0.1]}
    assert Process.model_validate({"pathways": [one, other], "points": [point]}).pathways[1].name == (
        "rkd(angle_weight=1.0)"
    )
    with pytest.raises(ValueError, match="no two feature losses the same settings"):
        Process.model_validate({"pathways": [one, one], "points": [point]})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_zero_is_the_run_without_it_to_the_bit(optimizer: str) -> None:
    training = TRAINING.model_copy(update={"optimizer": optimizer})
    without = make_run(training, process=process(0.3, losses=()))
    silent = make_run(training, process=process(0.3, 0.0))
    finished(without)
    finished(silent)
    student = silent.student.state_dict()
    for name, value in without.student.state_dict().items():
        assert torch.equal(value, student[name]), name
    weighing = make_run(training, process=process(0.3, 0.5))
    finished(weighing)
    assert any(not torch.equal(value, student[name]) for name, value in weighing.student.state_dict().items())


def test_it_is_unit_scaled_as_a_pathway_is() -> None:
    run = make_run(TRAINING, process=process(0.3, 0.5))
    next(run.steps())
    assert run.losses.is_measured
    batch = make_run(TRAINING, process=process(0.3, 0.5)).batch()
    assert float(run.losses.scales[1]) > 0
    assert [pathway.scale for pathway in run.recorded().pathways] == run.losses.scales.tolist()
    assert EMBEDDING in batch.teacher_maps


def test_a_skipped_one_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(TRAINING, process=process(0.3, 0.001, skip_below=0.01))
    (loss,) = run.losses.feature_losses()
    calls = []
    forward = type(loss).forward

    def counted(self: FeatureLossModule, seen: Seen) -> torch.Tensor:
        calls.append(run.step)
        return forward(self, seen)

    monkeypatch.setattr(type(loss), "forward", counted)
    finished(run)
    assert calls == [0]


@pytest.mark.parametrize("at", [1, 4])
def test_a_search_with_feature_losses_continues_bitwise(at: int) -> None:
    assert_resumes_bitwise(TRAINING, at=at, process=process(0.1, 0.1), learn=LEARN)


def test_a_search_learns_its_weight() -> None:
    run = make_run(TRAINING, process=process(0.1, 0.1), learn=LEARN)
    finished(run)
    learned = run.recorded()
    assert learned.points[-1].pathway_weights[1] != learned.points[0].pathway_weights[1]


@pytest.mark.parametrize("parts", [1, 2])
def test_indices_and_labels_are_those_of_the_images(parts: int) -> None:
    run = make_run(TRAINING.model_copy(update={"accumulate_parts": parts, "augmentation": "none"}))
    batch = run.batch()
    assert batch.indices is not None
    for part in batch.parts(parts):
        assert part.indices is not None
        train = run.material.train
        assert torch.equal(part.targets, train.labels[part.indices])
        assert torch.equal((part.images * 255).round().to(torch.uint8), train.images[part.indices])


class Remembering(FeatureLossModule):
    """Keeps what it was shown."""

    needs_lessons = True
    lessons_every_epochs = 2

    def __init__(self, images: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("teacher", torch.zeros(images, widths[1]))
        self.register_buffer("student", torch.zeros(images, widths[0]))
        self.times = 0

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        self.times += 1
        for role in ("teacher", "student"):
            given = list(getattr(lessons, role)([EMBEDDING]))
            assert torch.equal(
                torch.cat([indices for _, _, indices in given]), torch.arange(len(self.get_buffer(role)))
            )
            self.keep(role, torch.cat([outputs.embedding for outputs, _, _ in given]))

    def forward(self, seen: Seen) -> torch.Tensor:
        return 0.0 * seen.student.logits.mean()


def test_lessons_are_what_the_models_say_of_every_image_and_come_when_they_are_due() -> None:
    run = make_run(TRAINING.model_copy(update={"augmentation": "none"}), process=process(0.1, 0.1), epochs=5)
    assert run.teacher is not None
    widths = (run.student.embedding_width or 0, run.teacher.embedding_width or 0)
    loss = Remembering(len(run.material.train), widths)
    run.losses.pathways[1] = loss
    run.lessons._asking = [(0, loss)]
    before = weights(run)
    steps = run.steps()
    images = run.material.train.images.float() / 255
    with torch.no_grad():
        student = model("test_vit", seed=2).eval().forward_taps(images, [EMBEDDING])[1][EMBEDDING].flatten(1)
        teacher = run.teacher.forward_taps(images, [EMBEDDING])[1][EMBEDDING].flatten(1)
    next(steps)
    torch.testing.assert_close(loss.get_buffer("teacher"), teacher, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.get_buffer("student"), student, rtol=1e-4, atol=1e-5)
    assert set(before) <= {*weights(run)} | {"pathways.1.teacher", "pathways.1.student"}
    assert run.student.training
    list(steps)
    assert loss.times == 3  # before epochs 0, 2 and 4


def test_a_model_without_the_embedding_is_refused_with_the_remedy() -> None:
    teacher, student = model("test_resnet", seed=0), model("test_vit", seed=0)
    pair = pair_of(student, teacher, images=8)
    blind = type(pair)(type(pair.student)(pair.student.stages, None, "blind"), pair.teacher, 10, 8)
    with pytest.raises(SearchProblem, match="embedding of the student blind is not found; choose a loss on"):
        build_feature_loss("rkd", pair=blind)
    with pytest.raises(SearchProblem, match="angle_wieght") as caught:
        build_feature_loss("rkd", {"angle_wieght": 1.0}, pair=pair)
    assert caught.value.code == "unknown_method"


def test_the_teachers_cache_keeps_the_embedding(tmp_path: Path) -> None:
    kept = cache(tmp_path, stages=[EMBEDDING, 4])
    assert list(kept.stages) == [EMBEDDING, 4]
    indices = torch.tensor([3, 250, 17])
    _, maps = kept.read(indices, 0, [EMBEDDING, 4])
    again = cache(tmp_path, stages=[EMBEDDING])
    assert torch.equal(again.read(indices, 0, [EMBEDDING])[1][EMBEDDING], maps[EMBEDDING])
    torch.testing.assert_close(maps[EMBEDDING][:, :, 0, 0], maps[4].mean(dim=(2, 3)), rtol=5e-3, atol=5e-3)
    assert any("embedding" in file.name for file in tmp_path.rglob("*.npy"))


def test_a_state_before_the_first_step_is_continued_with_lessons() -> None:
    run = make_run(TRAINING, process=process(0.1, 0.1), learn=LEARN)
    other = make_run(TRAINING, process=process(0.1, 0.1), learn=LEARN)
    other.load(from_bytes(to_bytes(run.state())))
    assert [report.figures for report in islice(other.steps(), 3) if report] == [
        report.figures for report in islice(run.steps(), 3) if report
    ]
