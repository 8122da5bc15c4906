"""A real, short search on the digits over chains and over settings of transforms and distances."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.commands.local_job import LocalJob
from search.find import find
from search.recipe import Pathway, Recipe
from search.records import StageName, TrialState
from search.spec import JobSpec

SPEC = {
    "teachers": [{"model": "test_resnet", "training": {"epochs": 8}}],
    "student": {"model": "test_convnext"},
    "search": {
        "space": {
            "connections": ["last"],
            "transforms": [
                [
                    "projection+channel_attention+l2_channels",
                    {
                        "name": "projection+random_mask",
                        "config": {"random_mask.ratio": {"low": 0.2, "high": 0.8}},
                    },
                ],
                [{"name": "gated", "config": {"width_ratio": [0.5, 1.0]}}],
            ],
            "distances": [["mse", {"name": "kl", "config": {"temperature": {"low": 0.5, "high": 4.0}}}]],
        }
    },
    "budget": {"trials": 3, "epochs_per_trial": 1},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, LocalJob]:
    job = LocalJob(JobSpec.model_validate(SPEC), tmp_path_factory.mktemp("job"))
    recipe, _ = find(job)
    return recipe, job


def test_every_trial_trained_with_its_own_settings(found: tuple[Recipe, LocalJob]) -> None:
    _, job = found
    trials = [record for record in job.records if record.key.stage is StageName.SEARCH]
    assert trials
    assert all(trial.state is not TrialState.FAILED for trial in trials)
    temperatures = {
        pathway["distance_config"]["temperature"]
        for trial in trials
        if trial.key.arm == "searched"
        for pathway in trial.parameters["process"]["pathways"]
        if pathway["distance"] == "kl"
    }
    assert len(temperatures) > 1


def test_the_recipe_holds_chains_and_settings_and_reads_back(
    found: tuple[Recipe, LocalJob], tmp_path: Path
) -> None:
    recipe, _ = found
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json())
    again = Recipe.model_validate_json(file.read_text())
    assert again == recipe
    assert all(isinstance(pathway, Pathway) for pathway in again.process.pathways)
