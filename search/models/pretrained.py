"""timm's pretrained weights, where they are on this machine: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from search.problems import SearchProblem


def own_normalisation(network: nn.Module, *, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """timm's mean and standard deviation per channel; RGB figures are averaged for other channels."""
    config: Any = network.pretrained_cfg
    figures = []
    for field in ("mean", "std"):
        values = tuple(float(value) for value in config[field])
        figures.append(values if len(values) == channels else (sum(values) / len(values),) * channels)
    return figures[0], figures[1]


def pretrained_classes(name: str) -> int | None:
    """How many classes timm's own weights of a model tell apart; None where timm does not say."""
    config = timm.get_pretrained_cfg(name)
    return None if config is None else int(config.num_classes)


def pretrained_file(name: str, config: Any) -> Path:
    """The pretrained weights of a model with this timm configuration, in the local caches of Hugging Face or
    torch hub.

    Raises SearchProblem `weights_unavailable` where they are not.
    """
    for candidate in cached_files(config):
        if candidate.is_file():
            return candidate
    source = config.hf_hub_id or config.url or "no known place"
    raise SearchProblem(
        f"the pretrained weights of {name} ({source}) are not on this machine, and nothing is downloaded "
        "while a job runs; fetch them there beforehand, or give a weights file",
        code="weights_unavailable",
    )


def cached_files(config: object) -> list[Path]:
    """Where the weights of a timm configuration may lie."""
    from huggingface_hub import try_to_load_from_cache

    found: list[Path] = []
    file, hub, url = (getattr(config, field, None) for field in ("file", "hf_hub_id", "url"))
    if file:
        found.append(Path(file))
    if hub:
        for filename in (getattr(config, "hf_hub_filename", None), "model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(hub, filename) if filename else None
            found += [Path(cached)] if isinstance(cached, str) else []
    if url:
        found.append(Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name)
    return found
