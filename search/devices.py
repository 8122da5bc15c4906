"""The devices on which trials run: which there are, and which a job asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from search.problems import SearchProblem
from search.spec import JobSpec

DEVICES = ("cpu", "cuda", "mps")
"""What PyTorch calls them; `mps` is Apple's and has not been tested: it lacks float64, so the process and all
sums that need it stay on the CPU."""


def device_for(spec: JobSpec, device: str | None) -> str:
    """The device that was asked for; by default CUDA where the spec asks for a GPU, else the CPU.

    Raises SearchProblem `device_unavailable` where it cannot be used.
    """
    if spec.resources_per_trial.gpus > 1:
        raise SearchProblem(
            "a trial on several GPUs is not supported yet: set resources_per_trial.gpus to 1 or less",
            code="device_unavailable",
        )
    chosen = device or ("cuda" if spec.resources_per_trial.gpus > 0 else "cpu")
    if chosen.partition(":")[0] not in DEVICES:
        raise _unavailable(chosen, f"it is none of {', '.join(DEVICES)}")
    if chosen.startswith("mps") and not torch.backends.mps.is_available():
        raise _unavailable(chosen, "PyTorch finds none")
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise _unavailable(chosen, str(error).splitlines()[0].partition(". ")[0]) from error
    return chosen


def device_name(device: torch.device | str) -> str:
    """What the bits of a result depend on: the model of a GPU, else the device's type."""
    found = torch.device(device)
    return torch.cuda.get_device_name(found) if found.type == "cuda" else found.type


def free_bytes(device: torch.device) -> int:
    """What a CUDA device has left for this process, with what its allocator holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The same values on a device. To a GPU from page-locked memory, so that nothing waits here: a copy from
    ordinary memory waits for all the work that the GPU was given before."""
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.requires_grad:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Inside, float32 convolutions on CUDA keep all bits. The CPU always keeps them.

    cuDNN's default, TF32, drops thirteen of them, which a small sum of large terms, or a difference of two
    losses, cannot spare.
    """
    cudnn: Any = torch.backends.cudnn
    convolutions = cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def devices_here() -> list[str]:
    """The devices on which a trial can run in this process."""
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _unavailable(chosen: str, why: str) -> SearchProblem:
    return SearchProblem(
        f"the device {chosen!r} cannot be used here: {why}; choose one of {', '.join(devices_here())} "
        "(in a job: resources_per_trial.gpus, 0 for the CPU)",
        code="device_unavailable",
    )
