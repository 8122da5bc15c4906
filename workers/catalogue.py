"""What this worker can do, for the catalogue: methods, models, data sets, devices, versions.

Run as a process of its own, which imports torch and ends: the worker's main process stays small, because it
lives as long as the machine while torch would cost it some 300 MB.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from service.settings import Settings

TIMEOUT_SECONDS = 300.0
MARK = "LIMBECK-CATALOGUE "
VERSIONED = ("limbeck", "torch", "torchvision", "timm", "ray", "optuna", "numpy")


class CatalogueError(Exception):
    """The catalogue could not be made; the message holds the end of what the process said."""


def read_catalogue() -> dict[str, Any]:
    """The catalogue, made by a process of its own. Raises CatalogueError."""
    command = [sys.executable, "-m", "workers.catalogue"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise CatalogueError(f"importing models and methods took over {TIMEOUT_SECONDS:g} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not lines:
        raise CatalogueError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    catalogue: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return catalogue


def make_catalogue(settings: Settings) -> dict[str, Any]:
    """The catalogue, by importing everything: seconds, and torch stays in this process."""
    from search.data import available_datasets
    from search.models import available_models
    from search.registry import load_everything, methods

    load_everything()
    return {
        "methods": [method.described() for method in methods()],
        "models": available_models(),
        "datasets": available_datasets(settings.datasets_file),
        "devices": _devices(settings),
        "versions": _versions(),
    }


def _devices(settings: Settings) -> dict[str, Any]:
    """What is here; where Ray runs elsewhere, its nodes have devices of their own."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpus": settings.cpus or len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "ray_address": settings.ray_address,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    # Behind a mark: what a plug-in prints while it is imported must not get in between.
    sys.stdout.write(f"{MARK}{json.dumps(make_catalogue(Settings()))}\n")
