"""What may become of a learned process: a few edits of it, of which validation chooses one. Imports no torch.

A search learns more than it needs. Over time: its early part is still unlearned, so that the final weights,
held from the first step, often train better than the schedule. Over pathways: most of those that were
searched earn no weight, and each costs a replay its forward and backward pass. So first the shapes over time
are compared, on the pathways that earned their weight; then the best shape once more on all pathways. And
where losses are judged at constant length of the gradient, the search cannot see how long it had better be:
the best is tried with all weights doubled, and as long as that helps doubled again.

Of candidates that validation cannot tell apart the simplest is taken: the one with the fewest pathways, and
of those a constant before a schedule.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from search.planning.arms import LAST_PART, is_at_constant_length
from search.planning.process_edits import averaged
from search.planning.process_shapes import held, pruned, scaled, stays_near
from search.recipe import Point, Process
from search.spec import JobSpec

EARNED_SHARE = 0.03
"""Of the summed weights of all pathways; what weighs less changes a step by less than its noise."""
UNMOVED = 1e-6
"""Relative: a share that fell by less has not fallen."""
SAME_WITHIN = 0.05
"""Relative: weights this near to each other make one candidate."""
MOST_EDITS = 4
"""Three shapes over time, and one of them with all pathways."""
MOST_DOUBLINGS = 2


class ProcessKind(StrEnum):
    """How a process goes over time, the simplest first: final weights held, the mean of the last third held,
    or as it was learned."""

    CONSTANT = "constant"
    AVERAGED = "averaged"
    SCHEDULE = "schedule"


@dataclass(frozen=True)
class Candidate:
    """An edit of the learned process, and the arm under which it is replayed. `scale`: what the learned
    weights were multiplied by."""

    arm: str
    kind: ProcessKind
    process: Process
    scale: int = 1

    @property
    def simplicity(self) -> tuple[int, int, int]:
        """Smaller is simpler."""
        return len(self.process.pathways), list(ProcessKind).index(self.kind), self.scale


@dataclass(frozen=True)
class Judged:
    """A candidate with the accuracies of its replays, one per seed, each on so many validation images."""

    candidate: Candidate
    accuracies: tuple[float, ...]
    images: int

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def standard_error(self) -> float:
        """Of the mean accuracy: from the number of images judged, and not below what the replays' own spread
        says; never zero, as one image might differ."""
        count = len(self.accuracies)
        judged = self.images * count
        share = min(max(self.accuracy, 1 / judged), 1 - 1 / judged) if judged > 1 else 0.5
        of_images = math.sqrt(share * (1 - share) / judged)
        of_seeds = statistics.stdev(self.accuracies) / math.sqrt(count) if count > 1 else 0.0
        return max(of_images, of_seeds)


def most_candidates(spec: JobSpec) -> int:
    """What the budget has to hold."""
    return MOST_EDITS + (MOST_DOUBLINGS if is_at_constant_length(spec) else 0)


def earned_pathways(learned: Process, start: Point, *, kept: Sequence[int] = ()) -> list[int]:
    """The pathways that earned their weight: over the last third of training they weigh more, beside
    cross-entropy, than where the search began, and a few per cent of all pathways together. Weights are those
    on unit-scaled losses. Those that are `kept` are among them in any case.

    Without cross-entropy they are to weigh no less beside all losses together; a process that consists of
    pathways alone never loses all of them.
    """
    scales = [1.0 if learned.unit_scaled else pathway.scale or 1.0 for pathway in learned.pathways]
    end = averaged(learned, begin=LAST_PART).points[0]
    shares = [weight * scale for weight, scale in zip(end.pathway_weights, scales, strict=True)]
    least = EARNED_SHARE * math.fsum(shares)
    ends, begins = (_beside_the_rest(learned, point) for point in (end, start))
    if learned.cross_entropy_weight:
        grown = [end > begin for end, begin in zip(ends, begins, strict=True)]
    else:
        grown = [end >= begin * (1 - UNMOVED) for end, begin in zip(ends, begins, strict=True)]
    has_earned = [grown[index] and share > least for index, share in enumerate(shares)]
    earned = [index for index in range(len(shares)) if has_earned[index] or index in kept]
    teaches = earned or learned.cross_entropy_weight or learned.logit_losses
    return earned if teaches else list(range(len(shares)))


def shapes(learned: Process, start: Point, *, kept: Sequence[int] = ()) -> list[Candidate]:
    """The learned process over time, on the pathways that earned their weight: simplest first, none twice.

    `start`: the weights from which the search began. `kept`: the pathways that are never left out.
    """
    earned = earned_pathways(learned, start, kept=kept)
    return _shapes(pruned(learned, earned), is_pruned=len(earned) < len(learned.pathways))


def with_all_pathways(learned: Process, chosen: Candidate) -> Candidate | None:
    """The chosen shape on every pathway that was searched; None where it has them already."""
    if len(chosen.process.pathways) == len(learned.pathways):
        return None
    return _candidate(learned, chosen.kind, is_pruned=False)


def doubled(chosen: Candidate) -> Candidate | None:
    """The chosen candidate with all weights doubled; None where that was done often enough."""
    scale = 2 * chosen.scale
    if scale > 2**MOST_DOUBLINGS:
        return None
    name = chosen.arm.removesuffix(f"_times_{chosen.scale}")
    return Candidate(f"{name}_times_{scale}", chosen.kind, scaled(chosen.process, 2), scale)


def simplest_of_the_best(judged: Sequence[Judged]) -> Judged:
    """The simplest candidate within one standard error of the best. Raises ValueError without any."""
    best = max(judged, key=lambda one: one.accuracy)
    least = best.accuracy - best.standard_error
    return min((one for one in judged if one.accuracy >= least), key=lambda one: one.candidate.simplicity)


def _beside_the_rest(process: Process, point: Point) -> list[float]:
    """Pathway weights beside cross-entropy; without it, as shares of all weights."""
    own = process.cross_entropy_weight if point.cross_entropy_weight is None else point.cross_entropy_weight
    beside = own or math.fsum([*point.pathway_weights, *point.logit_weights])
    return [weight / beside for weight in point.pathway_weights] if beside else point.pathway_weights


def _shapes(learned: Process, *, is_pruned: bool) -> list[Candidate]:
    found: list[Candidate] = []
    for kind in ProcessKind:
        candidate = _candidate(learned, kind, is_pruned=is_pruned)
        alike = any(stays_near(candidate.process, other.process, within=SAME_WITHIN) for other in found)
        if not alike:
            found.append(candidate)
    return found


def _candidate(learned: Process, kind: ProcessKind, *, is_pruned: bool) -> Candidate:
    arm = f"pruned_{kind}" if is_pruned else kind.value
    return Candidate(arm, kind, _shaped(learned, kind))


def _shaped(learned: Process, kind: ProcessKind) -> Process:
    match kind:
        case ProcessKind.CONSTANT:
            return held(learned)
        case ProcessKind.AVERAGED:
            return averaged(learned, begin=LAST_PART)
        case ProcessKind.SCHEDULE:
            return learned
