"""Opening an exported student again, with whatever it is served with."""

from __future__ import annotations

import json
from pathlib import Path

from search.models import build_model
from search.models.tapped import TappedModel
from search.models.weights import read_metadata
from search.problems import SearchProblem


def load_student(path: Path | str) -> TappedModel:
    """The student of an exported file, in evaluation mode: float images (B, C, H, W) in [0, 1] to logits.

    It normalises its input itself, and has the part that it was trained with where its classifier could not
    take that over. Raises SearchProblem: weights_unreadable, weights_do_not_fit.
    """
    path = Path(path)
    metadata = read_metadata(path)
    try:
        size = json.loads(metadata["input_size"])[-1]
        classes, channels = int(metadata["num_classes"]), int(metadata["in_chans"])
        name = metadata["model"]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise SearchProblem(
            f"{path.name} does not say which model it holds ({error}); give a student as it was exported",
            code="weights_unreadable",
        ) from error
    model = build_model(
        name,
        classes=classes,
        channels=channels,
        input_size=size,
        seed=0,
        data_mean=(0.5,) * channels,
        data_std=(0.5,) * channels,
        weights=path,
    )
    return model.eval()
