"""A process as a table over training: one row per point, linear in between. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from search.recipe import Point, Process

Row = npt.NDArray[np.float64]


class ProcessTable:
    """Rows are the weights of cross-entropy (1), logit losses (L) and pathways (P), and the temperatures of
    teacher and student (L each)."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.progress = np.array([point.progress for point in process.points])
        self.rows = np.array([_row(process, point) for point in process.points], dtype=np.float64)

    @cached_property
    def cuts(self) -> tuple[int, int, int, int]:
        """Where a row's five parts end, but for the last."""
        losses, pathways = len(self.process.logit_losses), len(self.process.pathways)
        return 1, 1 + losses, 1 + losses + pathways, 1 + 2 * losses + pathways

    def at(self, progress: float) -> Row:
        """The row at this progress: linear between points, the nearest one's beyond them."""
        after = int(np.searchsorted(self.progress, progress, side="right"))
        if after == 0 or after == len(self.rows):
            return np.array(self.rows[min(after, len(self.rows) - 1)])
        left, right = self.progress[after - 1], self.progress[after]
        share = (progress - left) / (right - left)
        return np.array(self.rows[after - 1] + share * (self.rows[after] - self.rows[after - 1]))

    def mean(self, begin: float, end: float) -> Row:
        """The mean over a part of training, exactly: by trapezia between the points inside."""
        if begin == end:
            return self.at(begin)
        inside = self.progress[(self.progress > begin) & (self.progress < end)]
        knots = np.array([begin, *inside, end])
        rows = np.array([self.at(knot) for knot in knots])
        areas = (rows[1:] + rows[:-1]) / 2 * np.diff(knots)[:, None]
        # Rounding may not lead out of the range of what is averaged: weights stay positive.
        mean: Row = np.clip(areas.sum(axis=0) / (end - begin), rows.min(axis=0), rows.max(axis=0))
        return mean

    def process_of(self, progress: Iterable[float], rows: Iterable[Row]) -> Process:
        """The process with other points."""
        points = [self._point(at, row) for at, row in zip(progress, rows, strict=True)]
        return Process.model_validate(self.process.model_copy(update={"points": points}).model_dump())

    def _point(self, progress: float, row: Row) -> Point:
        (entropy,), logit, pathway, teacher, student = (part.tolist() for part in np.split(row, self.cuts))
        return Point(
            progress=float(progress),
            cross_entropy_weight=None if entropy == self.process.cross_entropy_weight else entropy,
            logit_weights=logit,
            pathway_weights=pathway,
            teacher_temperatures=teacher,
            student_temperatures=student,
        )


def _row(process: Process, point: Point) -> list[float]:
    own = point.cross_entropy_weight
    return [
        process.cross_entropy_weight if own is None else own,
        *point.logit_weights,
        *point.pathway_weights,
        *point.teacher_temperatures,
        *point.student_temperatures,
    ]
