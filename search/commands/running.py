"""From the options of a command to a local job with a live bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.commands.live_progress import LiveProgress
from search.commands.local_job import LocalJob
from search.commands.options import SMALL_EVALUATION_IMAGES, SharedOptions
from search.label_free import judged_by
from search.recipe import Recipe
from search.records import Proposal, StageName
from search.spec import JobSpec


def local_job(
    options: SharedOptions,
    spec: JobSpec,
    directory: Path,
    *,
    recipe: Recipe | None,
    progress: LiveProgress,
    **settings: Any,
) -> LocalJob:
    """The job that the options describe, at work in `directory`; `settings` are further ones of LocalJob."""
    progress.figure = judged_by(spec).in_words
    return LocalJob(
        spec,
        directory,
        datasets_file=options.datasets_file_in(directory),
        threads=options.threads_with(recipe),
        device=options.device,
        max_steps=options.max_steps,
        evaluation_limit=SMALL_EVALUATION_IMAGES if options.max_steps else None,
        on_start=lambda proposal: progress.on_start(proposal, epochs=_epochs(spec, proposal)),
        on_report=progress.on_report,
        on_end=progress.on_end,
        **settings,
    )


def _epochs(spec: JobSpec, proposal: Proposal) -> int | None:
    """How long the trial trains; None where it does not, or does not say so."""
    if proposal.key.stage is StageName.TEACHER and spec.teacher.weights == "train":
        return spec.teacher.training.epochs
    return proposal.parameters.get("epochs")
