"""A search killed at any step, inside a window too, ends bitwise as one that was left alone."""

from __future__ import annotations

import pytest
import torch

from search.checkpoint import from_bytes, to_bytes
from search.distill import Distillation
from tests.search.hypergradient.runs import TRAINING, make_run

LEARN = {"lookahead_steps": 3, "update_every_steps": 4}


def a_run(optimizer: str) -> Distillation:
    return make_run(TRAINING[optimizer], "test_resnet", dtype=torch.float32, transform="gated", learn=LEARN)


def ended(run: Distillation) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    for _ in run.steps():
        pass
    weights = {**run.student.state_dict(), **run.losses.state_dict(prefix="losses.")}
    return weights, run.recorded().model_dump()


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_at_every_step(optimizer: str) -> None:
    weights, process = ended(a_run(optimizer))
    going = a_run(optimizer)
    saved = [to_bytes(going.state()) for _ in going.steps()]
    assert any(
        point["pathway_weights"] != process["points"][0]["pathway_weights"] for point in process["points"]
    )  # type: ignore[index]
    for step, data in enumerate(saved[:6], start=1):
        resumed = a_run(optimizer)
        resumed.load(from_bytes(data))
        found, found_process = ended(resumed)
        assert found_process == process, step
        assert all(torch.equal(value, found[name]) for name, value in weights.items()), step


def test_a_window_is_kept_only_while_it_is_open() -> None:
    run = a_run("nesterov")
    sizes = [len(run.state()["learning"]["window"]) for _ in run.steps()]
    assert sizes[:8] == [1, 2, 0, 0, 1, 2, 0, 0]


def test_loading_leaves_the_state_alone() -> None:
    run = a_run("nesterov")
    steps = run.steps()
    next(steps)
    data = to_bytes(run.state())
    state = from_bytes(data)
    resumed = a_run("nesterov")
    resumed.load(state)
    kept = state["learning"]["window"][0]["before"]
    expected = from_bytes(data)["learning"]["window"][0]["before"]
    for _ in resumed.steps():
        pass
    assert all(torch.equal(value, kept[name]) for name, value in expected.items())
