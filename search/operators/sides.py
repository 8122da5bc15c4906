"""A formula of one map as an operator on both."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec

from torch import Tensor

Settings = ParamSpec("Settings")


def on_each_side(
    formula: Callable[Concatenate[Tensor, Settings], Tensor],
) -> Callable[Concatenate[Tensor, Tensor, Settings], tuple[Tensor, Tensor]]:
    """The operator that does to the student's and to the teacher's map what the formula says of one."""

    def operator(
        student_map: Tensor, teacher_map: Tensor, /, *args: Settings.args, **kwargs: Settings.kwargs
    ) -> tuple[Tensor, Tensor]:
        return formula(student_map, *args, **kwargs), formula(teacher_map, *args, **kwargs)

    update_wrapper(operator, formula)
    return operator
