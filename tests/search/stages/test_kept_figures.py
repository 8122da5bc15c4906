"""The teacher's figures are computed once for one teacher, data and labels; damage is mended."""

from __future__ import annotations

from pathlib import Path

import torch

from search.records import EmbeddingFigures
from search.stages.kept_figures import digest_of, kept_figures


class Computing:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> EmbeddingFigures:
        self.count += 1
        return EmbeddingFigures(knn_accuracy=0.1 + 0.2, out_of_distribution_auroc=0.75)


def test_they_are_computed_once_for_what_they_depend_on(tmp_path: Path) -> None:
    computing = Computing()
    first = kept_figures(tmp_path, ["teacher", 1], computing)
    assert kept_figures(tmp_path, ["teacher", 1], computing) == first == computing()
    assert computing.count == 2
    kept_figures(tmp_path, ["teacher", 2], computing)
    kept_figures(tmp_path, ["teacher1"], computing)
    assert computing.count == 4


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    computing = Computing()
    first = kept_figures(tmp_path, ["teacher"], computing)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(file.read_bytes()[:10])
    assert kept_figures(tmp_path, ["teacher"], computing) == first
    assert kept_figures(tmp_path, ["teacher"], computing) == first
    assert computing.count == 2


def test_a_digest_tells_values_shapes_and_types_apart() -> None:
    one = torch.arange(6)
    others = [one.flip(0), one.reshape(2, 3), one.int(), one[::2]]
    digests = [digest_of([one]), *(digest_of([other]) for other in others), digest_of([one, one])]
    assert len(set(digests)) == len(digests)
    assert digest_of([one.reshape(2, 3).t().contiguous().t()]) == digest_of([one.reshape(2, 3)])
