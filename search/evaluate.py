"""What a model reaches on a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.data import ImageSet, as_float

CALIBRATION_BINS = 15
EVALUATION_BATCH = 512
CPU_PIXELS = 64 * 32 * 32
SMALLEST_BATCH, LARGEST_CPU_BATCH = 8, 64


@dataclass(frozen=True)
class Evaluation:
    """Figures on a number of images.

    `loss` is the mean cross-entropy, `agreement` the share of images that the teacher answers alike. In a job
    without labels the first two are what it judges by instead, and there is no calibration error.
    """

    accuracy: float
    loss: float
    agreement: float | None
    expected_calibration_error: float | None
    images: int


def batch_size_for(device: torch.device | str, *, size: int) -> int:
    """Images of `size` pixels a side at once: what is fastest without gradients.

    On the CPU small maps stay in its caches and out of fresh pages of memory: a ResNet of width 32 evaluates
    64 images of 32x32 at a time 2.3 to 3.4 times as fast as 256 or 512.
    """
    if torch.device(device).type != "cpu":
        return EVALUATION_BATCH
    return max(SMALLEST_BATCH, min(LARGEST_CPU_BATCH, CPU_PIXELS // size**2))


def evaluate(
    model: nn.Module,
    images: ImageSet,
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    teacher_logits: Tensor | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Evaluate a model on unaugmented images, in evaluation mode; its mode is restored afterwards.

    `teacher_logits` (N, K) of the same images give the agreement; `limit` takes the first images only.
    """
    chosen = images.first(limit) if limit is not None else images
    logits = predict(model, chosen.images, batch_size=batch_size, device=device)
    if logits.device.type == "mps":
        logits = logits.cpu()  # where there is float64
    labels = chosen.labels.to(logits.device)
    answers = logits.argmax(dim=1)
    agreement = None
    if teacher_logits is not None:
        agreement = _share(answers == teacher_logits[: len(chosen)].to(logits.device).argmax(dim=1))
    return Evaluation(
        accuracy=_share(answers == labels),
        loss=float(functional.cross_entropy(logits.double(), labels)),
        agreement=agreement,
        expected_calibration_error=expected_calibration_error(logits, labels),
        images=len(chosen),
    )


def predict(
    model: nn.Module, images: Tensor, *, batch_size: int | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Logits float32 (N, K) of uint8 images (N, C, H, W), in evaluation mode; the mode is restored.

    `batch_size` is by default what is fast on the device, on which the model has to be.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type != torch.device(device).type:
        raise ValueError(f"the model is on {parameter.device}, the images are to be on {device}")
    size = batch_size or batch_size_for(device, size=images.shape[-1])
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return torch.cat(
                [model(as_float(batch.to(device))).float() for batch in torch.split(images, size)]
            )
    finally:
        model.train(was_training)


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance of confidence and accuracy over equal-width bins (Guo et al. 2017, arXiv 1706.04599).

    Bin b holds the confidences in (b / bins, (b + 1) / bins]; each bin counts by its share of the images.
    """
    confidence, answers = logits.double().softmax(dim=1).max(dim=1)
    correct = (answers == labels).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gap = gap.index_add(0, bin_of, confidence - correct)
    return float(gap.abs().sum() / len(labels))


def _share(matches: Tensor) -> float:
    return int(matches.sum()) / len(matches)
