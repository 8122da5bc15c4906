"""Rules that follow the training on a CUDA device: their state stays on the CPU."""

from __future__ import annotations

import pytest
import torch

from search.records import Learning
from search.spec import Training
from search.temperature import build_temperature_rule
from tests.search.temperature.batches import BASE, NAMES, logits, process, targets
from tests.search.training.runs import finished, make_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_on_the_device_is_one_on_the_cpu(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        rule = build_temperature_rule(name)
        for step in range(5):
            student, teacher, labels = (
                value.to(device) for value in (logits(2 * step), logits(2 * step + 1), targets())
            )
            rule.observe(student, teacher, labels, progress=step / 5)
        found.append(rule(BASE, 0.5))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_runs_there(name: str) -> None:
    training = Training(batch_size=8, report_every_steps=1, learning_rate=0.01)
    run = make_run(
        training, process=process(name), learn=Learning(learning_rate=0.1), images=24, device="cuda"
    )
    rows = finished(run)
    assert len(rows) == 9
    assert all(row["temperature/teacher-0"] > 0 for row in rows)
    assert all(value.device.type == "cpu" for value in run.process.rules.state_dict().values())
