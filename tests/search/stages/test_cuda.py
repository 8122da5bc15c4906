"""A whole job on a CUDA device: every stage puts its models where its images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from search.commands.local_job import LocalJob
from search.records import ExportResult, RunResult, StageName
from search.registry import load_everything
from search.spec import JobSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SPEC: dict[str, Any] = {
    "teachers": [{"model": "test_resnet", "training": {"epochs": 2}}],
    "student": {"model": "test_efficientnet"},
    "data": {"splits": {"train": 64, "meta": 32, "validation": 32, "test": 50}},
    "training": {"batch_size": 16, "report_every_steps": 1},
    "budget": {"trials": 1, "epochs_per_trial": 2},
    "proof": {"seeds": [0, 1], "arms": ["student_alone", "tuned_kd", "searched"]},
    "floor_accuracy": 0.0,
}


@pytest.mark.parametrize("weights", ["train", "untrained"])
def test_every_stage_runs_on_it(weights: str, tmp_path: Path) -> None:
    load_everything()
    spec = JobSpec.model_validate({**SPEC, "teachers": [{**SPEC["teachers"][0], "weights": weights}]})
    job = LocalJob(spec, tmp_path, device="cuda")
    assert job.run() is not None
    results = {record.key: record.result for record in job.records}
    (exported,) = (result for key, result in results.items() if key.stage is StageName.EXPORT)
    proved = [
        RunResult.model_validate(result).accuracy
        for key, result in results.items()
        if key.stage is StageName.PROOF and key.seed == 0
    ]
    assert ExportResult.model_validate(exported).accuracy in proved


def test_a_teacher_that_was_kept_is_judged_there_too(tmp_path: Path) -> None:
    load_everything()
    spec = JobSpec.model_validate(SPEC)
    accuracies = []
    for _ in range(2):
        job = LocalJob(spec, tmp_path, device="cuda")
        job.run(until=StageName.PREFLIGHT)
        accuracies.append((job.records[0].result or {})["accuracy"])
    assert accuracies[0] == accuracies[1]
