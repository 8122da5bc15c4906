"""Edits of a recorded process: smoothed, frozen, averaged, resampled, pruned by weight. Imports no torch.

Each gives a process again, of as many losses (fewer pathways where it prunes), which a recipe may hold.
`search.planning.process_shapes` has the edits that arms and candidates are made of.
"""

from __future__ import annotations

import numpy as np

from search.planning.process_shapes import pruned
from search.planning.process_table import ProcessTable
from search.recipe import Process


def smoothed(process: Process, *, width: float) -> Process:
    """A moving average over a window of this width in progress, cut off where training begins and ends.

    At the process's own points, of its linear interpolation; 0 changes nothing, 2 gives a constant.
    Raises ValueError for a negative width.
    """
    if width < 0:
        raise ValueError(f"width must not be negative, not {width}")
    table = ProcessTable(process)
    windows = ((max(0.0, at - width / 2), min(1.0, at + width / 2)) for at in table.progress)
    return table.process_of(table.progress, [table.mean(*window) for window in windows])


def frozen(process: Process, *, at: float) -> Process:
    """The process until this progress, and what it says there from then on.

    Raises ValueError for a progress outside [0, 1].
    """
    _require_progress(at)
    table = ProcessTable(process)
    before = table.progress[table.progress < at]
    return table.process_of([*before, at], [*table.rows[: len(before)], table.at(at)])


def averaged(process: Process, *, begin: float = 0.0, end: float = 1.0) -> Process:
    """The mean over a part of training, held from the first step to the last: a constant process.

    Raises ValueError unless 0 <= begin <= end <= 1.
    """
    _require_progress(begin)
    _require_progress(end)
    if begin > end:
        raise ValueError(f"begin ({begin}) must not be after end ({end})")
    table = ProcessTable(process)
    return table.process_of([0.0], [table.mean(begin, end)])


def resampled(process: Process, *, points: int) -> Process:
    """The process at so many points, evenly over training. Raises ValueError for fewer than two."""
    if points < 2:
        raise ValueError(f"points must be at least 2, not {points}: use averaged for a constant process")
    table = ProcessTable(process)
    progress = np.linspace(0.0, 1.0, points)
    return table.process_of(progress, [table.at(at) for at in progress])


def pruned_below(process: Process, *, share: float) -> Process:
    """The process without pathways whose share of the pathways' mean weight over training is less.

    The largest share is at least 1 / P, so a share up to that leaves a pathway. Raises ValueError for a share
    outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], not {share}")
    return pruned(process, [index for index, found in enumerate(shares(process)) if found >= share])


def shares(process: Process) -> list[float]:
    """Each pathway's part of the pathways' total mean weight over training, on the losses' first values.

    All zero where no pathway weighs anything.
    """
    table = ProcessTable(process)
    weights = table.mean(0.0, 1.0)[table.cuts[1] : table.cuts[2]]
    if not process.unit_scaled:
        weights = weights * [pathway.scale or 1.0 for pathway in process.pathways]
    total = float(weights.sum())
    return [float(weight) / total if total > 0 else 0.0 for weight in weights]


def _require_progress(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be in [0, 1], not {progress}")
