"""What models make of images without a label: agreement with a teacher, and what their embeddings are worth.

Every figure is a share in [0, 1]. Those that take labels take them as an argument: they are for reports.
Embeddings are compared by cosine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search.data import as_float
from search.evaluate import batch_size_for
from search.models import TappedModel
from search.models.part import embedding_tap
from search.models.tapped import evaluating
from search.problems import NonFiniteFigure

NEIGHBOURS = 5
"""So many nearest training images vote for an image's class; the farthest of them tells how new it is."""
ROWS = 1024
"""Of a matrix of all pairs of images, computed at once."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Said:
    """What a model says of images, on the CPU: logits float32 (N, K), and embeddings float32 (N, D) where
    they are found."""

    logits: Tensor
    embeddings: Tensor | None

    def first(self, count: int | None) -> Said:
        """Of the first images; None: of all."""
        embeddings = None if self.embeddings is None else self.embeddings[:count]
        return Said(self.logits[:count], embeddings)


def said_of(model: TappedModel, images: Tensor, *, device: torch.device | str = "cpu") -> Said:
    """What a model says of uint8 images (N, C, H, W), in evaluation mode; its mode is restored.

    Raises NonFiniteFigure for embeddings that are not.
    """
    taps = [] if model.embedding_width is None else [embedding_tap(model)]
    logits, embeddings = [], []
    with torch.inference_mode(), evaluating(model):
        for batch in torch.split(images, batch_size_for(device, size=images.shape[-1])):
            said, maps = model.forward_taps(as_float(batch.to(device)), taps)
            logits.append(said.float().cpu())
            embeddings += [maps[tap].mean(dim=(2, 3)).float().cpu() for tap in taps]
    found = torch.cat(embeddings) if embeddings else None
    if found is not None and not bool(found.isfinite().all()):
        raise NonFiniteFigure(f"embeddings of {model.name} are not finite; lower the learning rate")
    return Said(torch.cat(logits), found)


def teacher_agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of images for which two models' logits (N, K) name the same class."""
    return float((student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean())


def neighbour_agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of images whose nearest other image is the same in two embeddings (N, D) of them."""
    return float(np.mean(_nearest_others(student.numpy()) == _nearest_others(teacher.numpy())))


def _nearest_others(embeddings: Vectors) -> npt.NDArray[np.int64]:
    from sklearn.neighbors import NearestNeighbors  # half a second to import

    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    found = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(embeddings)
    nearest: npt.NDArray[np.int64] = found.kneighbors(return_distance=False)[:, 0]
    return nearest


def divergence_from_teacher(student: Tensor, teacher: Tensor) -> float:
    """Mean KL(teacher || student) of logits (N, K), in nats."""
    log_student, log_teacher = (logits.double().log_softmax(dim=1) for logits in (student, teacher))
    return float((log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean())


def similarity_difference(student: Tensor, teacher: Tensor) -> float:
    """The mean squared difference of the cosines of all pairs of images, of embeddings (N, D)."""
    one, other = (torch.nn.functional.normalize(each.double(), dim=1) for each in (student, teacher))
    total = 0.0
    for rows in torch.split(torch.arange(len(one)), ROWS):
        difference = (one[rows] @ one.T - other[rows] @ other.T).square()
        total += float(difference.sum() - difference[torch.arange(len(rows)), rows].sum())
    return total / max(1, len(one) * (len(one) - 1))


def knn_accuracy(bank: Tensor, labels: Tensor, judged: Tensor, judged_labels: Tensor) -> float:
    """Share of images whose class most of the nearest `NEIGHBOURS` images of the bank have."""
    from sklearn.neighbors import KNeighborsClassifier

    count = min(NEIGHBOURS, len(bank))
    classifier = KNeighborsClassifier(n_neighbors=count, metric="cosine", algorithm="brute")
    classifier.fit(bank.numpy(), labels.numpy())
    return float(classifier.score(judged.numpy(), judged_labels.numpy()))


def linear_probe_accuracy(bank: Tensor, labels: Tensor, judged: Tensor, judged_labels: Tensor) -> float:
    """Share of images that a linear classifier of the bank's embeddings gets right.

    Ridge regression (strength 1) on classes as -1 and 1, in closed form, of standardised embeddings in
    float64.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0))
    probe.fit(bank.double().numpy(), labels.numpy())
    return float(probe.score(judged.double().numpy(), judged_labels.numpy()))


def out_of_distribution_auroc(bank: Tensor, inside: Tensor, outside: Tensor) -> float:
    """How well strange images are told from known ones by their distance to the bank.

    The distance is that to the image's nearest image of the bank but `NEIGHBOURS` - 1 (Sun et al. 2022, arXiv
    2204.06507); 1 where every strange image is farther than every known one, 0.5 where it says nothing.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(bank))
    known = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(bank.numpy())
    distances, _ = known.kneighbors(torch.cat([inside, outside]).numpy())
    is_strange = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(is_strange, distances[:, -1]))


def pixel_shuffled(images: Tensor, *, seed: int) -> Tensor:
    """Images (N, C, H, W), the pixels of each in an order of its own: a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    pixels = images.shape[2] * images.shape[3]
    shuffled = [
        image.flatten(1)[:, torch.randperm(pixels, generator=generator)].view_as(image) for image in images
    ]
    return torch.stack(shuffled)
