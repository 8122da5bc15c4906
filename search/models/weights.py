"""Files of weights: read as safetensors or as plain tensors, written so that timm alone loads them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from search.problems import SearchProblem

INTERPOLATION = "bilinear"
PART_METADATA = "limbeck_part"
"""In a file's metadata: with what the part is made again that the student is served with."""
PART_PREFIX = "part."
"""Of that part's entries in the file."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image in [0, 1] before the network: resized to `size`, then (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def to_metadata(self) -> dict[str, str]:
        """As the text that a safetensors file keeps; the floats come back exactly."""
        return {
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "input_size": json.dumps([len(self.mean), self.size, self.size]),
            "interpolation": INTERPOLATION,
        }


def read_preprocessing(path: Path) -> Preprocessing | None:
    """What a weights file says of its inputs; None where it says nothing."""
    if path.suffix != ".safetensors":
        return None
    metadata = read_metadata(path)
    if not {"mean", "std", "input_size"} <= metadata.keys():
        return None
    try:
        mean, std, size = (json.loads(metadata[key]) for key in ("mean", "std", "input_size"))
        found = Preprocessing(mean=tuple(map(float, mean)), std=tuple(map(float, std)), size=int(size[-1]))
        if not (len(found.mean) == len(found.std) == int(size[0]) and all(found.std) and found.size > 0):
            raise ValueError("its mean, std and input_size do not agree")
        return found
    except (ValueError, TypeError, IndexError) as error:
        raise _unreadable(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """A safetensors file's own text entries."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; nothing in it is executed.

    safetensors by its suffix, anything else as a torch file of plain tensors, where `state_dict` or `model`
    may hold them. Raises SearchProblem `weights_unreadable`.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        OSError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        ValueError,
    ) as error:
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise _unreadable(path, "it does not hold a dictionary of tensors")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def load_weights(network: nn.Module, path: Path, *, name: str) -> None:
    """Load a file into a network, every entry of it but those of a served part, exactly.

    Raises SearchProblem `weights_do_not_fit` naming what is missing, left over or of another shape,
    `weights_not_finite` naming what holds NaN, and `weights_unreadable`.
    """
    state = read_state(path)
    if path.suffix == ".safetensors" and PART_METADATA in read_metadata(path):
        state = {key: value for key, value in state.items() if not key.startswith(PART_PREFIX)}
    expected = network.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(expected[key].shape)} in the model"
        for key in sorted(expected.keys() & state.keys())
        if state[key].shape != expected[key].shape
    ]
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    parts = [*wrong[:2]]
    parts += [f"{len(missing)} entries are missing ({', '.join(missing[:2])}...)"] if missing else []
    parts += [f"{len(unknown)} entries are unknown ({', '.join(unknown[:2])}...)"] if unknown else []
    if parts:
        raise SearchProblem(
            f"the weights in {path.name} do not fit {name} with this data's classes and channels: "
            f"{'; '.join(parts)}. Give the model's own weights, or the model that they belong to",
            code="weights_do_not_fit",
        )
    require_finite_entries(state, path)
    network.load_state_dict(state, strict=True)


def require_finite_entries(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise SearchProblem `weights_not_finite` for entries that hold NaN or infinite values."""
    broken = sorted(key for key, tensor in state.items() if not torch.isfinite(tensor).all())
    if broken:
        raise SearchProblem(
            f"the weights in {path.name} hold NaN or infinite values ({len(broken)} entries: "
            f"{', '.join(broken[:2])}{'...' if len(broken) > 2 else ''}): the training that wrote them went "
            "wrong; give an earlier checkpoint, or train anew with a lower learning rate",
            code="weights_not_finite",
        )


def write_weights(entries: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a network's state as safetensors, whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in entries.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    safetensors.torch.save_file(state, temporary, metadata={"format": "pt", **metadata})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _unreadable(path: Path, reason: object) -> SearchProblem:
    return SearchProblem(
        f"the weights in {path.name} cannot be read: {reason}; give a safetensors file, or a torch file of "
        "plain tensors",
        code="weights_unreadable",
    )
