"""On real data: a search moves dynamic kernels away from the identity, and a replay has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search.distill import Distillation, Material
from search.pathways import PathwayLoss
from search.pathways.dynamic_kernel import DynamicKernel
from search.recipe import Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from search.training.precision import forward_taps
from tests.search.test_search_learns import digits, model, teacher

STAGE = 1


def a_run(process: Process, learn: Learning | None) -> Distillation:
    data = digits()
    return Distillation(
        Material(
            student=model("test_resnet", 7),
            teacher=teacher(),
            train=data.splits["train"],
            meta=data.splits["meta"],
        ),
        RunParameters(process=process, epochs=3, learn=learn),
        Training(learning_rate=3e-3),
        seed=7,
    )


def middles(run: Distillation) -> Tensor:
    """The middle of each kernel that a batch gets, (B, C); 1 at the identity."""
    batch, loss = run.batch(), run.losses.pathways[0]
    assert isinstance(loss, PathwayLoss)
    assert isinstance(loss.transform, DynamicKernel)
    with torch.no_grad():
        _, maps = forward_taps(run.student, batch.images, [STAGE], keep_buffers=True)
        taught = batch.teacher_maps[STAGE]
        _, channels, height, width = taught.shape
        projected = loss.transform(maps[STAGE], (channels, height, width))
        return loss.transform.kernels(projected, taught)[:, :, 4]


def test_a_search_moves_kernels_from_the_identity_and_a_replay_begins_with_what_it_found() -> None:
    pathway = Pathway(teacher_stage=STAGE, student_stage=STAGE, transform="dynamic_kernel", distance="l1")
    process = Process(pathways=[pathway], points=[Point(progress=0.0, pathway_weights=[0.5])])
    search = a_run(process, Learning(learning_rate=0.05))
    assert float(middles(search).min()) == pytest.approx(1.0)
    for _ in search.steps():
        pass
    found = middles(search)
    assert float(found.mean()) < 0.98
    assert float(found.std()) > 1e-3, "images and channels get kernels of their own"
    replay = a_run(search.recorded(), None)
    before = float(middles(replay).mean())
    assert before < 0.98
    for _ in replay.steps():
        pass
    assert float(middles(replay).mean()) < 0.98
