"""Failures that a user can mend: each has a stable code and a sentence that says what to do. Imports no
torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


class SearchProblem(Exception):  # noqa: N818  (a problem in the sense of RFC 9457)
    """What is wrong with a job, in words; `code` is stable and becomes the job's status_reason."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class NonFiniteFigure(SearchProblem):
    """A loss or weight became infinite or not a number; the trial fails, nothing of it is stored."""

    code = "nan"


def ran_out_of_memory(error: BaseException) -> bool:
    """Memory of either kind: CPython's MemoryError, or torch's OutOfMemoryError, known here by its name."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def require_finite(figures: Mapping[str, float], *, step: int) -> None:
    """Raise NonFiniteFigure naming the first figure that is not finite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteFigure(
                f"{name} became {value} at step {step}; lower the learning rate or that of the process"
            )
