"""Students that are served with a part of their own, or with a part folded into their classifier: as files.

A file of a student with a part holds the timm network's entries under timm's own names, the part's under
`part.`, and in its metadata, as `limbeck_part`, with what the part is made again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from search.devices import whole_float32
from search.models.embedding import classifier_of
from search.models.head import linear_head
from search.models.part import SharedClassifier
from search.models.tapped import TappedModel, evaluating
from search.models.weights import (
    PART_METADATA,
    PART_PREFIX,
    read_metadata,
    read_state,
    require_finite_entries,
)
from search.problems import SearchProblem

CLOSE = 1e-4
"""Of the largest logit, in float32."""
IMAGES = 8


def folded(model: TappedModel) -> TappedModel:
    """The model without its part, where its classifier alone can do what both do; else the model itself.

    Raises SearchProblem `export_differs` unless its logits stay what they are, up to rounding.
    """
    if model.part is None:
        return model
    head = linear_head(_without_part(model))
    found = None if head is None else model.part.folded(head)
    if found is None and not model.part.described():
        raise SearchProblem(
            f"the layer before the classifier of {model.name} does not fold into it: the classifier is not "
            "linear in the embedding; choose another loss",
            code="export_differs",
        )
    if found is None:
        return model
    plain = _without_part(model)
    classifier = classifier_of(plain.network)
    assert isinstance(classifier, nn.Linear)
    with torch.no_grad():
        classifier.weight.copy_(found.weight)
        classifier.bias.copy_(found.bias)
    _require_same(model, plain)
    return plain


def part_metadata(model: TappedModel) -> dict[str, str]:
    """What a file says of the model's part."""
    return {} if model.part is None else {PART_METADATA: json.dumps(model.part.described())}


def entries(model: TappedModel) -> dict[str, Tensor]:
    """All that a file of the model holds, by name."""
    own = dict(model.network.state_dict())
    if model.part is not None:
        own |= {f"{PART_PREFIX}{name}": value for name, value in model.part.state_dict().items()}
    return own


def attach_saved_part(model: TappedModel, path: Path) -> None:
    """Give a model the part that its file holds, where it holds one. Raises SearchProblem
    `weights_do_not_fit`."""
    if path.suffix != ".safetensors":
        return
    described = read_metadata(path).get(PART_METADATA)
    if described is None:
        return
    state = part_entries(read_state(path))
    require_finite_entries(state, path)
    try:
        part = SharedClassifier(**json.loads(described))
        part.load_state_dict(state)
        if part.arguments["student_channels"] != model.stages[-1].channels:
            raise ValueError(f"it is for a last map of {part.arguments['student_channels']} channels")
    except (TypeError, ValueError, RuntimeError) as error:
        raise SearchProblem(
            f"the part in {path.name} that {model.name} is served with cannot be made again: {error}; give "
            "the file as it was exported",
            code="weights_do_not_fit",
        ) from error
    model.attach(part)


def part_entries(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the part, by its own names."""
    return {name[len(PART_PREFIX) :]: value for name, value in state.items() if name.startswith(PART_PREFIX)}


def _without_part(model: TappedModel) -> TappedModel:
    plain = copy.deepcopy(model)
    plain.part = None
    return plain


def _require_same(model: TappedModel, plain: TappedModel) -> None:
    like = next(model.parameters())
    shape = (IMAGES, len(model.preprocessing.mean), model.data_size, model.data_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), evaluating(model), evaluating(plain), whole_float32():
        expected, found = model(noise), plain(noise)
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not apart <= CLOSE:
        raise SearchProblem(
            f"{model.name} folded into its classifier gives other logits, by {apart:.1e} of the largest: its "
            "weights are too large for float32; train at a lower learning rate",
            code="export_differs",
        )
