"""Seeds and random orders as pure functions of numbers, so that any step of a run can be made again."""

from __future__ import annotations

import torch
from torch import Tensor


class Seeded:
    """Dropout and the like from a seed of their own; the caller's random state is left as it was."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self._generators = _generators(device)
        self._states: list[Tensor] = []

    def __enter__(self) -> None:
        self._states = [generator.get_state() for generator in self._generators]
        for generator in self._generators:
            generator.manual_seed(self.seed)

    def __exit__(self, *error: object) -> None:
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)


class RandomState:
    """Where the random numbers stand, to draw the same ones again."""

    def __init__(self, device: torch.device) -> None:
        self._generators = _generators(device)
        self._states = [generator.get_state() for generator in self._generators]

    def come_back(self) -> None:
        """Go on from where they stood."""
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)


def _generators(device: torch.device) -> list[torch.Generator]:
    """The CPU's, and that of the device."""
    found: list[torch.Generator] = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        found.append(torch.cuda.default_generators[index])
    if device.type == "mps":
        found.append(torch.mps._get_default_mps_generator())
    return found


def permutation(size: int, seed: int) -> Tensor:
    """A seeded order of 0..size-1, drawn on the CPU so that it is the same on every device."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def mix(*parts: int) -> int:
    """One 63-bit seed of several numbers (splitmix64 over them), so that neighbours do not share streams."""
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
