"""A job of a spec, without any service, up to the tuning of KD: `python -m` with a directory and the spec.

Prints its records; a process of its own knows the plug-ins that are installed for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from search.commands.local_job import LocalJob
from search.records import StageName
from search.registry import load_everything
from search.spec import JobSpec

STEPS, IMAGES = 6, 64
"""Of every training run, and of those that judge it: what is trained with matters here, not how well."""


def main(directory: Path, spec: JobSpec) -> None:
    """Run it, and print the records."""
    load_everything()
    job = LocalJob(spec, directory, max_steps=STEPS, evaluation_limit=IMAGES)
    job.run(until=StageName.TUNING)
    told = [
        {"key": str(record.key), "state": record.state.value, "result": record.result}
        for record in job.records
    ]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), JobSpec.model_validate_json(sys.argv[2]))
