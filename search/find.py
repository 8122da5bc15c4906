"""Find a process for a teacher, a student and a data set: `python -m search.find`.

python -m search.find --teacher test_resnet --train-teacher 20 --student test_convnext --epochs 10 --out
found.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from search.commands.live_progress import LiveProgress
from search.commands.local_job import LocalJob
from search.commands.options import SharedOptions, command, console
from search.commands.running import local_job
from search.devices import device_for
from search.label_free import JudgedBy, judged_by
from search.plan import EXPORT_KEY, searched_run
from search.planning.costs import cache_device_seconds, devices_per_trial
from search.planning.findings import replays_json, what_search_found
from search.planning.history import History
from search.recipe import Recipe
from search.records import ExportParameters, Proposal, StageName, TrialRecord
from search.stages.export import write_recipe
from search.trial import TrialSetting


def find(job: LocalJob) -> tuple[Recipe, list[TrialRecord]]:
    """Search with the plan's own strategy until tuning would begin; the found process as a recipe.

    Raises SearchProblem when nothing could be found.
    """
    job.run(until=StageName.TUNING)
    found = what_search_found(job.spec, History(job.records))
    devices = devices_per_trial(job.planned)
    evidence: dict[str, Any] = {
        "validation_accuracy": found.chosen.accuracy,
        "judged_by": judged_by(job.spec).value,
        "process_kind": found.kind.value,
        "replays": replays_json(found),
        "trials": [
            {
                "key": str(record.key),
                "state": record.state.value,
                "device_seconds": record.device_seconds - cache_device_seconds(record, devices=devices),
            }
            for record in job.records
        ],
    }
    run = searched_run(job.spec, job.records)
    parameters = ExportParameters(arm="searched", seed=0, run=run, report=evidence)
    document = parameters.model_dump(mode="json")
    setting = TrialSetting(
        job.spec,
        EXPORT_KEY,
        document,
        job.places(Proposal(EXPORT_KEY, document)),
        job.threads,
        device_for(job.spec, job.device),
    )
    return write_recipe(setting, parameters, proof_seeds=[]), job.records


@command
def main(
    options: SharedOptions,
    out: Annotated[Path, typer.Option("--out", help="The JSON file to be written.")] = Path("found.json"),
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Search trials; by default 1, or the recipe's.")
    ] = None,
) -> None:
    """Search for the distillation process of a pair, and write it as a recipe."""
    given = options.given_recipe()
    spec = options.spec(given, budget__trials=trials or (None if given else 1))
    with tempfile.TemporaryDirectory(prefix="limbeck-") as directory, LiveProgress(console) as progress:
        job = local_job(options, spec, Path(directory), recipe=given, progress=progress)
        found, _ = find(job)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(found.to_json())
    console.print(in_words(found.evidence), highlight=False)
    console.print(f"wrote {out}", highlight=False)


def in_words(evidence: Mapping[str, Any]) -> str:
    """The judged candidates, one a line; the chosen one is marked."""
    figure = JudgedBy(evidence.get("judged_by", JudgedBy.ACCURACY)).in_words
    lines = [
        f"{'*' if one['chosen'] else ' '} {one['arm'].replace('_', ' '):16} validation {figure} "
        f"{one['accuracy']:.4f} ± {one['standard_error']:.4f}, {one['pathways']} pathways"
        for one in evidence["replays"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
