"""The preflight stage measures the costliest process of the space, whatever the space holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.plan import PREFLIGHT_KEY
from search.recipe import FeatureLoss, Process
from search.records import PreflightResult
from search.registry import load_everything
from search.spec import JobSpec
from search.stages.preflight import PreflightRun
from search.trial import Places, TrialSetting


def preflight(tmp_path: Path, **space: Any) -> PreflightRun:
    load_everything()
    spec = JobSpec.model_validate(
        {
            "teachers": [{"model": "test_resnet"}],
            "student": {"model": "test_convnext"},
            "search": {"space": space},
        }
    )
    places = Places(trial_directory=tmp_path, cache_directory=tmp_path)
    return PreflightRun(TrialSetting(spec, PREFLIGHT_KEY, {}, places, threads=1, device="cpu"))


def test_of_every_set_of_transforms_the_process_with_the_most_losses_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gated` costs more than `projection` at equal count; which set is the costliest the clock decides."""
    timed: list[tuple[str, ...]] = []

    def seconds(self: PreflightRun, process: Process, **_: object) -> float:
        if not process.pathways:
            return 0.01
        transforms = tuple(sorted({pathway.transform for pathway in process.pathways}))
        assert {pathway.distance for pathway in process.pathways} == {"mse", "hcl"}
        assert len(process.pathways) == 5 * 4 * 2
        assert len(process.logit_losses) == 1
        timed.append(transforms)
        return {("projection",): 0.1, ("gated",): 0.3}[transforms]

    monkeypatch.setattr(PreflightRun, "_seconds", seconds)
    run = preflight(
        tmp_path,
        connections=["none", "last", "all"],
        transforms=[["projection"], ["gated"]],
        distances=[["mse"], ["mse", "hcl"]],
        logit_losses=[[], ["kd"]],
    )
    figures = PreflightResult.model_validate(run.outcome().result).seconds_per_step
    assert figures["pathways"] == figures["search"] == 0.3
    assert timed == [("projection",), ("gated",), ("gated",)]


def test_of_equally_many_losses_the_one_that_asks_a_model_again_is_timed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ltd` attacks the student at every step; `rkd` reads what is there."""
    timed: list[tuple[str, int]] = []

    def seconds(self: PreflightRun, process: Process, **_: object) -> float:
        losses = [one.loss for one in process.pathways if isinstance(one, FeatureLoss)]
        if losses:
            timed.append((*losses, len(process.logit_losses)))  # type: ignore[arg-type]
        return 0.1 if losses != ["ltd"] else 0.3

    monkeypatch.setattr(PreflightRun, "_seconds", seconds)
    run = preflight(
        tmp_path,
        connections=["none"],
        logit_losses=[[], ["kd"]],
        feature_losses=[["rkd"], ["ltd"], ["simkd"]],
    )
    figures = PreflightResult.model_validate(run.outcome().result).seconds_per_step
    assert figures["pathways"] == 0.3
    assert set(timed) == {("rkd", 1), ("ltd", 1), ("simkd", 0)}


@pytest.mark.parametrize(
    "space",
    [
        {"connections": ["none"]},
        {"connections": ["none"], "temperature_rules": ["dts", "learned"]},
        {"transforms": [["identity"]], "distances": [["mse"]]},
    ],
)
def test_a_space_without_pathways_is_measured_too(tmp_path: Path, space: dict[str, Any]) -> None:
    """With real steps: nothing here may break before the plan says what is wrong with the space."""
    result = PreflightResult.model_validate(
        preflight(tmp_path, **space, logit_losses=[[], ["kd"]]).outcome().result
    )
    assert all(seconds > 0 for seconds in result.seconds_per_step.values())


def test_with_a_lookahead_a_step_with_its_update_costs_the_whole_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps of 0.1 s and one update of 0.5 s: what the plan divides by the interval is 0.5 s above."""

    def seconds(self: PreflightRun, process: Process, **options: Any) -> float:
        at_once = options.get("steps_at_once", 1)
        return 0.1 * at_once + (0.5 if options.get("learn") else 0.0)

    monkeypatch.setattr(PreflightRun, "_seconds", seconds)
    run = preflight(tmp_path, update_every_steps=[4])
    run.setting.spec.search.process.lookahead_steps = 4
    figures = PreflightResult.model_validate(run.outcome().result).seconds_per_step
    assert figures["pathways"] == pytest.approx(0.1)
    assert figures["search"] == pytest.approx(0.6)
