"""Knowledge distillation meets self-supervision: what the teacher says of turned images, and which it takes
for which."""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from search.features.contract import Before, Extra, FeatureLossModule, Lessons, Pair, Seen
from search.features.frozen import frozen
from search.logits.divergences import divergence, log_softened
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING
from search.pathways.directions import directions
from search.registry import Kind, register

QUARTER_TURNS = (1, 2, 3)
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 64, 0.05, 0.9, 5e-4
MOST_IMAGES = 50_000
"""That the teacher's head learns from: four embeddings of each are held in memory."""


class SelfSupervisedConfig(MethodConfig):
    """Settings of distillation with self-supervision."""

    plain_weight: float = searched(
        0.9, low=0.05, high=5.0, ge=0.0, le=1e6, description="Of the images as they are."
    )
    turned_weight: float = searched(
        2.7, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the turned images."
    )
    likeness_weight: float = searched(
        10.0, low=0.5, high=50.0, ge=0.0, le=1e6, description="Of which image a turned one is taken for."
    )
    temperature: float = Field(default=4.0, ge=0.1, le=100.0, description="Of the logits.")
    likeness_temperature: float = Field(default=0.5, ge=0.01, le=100.0, description="Of the cosines.")
    wrong_turned_share: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="Of the turned images whose class the teacher does not see, the least wrong, that count.",
    )
    wrong_likeness_share: float = Field(
        default=0.75,
        ge=0.0,
        le=1.0,
        description="Of the turned images that the teacher takes for another, the least wrong, that count.",
    )
    head_epochs: int = Field(default=60, ge=1, le=1000, description="Of training the teacher's head.")


@register(
    Kind.FEATURE_LOSS,
    "sskd",
    source="Xu et al. 2020, arXiv 2006.07114",
    card=Card(
        systems=("sskd",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.EMBEDDING, Need.TEACHER_LOGITS, Need.LABELS, Need.VIEWS}),
        teaches_logits=True,
        trains=True,
        differences="Turns by 90, 180 and 270 degrees only, of the paper's transformations. The teacher's "
        "head learns from one augmented version of each image, of at most 50,000 images. Turned images pass "
        "through the student by themselves, so that BatchNorm normalises them apart and its running "
        "statistics are those of plain images.",
        config=SelfSupervisedConfig,
    ),
)
class SelfSupervised(FeatureLossModule):
    """T^2 KL on plain and on turned images, and between the cosines of turned with plain images.

    The cosines (3B, B) are of what a head of two layers makes of embeddings. The teacher's head learns from
    the training images, before the first step, to tell of which image a turned one is; then it is frozen.
    The student's trains beside the student. Of turned images on which the teacher is wrong, a share counts.
    """

    student_taps = teacher_taps = view_taps = (EMBEDDING,)
    needs_lessons = needs_extra = True

    def __init__(self, pair: Pair, *, config: SelfSupervisedConfig) -> None:
        super().__init__()
        student, self.width = pair.embeddings()
        self.config, self.images = config, pair.images
        self.student_head, self.teacher_head = head(student), frozen(head(self.width))

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Train the teacher's head."""
        like = next(self.teacher_head.buffers())
        every = ceil(self.images / MOST_IMAGES)
        embedding = embeddings_in_turns(lessons, every=every).to(like)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            made = head(self.width).to(like)
            train(made, embedding, self.config.head_epochs)
        self.teacher_head.load_state_dict(made.state_dict())

    def extra(self, before: Before) -> Extra:
        """The images in three turns, and the teacher's logits (B, 3, K) and embeddings (B, 3, D) of them."""
        turned = turns(before.images)
        said = before.ask_teacher(turned.flatten(0, 1), (EMBEDDING,))
        rows = turned.shape[:2]
        logits, embedding = (each.reshape(*rows, -1) for each in (said.logits, said.embedding))
        return Extra(turned, {"logits": logits, "embedding": embedding})

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        plain = self.softened(seen.teacher.logits.detach(), seen.student.logits).mean()
        return (
            self.config.plain_weight * plain
            + self.config.turned_weight * self.by_turned(seen)
            + self.config.likeness_weight * self.by_likeness(seen)
        )

    def softened(self, teacher: Tensor, student: Tensor) -> Tensor:
        """T^2 KL of each row, (B,)."""
        temperature = self.config.temperature
        rows = divergence(log_softened(teacher, temperature), log_softened(student, temperature))
        return temperature**2 * rows

    def by_turned(self, seen: Seen) -> Tensor:
        """Of the logits of turned images, 0-dim."""
        assert seen.views is not None
        teacher = seen.extra.tensors["logits"].detach().flatten(0, 1)
        own_class = seen.targets.repeat_interleave(len(QUARTER_TURNS))
        counting = counted(teacher, own_class, self.config.wrong_turned_share)
        return mean_of(self.softened(teacher, seen.views.logits), counting)

    def by_likeness(self, seen: Seen) -> Tensor:
        """Of which plain image a turned one is taken for, 0-dim."""
        assert seen.views is not None
        temperature = self.config.likeness_temperature
        student = likeness(self.student_head, seen.views.embedding, seen.student.embedding)
        turned = seen.extra.tensors["embedding"].flatten(0, 1)
        teacher = likeness(self.teacher_head, turned, seen.teacher.embedding).detach()
        counting = counted(teacher, own_image(teacher), self.config.wrong_likeness_share)
        rows = divergence(log_softened(teacher, temperature), log_softened(student, temperature))
        return temperature**2 * mean_of(rows, counting)


