"""What the API answers, as typed documents. Fields that a newer server adds are kept, not refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Event(Answer):
    """One line of a job's history; `sequence` counts from 1 in each job."""

    sequence: int
    created_at: str
    kind: str
    level: str = "info"
    message: str = ""
    data: dict[str, Any] | None = None


class Trial(Answer):
    """One training run of a job. `stopped`: at which step, value, threshold and rule it was stopped early."""

    id: str
    stage: str
    arm: str
    seed: int
    index: int
    state: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] | None = None
    stopped: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    attempt: int = 0
    device_seconds: float = 0.0


class MetricRow(Answer):
    """A trial's figures at one step (an optimiser update)."""

    step: int
    epoch: float
    figures: dict[str, float]
    attempt: int = 0
    is_validation: bool = False


class Artifact(Answer):
    """A file of a job; `sha256` is checked when it is downloaded."""

    id: str
    name: str
    bytes: int
    sha256: str
    trial_id: str | None = None


class Verdict(Answer):
    """Which arm to use, and why in a sentence."""

    arm: str
    sentence: str
    proof_arm: str | None = Field(
        default=None, description="The row of `arms` that is meant: `plain_kd` means `tuned_kd`."
    )
    process_kind: str | None = None
    longer_sentence: str | None = None


class ArmRun(Answer):
    """One proof run: its seed and its accuracy on test, in [0, 1]."""

    seed: int
    accuracy: float
    device_seconds: float = 0.0


class ArmReport(Answer):
    """One way to train: all its proof runs, and what finding it cost."""

    arm: str
    label: str
    runs: list[ArmRun] = Field(default_factory=list)
    mean: float | None = None
    standard_deviation: float | None = None
    failed: str | None = None
    training_device_seconds: float | None = None
    search_device_seconds: float | None = None


class Difference(Answer):
    """Paired difference of accuracy, `arm` minus `baseline`, with its 95% interval."""

    arm: str
    baseline: str
    mean: float
    lower: float | None = None
    upper: float | None = None
    seeds: int = 0


class Replay(Answer):
    """An edit of the learned process as it was judged on validation; one is the searched arm."""

    arm: str
    kind: str
    pathways: int
    accuracy: float
    standard_error: float
    accuracies: list[float] = Field(default_factory=list)
    device_seconds: float = 0.0
    chosen: bool = False


class FiguresRow(Answer):
    """What is reported of the teacher or of an arm's students, in the mean, without choosing by it."""

    label: str
    agreement: float | None = None
    neighbour_agreement: float | None = None
    knn_accuracy: float | None = None
    linear_probe_accuracy: float | None = None
    out_of_distribution_auroc: float | None = None


class WithoutLabels(Answer):
    """Of a job without labels: what stands for accuracy in the whole report, and further figures."""

    judged_by: str
    judged_in_words: str
    sentence: str
    out_of_distribution: str
    rows: list[FiguresRow] = Field(default_factory=list)


class Report(Answer):
    """What a job found out: verdict, arms over all seeds on the untouched test split, differences, cost."""

    verdict: Verdict
    arms: list[ArmReport]
    differences: list[Difference] = Field(default_factory=list)
    replays: list[Replay] = Field(default_factory=list)
    device_seconds: dict[str, float] = Field(default_factory=dict)
    test_images: int | None = None
    epochs: int | None = None
    notes: list[str] = Field(default_factory=list)
    without_labels: WithoutLabels | None = None

    def difference(self, arm: str, baseline: str = "tuned_kd") -> Difference | None:
        """The paired difference of two arms, if it was measured."""
        found = (entry for entry in self.differences if (entry.arm, entry.baseline) == (arm, baseline))
        return next(found, None)


class RecipeDocument(dict[str, Any]):
    """A recipe as JSON; `save` writes a file that `python -m search.distill --recipe FILE` takes."""

    def save(self, path: str | Path) -> Path:
        """Write it, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            temporary.write_text(json.dumps(self, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target
