"""Losses that put a head of their own in the place of the student's: what a process with one has to keep.

Its cross-entropy weighs nothing (the head is the teacher's, and is learned from its maps), and no edit of the
process may leave the loss out: the student's own classifier was never trained. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.method_card import Owned
from search.recipe import AnyPathway, FeatureLoss
from search.registry import Kind


def logit_givers(pathways: Sequence[AnyPathway], cards: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The places of such losses among the pathways, by their cards ("kind/name")."""
    return [
        place
        for place, pathway in enumerate(pathways)
        if isinstance(pathway, FeatureLoss) and Owned.STUDENT_LOGITS in _owned(pathway.loss, cards)
    ]


def _owned(loss: str, cards: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    owned: Sequence[str] = cards.get(f"{Kind.FEATURE_LOSS}/{loss}", {}).get("owns", ())
    return owned
