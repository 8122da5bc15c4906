"""All losses of one process as one vector: cross-entropy, logit losses, unit-scaled pathway losses.

The training loss is the vector times the effective weights. Linear in the weights, so that one forward-mode
pass gives the hypergradient of all of them (`search.hypergradient.exact`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.devices import sent
from search.logits import build_logit_loss
from search.pathways import PathwayLoss, build_pathways
from search.problems import SearchProblem
from search.process import Effective
from search.recipe import Pathway, Process, Stage
from search.registry import InvalidConfigError, Kind, UnknownMethodError, get

SCALE_FLOOR = 1e-8


class DistillationLosses(nn.Module):
    """The losses of a process; owns the transforms' parameters, which train beside the student.

    `scales` (P,) are the pathway losses' values at the first step, once `is_measured`.
    """

    scales: Tensor

    def __init__(
        self,
        process: Process,
        *,
        teacher: list[Stage],
        student: list[Stage],
        seed: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        require_fitting(process, teacher=teacher, student=student)
        self.process = process
        self.label_smoothing = label_smoothing
        self.pathways = nn.ModuleList(
            build_pathways(process.pathways, student=student, teacher=teacher, seed=seed)
        )
        self._logit_losses = [build_logit_loss(loss.name, loss.config) for loss in process.logit_losses]
        self.register_buffer("scales", torch.zeros(len(process.pathways)))
        # Beside the buffer, because asking the buffer would wait for the device at every step.
        self.is_measured = False

    def teacher_stages(self, active: Sequence[int] | None = None) -> list[int]:
        """The teacher's stages that these pathways (by default all) need, in order."""
        return sorted({pathway.teacher_stage for pathway in self._active(active)})

    def student_stages(self, active: Sequence[int] | None = None) -> list[int]:
        """The student's stages that these pathways (by default all) need, in order."""
        return sorted({pathway.student_stage for pathway in self._active(active)})

    def _active(self, active: Sequence[int] | None) -> list[Pathway]:
        pathways = self.process.pathways
        return pathways if active is None else [pathways[index] for index in active]

    def logit_losses(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        targets: Tensor,
        *,
        teacher_temperatures: Tensor,
        student_temperatures: Tensor,
    ) -> list[Tensor]:
        """One scalar per logit loss. Logits (B, K), temperatures (L,); targets (B,), or probabilities (B, K),
        of which the losses see the class that has most.
        """
        if teacher_logits is None:
            return []
        targets = targets.argmax(dim=1) if targets.dim() > 1 else targets
        return [
            loss(
                student_logits,
                teacher_logits,
                teacher_temperature=teacher_temperatures[index].to(student_logits.dtype),
                student_temperature=student_temperatures[index].to(student_logits.dtype),
                targets=targets,
            )
            for index, loss in enumerate(self._logit_losses)
        ]

    def forward(
        self,
        student_maps: Mapping[int, Tensor],
        teacher_maps: Mapping[int, Tensor],
        active: Sequence[int] | None = None,
    ) -> Tensor:
        """The pathway losses: what `torch.func.functional_call` calls."""
        return self.pathway_losses(student_maps, teacher_maps, active)

    def pathway_losses(
        self,
        student_maps: Mapping[int, Tensor],
        teacher_maps: Mapping[int, Tensor],
        active: Sequence[int] | None = None,
    ) -> Tensor:
        """The losses (A,) of these pathways (by default all), unit-scaled. Maps (B, C, H, W) by stage.

        The first call measures the scales, and has to compute all.
        """
        indices = range(len(self.process.pathways)) if active is None else active
        if not len(indices):
            return torch.zeros(0)
        moved: dict[int, Tensor] = {}
        raw = torch.stack([self._raw(index, student_maps, teacher_maps, moved) for index in indices])
        if not self.process.unit_scaled:
            return raw
        if not self.is_measured:
            self.scales.copy_(raw.detach().clamp(min=SCALE_FLOOR))
            self.is_measured = True
        return raw / self._scales(indices).to(raw)

    def _scales(self, indices: Sequence[int]) -> Tensor:
        if list(indices) == list(range(len(self.scales))):
            return self.scales
        # A list as an index would be copied to the device, which waits for all that runs there.
        return torch.stack([self.scales[index] for index in indices])

    def _raw(
        self,
        index: int,
        student_maps: Mapping[int, Tensor],
        teacher_maps: Mapping[int, Tensor],
        moved: dict[int, Tensor],
    ) -> Tensor:
        """A pathway's loss; `moved` keeps transformed maps by their transform, for pathways that share it."""
        pathway, module = self.process.pathways[index], self.pathways[index]
        assert isinstance(module, PathwayLoss)
        teacher_map = teacher_maps[pathway.teacher_stage]
        transform = id(module.transform)
        if transform not in moved:
            moved[transform] = module.transformed(student_maps[pathway.student_stage], teacher_map)
        return module.distance(moved[transform], teacher_map)

    def total(
        self,
        effective: Effective,
        *,
        active: Sequence[int] | None = None,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        student_maps: Mapping[int, Tensor],
        teacher_maps: Mapping[int, Tensor],
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The training loss of the active pathways, and the cross-entropy within it; both scalars.

        Targets are classes (B,) or, where images are mixed, probabilities (B, K). Differentiable in the
        effective weights and temperatures too.
        """
        cross_entropy = F.cross_entropy(student_logits, targets, label_smoothing=self.label_smoothing)
        loss = effective.cross_entropy_weight * cross_entropy
        values = self.pathway_losses(student_maps, teacher_maps, active)
        if len(values):
            weights = effective.pathway_weights if active is None else effective.pathway_weights[list(active)]
            loss = loss + values @ sent(weights.to(values.dtype), values.device)
        logit_losses = self.logit_losses(
            student_logits,
            teacher_logits,
            targets,
            teacher_temperatures=effective.teacher_temperatures,
            student_temperatures=effective.student_temperatures,
        )
        if logit_losses:
            weights = effective.logit_weights.to(loss.dtype)
            loss = loss + torch.stack(logit_losses) @ sent(weights, loss.device)
        return loss, cross_entropy


def require_fitting(process: Process, *, teacher: list[Stage], student: list[Stage]) -> None:
    """Raise SearchProblem unless these models have the stages of every pathway, and its methods are known."""
    for pathway in process.pathways:
        for role, index, stages in (
            ("teacher", pathway.teacher_stage, teacher),
            ("student", pathway.student_stage, student),
        ):
            if index >= len(stages):
                raise SearchProblem(
                    f"pathway {pathway.name} asks for stage {index} of the {role}, which has {len(stages)}: "
                    "the process was found for other models; search one for these",
                    code="pathway_does_not_fit",
                )
    asked = [loss.teacher for loss in process.logit_losses] + [p.teacher for p in process.pathways]
    if any(asked):
        raise SearchProblem("several teachers are not supported yet", code="pathway_does_not_fit")
    kinds = [(Kind.LOGIT_LOSS, loss.name) for loss in process.logit_losses]
    kinds += [(Kind.TRANSFORM, pathway.transform) for pathway in process.pathways]
    kinds += [(Kind.DISTANCE, pathway.distance) for pathway in process.pathways]
    for kind, name in kinds:
        try:
            get(kind, name)
        except UnknownMethodError as error:
            raise SearchProblem(
                f"{error}; is a plug-in missing that the process needs?", code="unknown_method"
            ) from error
    for loss in process.logit_losses:
        try:
            build_logit_loss(loss.name, loss.config)
        except (UnknownMethodError, InvalidConfigError) as error:
            raise SearchProblem(str(error), code="unknown_method") from error