def head(width: int) -> nn.Sequential:
    """Of an embedding."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def turns(images: Tensor) -> Tensor:
    """Square images (B, C, S, S) turned by 90, 180 and 270 degrees, (B, 3, C, S, S)."""
    return torch.stack([torch.rot90(images, times, (2, 3)) for times in QUARTER_TURNS], dim=1)


def likeness(head: nn.Module, turned: Tensor, plain: Tensor) -> Tensor:
    """Cosines (3B, B) of what the head makes of embeddings of turned (3B, D) and of plain images (B, D)."""
    return directions(head(turned)) @ directions(head(plain)).T


def own_image(cosines: Tensor) -> Tensor:
    """(3B,), of cosines (3B, B): which column is that of the row's own image."""
    columns = torch.arange(cosines.shape[1], device=cosines.device)
    return columns.repeat_interleave(len(QUARTER_TURNS))


def counted(scores: Tensor, own: Tensor, wrong_share: float) -> Tensor:
    """(N,) of scores (N, M) and each row's right column (N,): 1 where none scores higher.

    Also for that share of the other rows, rounded down: those where the fewest score higher. Else 0.
    """
    higher = (scores > scores.gather(1, own[:, None])).sum(dim=1)
    wrong = (higher > 0).sum()
    count = len(higher) - wrong + (wrong * wrong_share).floor()
    place = higher.argsort(stable=True).argsort()
    return (place < count).to(scores)


def mean_of(rows: Tensor, counting: Tensor) -> Tensor:
    """0-dim, over rows that count (N,); 0 where none does."""
    return (rows * counting).sum() / counting.sum().clamp(min=1)


def embeddings_in_turns(lessons: Lessons, *, every: int) -> Tensor:
    """(N, 4, D) of the teacher, plain images first, of every so many training images one."""
    found = []

    def in_turns(images: Tensor) -> Tensor:
        return torch.cat([images[:, None], turns(images)], dim=1).flatten(0, 1)

    for said, _, indices in lessons.teacher((EMBEDDING,), change=in_turns):
        embedding = said.embedding.detach().reshape(len(indices), 1 + len(QUARTER_TURNS), -1)
        found.append(embedding[indices.to(embedding.device) % every == 0])
    return torch.cat(found)


def train(head: nn.Module, embedding: Tensor, epochs: int) -> None:
    """The head, by embeddings (N, 4, D), to find a turned image's own among those of a batch."""
    optimizer = torch.optim.SGD(
        head.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4], gamma=0.1)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(embedding)).to(embedding.device), BATCH):
            plain, turned = embedding[rows, 0], embedding[rows, 1:].flatten(0, 1)
            optimizer.zero_grad()
            cosines = likeness(head, turned, plain)
            F.cross_entropy(cosines, own_image(cosines)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        falls.step()
