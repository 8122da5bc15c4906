"""Multi-granularity distillation: what narrow and wide heads of the teacher's embedding say of an image."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from search.features.contract import FeatureLossModule, Lessons, Pair, Seen
from search.features.frozen import frozen
from search.logits.divergences import divergence, log_softened
from search.method_card import Card, MethodConfig, Need
from search.models.embedding import EMBEDDING
from search.registry import Kind, register

TEMPERATURES = {64: 2.0, 256: 8.0}
"""By width of the heads: the abstract one and the detailed one."""
STABLE_TEMPERATURE = 4.0
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, LONGEST_STEP = 64, 0.01, 0.9, 5e-4, 10.0


class GranularityConfig(MethodConfig):
    """Settings of multi-granularity distillation."""

    mode: Literal["mag", "mas"] = Field(
        default="mag",
        description="mag: what the encoders say; mas: also the mean of teacher's and decoders' logits.",
    )
    head_epochs: int = Field(default=60, ge=1, le=1000, description="Of training the teacher's heads.")


@register(
    Kind.FEATURE_LOSS,
    "mgd_shao",
    source="Shao and Chen 2021, arXiv 2108.06681",
    card=Card(
        systems=("mgd_shao",),
        teaches_logits=True,
        needs=frozenset({Need.EMBEDDING, Need.TEACHER_LOGITS, Need.LABELS}),
        trains=True,
        differences="The heads' last weights are kept, not those best in validation. Both heads' rates fall. "
        "Gradients of the heads are cut to a length of 10. In mas mode the mean logits teach beside the "
        "process's own logit losses, not in their place.",
        config=GranularityConfig,
    ),
)
class MultiGranularity(FeatureLossModule):
    """KL between a narrow and a wide encoding of both embeddings, each taken as logits at its temperature.

    The teacher's encoders are trained first, with decoders that have to give classes, and are then frozen;
    the student's train beside it.
    """

    student_taps = teacher_taps = (EMBEDDING,)
    needs_lessons = True

    def __init__(self, pair: Pair, *, config: GranularityConfig) -> None:
        super().__init__()
        student, self.width = pair.embeddings()
        self.classes, self.config = pair.classes, config
        self.encoders = nn.ModuleDict({str(width): encoder(student, width) for width in TEMPERATURES})
        self.heads = frozen(heads(self.width, self.classes))

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Train the teacher's heads."""
        like = next(self.heads.buffers())
        batches = [
            (outputs.embedding.detach(), outputs.logits.detach(), targets)
            for outputs, targets, _ in lessons.teacher((EMBEDDING,))
        ]
        embedding, logits, targets = (torch.cat(each) for each in zip(*batches, strict=True))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            made = heads(self.width, self.classes).to(like)
            train(made, embedding.to(like), logits.to(like), targets.to(like.device), self.config.head_epochs)
        self.heads.load_state_dict(made.state_dict())

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student, teacher = seen.student.embedding, seen.teacher.embedding.detach()
        total = student.new_zeros(())
        for width, temperature in TEMPERATURES.items():
            said = encoded(self.heads, width, teacher)
            total = total + softened_divergence(said, self.encoders[str(width)](student), temperature)
        if self.config.mode == "mag":
            return total
        target = stable_logits(self.heads, teacher, seen.teacher.logits.detach())
        return total + softened_divergence(target, seen.student.logits, STABLE_TEMPERATURE)


def encoder(inputs: int, width: int) -> nn.Sequential:
    """Of an embedding."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, width))


def heads(embedding: int, classes: int) -> nn.ModuleDict:
    """The teacher's encoders and decoders of both widths."""

    def decoder(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, embedding), nn.ReLU(), nn.Linear(embedding, classes))

    encoders = {f"encoder_{width}": encoder(embedding, width) for width in TEMPERATURES}
    return nn.ModuleDict({**encoders, **{f"decoder_{width}": decoder(width) for width in TEMPERATURES}})


def encoded(parts: nn.ModuleDict, width: int, embedding: Tensor) -> Tensor:
    """(B, width)."""
    said: Tensor = parts[f"encoder_{width}"](embedding)
    return said


def decoded(parts: nn.ModuleDict, width: int, embedding: Tensor) -> Tensor:
    """Logits (B, K), by way of so many values."""
    logits: Tensor = parts[f"decoder_{width}"](encoded(parts, width, embedding))
    return logits


def stable_logits(parts: nn.ModuleDict, embedding: Tensor, logits: Tensor) -> Tensor:
    """(B, K): the mean of the teacher's logits and of both decoders'."""
    return torch.stack([logits, *(decoded(parts, width, embedding) for width in TEMPERATURES)]).mean(dim=0)


def softened_divergence(target: Tensor, other: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p^T(target) || p^T(other)), the mean over the batch."""
    rows = divergence(log_softened(target, temperature), log_softened(other, temperature))
    return temperature**2 * rows.mean()


def train(parts: nn.ModuleDict, embedding: Tensor, logits: Tensor, targets: Tensor, epochs: int) -> None:
    """Encoders and decoders to give the label, and what the teacher says; each width on its own."""
    optimizer = torch.optim.SGD(
        parts.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4])
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(targets)).to(targets.device), BATCH):
            optimizer.zero_grad()
            head_loss(parts, embedding[rows], logits[rows], targets[rows]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parts.parameters(), LONGEST_STEP)
            optimizer.step()
        falls.step()


def head_loss(parts: nn.ModuleDict, embedding: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """0-dim: of both widths, cross-entropy and the softened divergence from the teacher's logits."""
    total = embedding.new_zeros(())
    for width, temperature in TEMPERATURES.items():
        said = decoded(parts, width, embedding)
        total = total + F.cross_entropy(said, targets) + softened_divergence(logits, said, temperature)
    return total
