"""All losses of one process as one vector: cross-entropy, logit losses, unit-scaled pathway losses.

The training loss is the vector times the effective weights. Linear in the weights, so that one forward-mode
pass gives the hypergradient of all of them (`search.hypergradient.exact`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.devices import sent
from search.features import Extra, FeatureLossModule, ModelOutputs, Pair, Seen, build_feature_loss
from search.logits import build_logit_loss
from search.pathways import PathwayLoss, build_pathways, require_distance, require_transform
from search.pathways.meta_parameters import MetaOwner, meta_owners
from search.problems import SearchProblem
from search.process import Effective
from search.recipe import FeatureLoss, Pathway, Process, Stage
from search.registry import InvalidConfigError, Kind, UnknownMethodError, get

SCALE_FLOOR = 1e-8


@dataclass(frozen=True)
class Beside:
    """What feature losses are given of a batch beside maps; as in `DistillationLosses.total`."""

    student_logits: Tensor
    teacher_logits: Tensor | None
    targets: Tensor
    indices: Tensor | None = None
    extras: Mapping[int, Extra] = field(default_factory=dict)  # by the loss's place among the pathways
    views: Mapping[int, ModelOutputs] = field(default_factory=dict)

    def seen(self, student_maps: Mapping[int, Tensor], teacher_maps: Mapping[int, Tensor]) -> Seen | None:
        """All of it as one; None where the teacher was not asked."""
        if self.teacher_logits is None:
            return None
        targets = _classes(self.targets)
        return Seen(
            ModelOutputs(self.student_logits, student_maps),
            ModelOutputs(self.teacher_logits, teacher_maps),
            targets,
            torch.arange(len(targets)) if self.indices is None else self.indices,
        )


class DistillationLosses(nn.Module):
    """The losses of a process; owns the transforms' parameters, which train beside the student, and their
    meta parameters, which a search learns as it learns weights.

    `pair` is needed where the process has feature losses. Unless `is_labelled` no target is looked at.
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
        pair: Pair | None = None,
        is_labelled: bool = True,
    ) -> None:
        super().__init__()
        require_fitting(process, teacher=teacher, student=student)
        self.process = process
        self.label_smoothing, self.is_labelled = label_smoothing, is_labelled
        joined = [one for one in process.pathways if isinstance(one, Pathway)]
        pathways = iter(build_pathways(joined, student=student, teacher=teacher, seed=seed))
        self.pathways = nn.ModuleList(
            next(pathways) if isinstance(one, Pathway) else _built(one, pair, seed)
            for one in process.pathways
        )
        self._logit_losses = [build_logit_loss(loss.name, loss.config) for loss in process.logit_losses]
        self.register_buffer("scales", torch.zeros(len(process.pathways)))
        # Beside the buffer, because asking the buffer would wait for the device at every step.
        self.is_measured = False

    def teacher_stages(self, active: Sequence[int] | None = None) -> list[int]:
        """The teacher's stages (and EMBEDDING) that these pathways (by default all) need, in order."""
        return sorted({tap for index in self._indices(active) for tap in self._taps(index)[0]})

    def student_stages(self, active: Sequence[int] | None = None) -> list[int]:
        """The student's stages (and EMBEDDING) that these pathways (by default all) need, in order."""
        return sorted({tap for index in self._indices(active) for tap in self._taps(index)[1]})

    def needs_logits(self, active: Sequence[int] | None = None) -> bool:
        """Whether these pathways (by default all), or a logit loss, ask for the teacher's logits."""
        whole = (isinstance(self.pathways[index], FeatureLossModule) for index in self._indices(active))
        return bool(self.process.logit_losses) or any(whole)

    def feature_losses(self) -> list[FeatureLossModule]:
        """Those of the pathways that are whole methods."""
        return [module for module in self.pathways if isinstance(module, FeatureLossModule)]

    def meta_owners(self) -> list[MetaOwner]:
        """The transforms that have meta parameters."""
        return meta_owners(
            (place, f"pathways.{place}.transform", module.transform)
            for place, module in enumerate(self.pathways)
            if isinstance(module, PathwayLoss)
        )

    def meta_parameters(self) -> dict[str, Tensor]:
        """Those of all transforms, each transform's once; they are buffers, by their names here."""
        return {name: value for owner in self.meta_owners() for name, value in owner.values().items()}

    def _indices(self, active: Sequence[int] | None) -> Sequence[int]:
        return range(len(self.process.pathways)) if active is None else active

    def _taps(self, index: int) -> tuple[Sequence[int], Sequence[int]]:
        """Of teacher and student."""
        pathway, module = self.process.pathways[index], self.pathways[index]
        if isinstance(module, FeatureLossModule):
            return module.teacher_taps, module.student_taps
        assert isinstance(pathway, Pathway)
        return [pathway.teacher_stage], [pathway.student_stage]

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
        targets = _classes(targets)
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
        beside: Beside | None = None,
    ) -> Tensor:
        """The pathway losses: what `torch.func.functional_call` calls."""
        return self.pathway_losses(student_maps, teacher_maps, active, beside)

    def pathway_losses(
        self,
        student_maps: Mapping[int, Tensor],
        teacher_maps: Mapping[int, Tensor],
        active: Sequence[int] | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        """The losses (A,) of these pathways (by default all), unit-scaled. Maps (B, C, H, W) by stage.

        The first call measures the scales, and has to compute all. Feature losses need what is `beside`.
        """
        indices = self._indices(active)
        if not len(indices):
            return torch.zeros(0)
        seen = beside.seen(student_maps, teacher_maps) if beside else None
        moved: dict[int, tuple[Tensor, Tensor]] = {}
        raw = torch.stack(
            [self._raw(index, student_maps, teacher_maps, moved, seen, beside) for index in indices]
        )
        if not self.process.unit_scaled:
            return raw
        if not self.is_measured:
            self.scales.copy_(raw.detach().abs().clamp(min=SCALE_FLOOR))
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
        moved: dict[int, tuple[Tensor, Tensor]],
        seen: Seen | None,
        beside: Beside | None,
    ) -> Tensor:
        """A pathway's loss; `moved` keeps transformed maps by their transform, for pathways that share it."""
        pathway, module = self.process.pathways[index], self.pathways[index]
        if isinstance(module, FeatureLossModule):
            assert seen is not None, "feature losses have to be told what is beside the maps"
            assert beside is not None
            extra, views = beside.extras.get(index, Extra()), beside.views.get(index)
            loss: Tensor = module(replace(seen, extra=extra, views=views))
            return loss
        assert isinstance(module, PathwayLoss)
        assert isinstance(pathway, Pathway)
        teacher_map = teacher_maps[pathway.teacher_stage]
        transform = id(module.transform)
        if transform not in moved:
            moved[transform] = module.transformed(student_maps[pathway.student_stage], teacher_map)
        return module.distance(*moved[transform])

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
        indices: Tensor | None = None,
        extras: Mapping[int, Extra] | None = None,
        views: Mapping[int, ModelOutputs] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The training loss of the active pathways, and the cross-entropy within it; both scalars.

        Targets are classes (B,) or, where images are mixed, probabilities (B, K); `indices` (B,) are those of
        the images within the training images; `extras` and `views` are by the place of their loss among the
        pathways. Differentiable in the effective weights and temperatures too.
        """
        cross_entropy = self._cross_entropy(student_logits, targets)
        loss = effective.cross_entropy_weight * cross_entropy
        beside = Beside(student_logits, teacher_logits, targets, indices, extras or {}, views or {})
        values = self.pathway_losses(student_maps, teacher_maps, active, beside)
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
        if not self.is_labelled and not loss.requires_grad:
            loss = loss + 0 * student_logits.sum()  # no pathway is active at this step
        return loss, cross_entropy

    def _cross_entropy(self, student_logits: Tensor, targets: Tensor) -> Tensor:
        """0-dim; zero where there are no labels."""
        if not self.is_labelled:
            return student_logits.new_zeros(())
        return F.cross_entropy(student_logits, targets, label_smoothing=self.label_smoothing)


def _classes(targets: Tensor) -> Tensor:
    """(B,): the class that has most."""
    return targets.argmax(dim=1) if targets.dim() > 1 else targets


def _built(entry: FeatureLoss, pair: Pair | None, seed: int) -> FeatureLossModule:
    if pair is None:
        raise SearchProblem(f"feature loss {entry.loss!r} needs a teacher", code="pathway_does_not_fit")
    return build_feature_loss(entry.loss, entry.config, pair=pair, seed=seed)


def require_fitting(process: Process, *, teacher: list[Stage], student: list[Stage]) -> None:
    """Raise SearchProblem unless these models have the stages of every pathway, and its methods are known."""
    joined = [pathway for pathway in process.pathways if isinstance(pathway, Pathway)]
    for pathway in joined:
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
    asked = [loss.teacher for loss in process.logit_losses] + [one.teacher for one in process.pathways]
    if any(asked):
        raise SearchProblem("several teachers are not supported yet", code="pathway_does_not_fit")
    try:
        for loss in process.logit_losses:
            get(Kind.LOGIT_LOSS, loss.name)
            build_logit_loss(loss.name, loss.config)
        for pathway in joined:
            require_transform(pathway.transform, pathway.transform_config)
            require_distance(pathway.distance, pathway.distance_config)
    except UnknownMethodError as error:
        raise SearchProblem(
            f"{error}; is a plug-in missing that the process needs?", code="unknown_method"
        ) from error
    except InvalidConfigError as error:
        raise SearchProblem(str(error), code="unknown_method") from error
