"""Figures that no model has reached, for stories of jobs."""

from __future__ import annotations

from search.records import EmbeddingFigures, WithoutLabels


def figures_without_labels(agreement: float) -> WithoutLabels:
    """Made-up figures of a run that reads no labels."""
    return WithoutLabels(
        judged_by="teacher_agreement",
        neighbour_agreement=agreement - 0.5,
        student=EmbeddingFigures(
            knn_accuracy=0.8321, linear_probe_accuracy=0.8765, out_of_distribution_auroc=0.9123
        ),
        teacher=EmbeddingFigures(
            knn_accuracy=0.9432, linear_probe_accuracy=0.9543, out_of_distribution_auroc=0.9654
        ),
    )
