"""The student's map as tokens, from which each of the teacher's places takes what it needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from search.method_card import Card, Need
from search.pathways.convolutions import USUAL_WIDTH, WidthConfig, width_between
from search.pathways.resizing import at_smaller_size, resize
from search.recipe import Stage
from search.registry import Kind, register

HEADS = 4
BANDS = 4
MAX_SIDE = 16
"""Attention costs the product of both numbers of tokens: larger maps are averaged or interpolated to so many
a side. What the residual path carries keeps its full size."""


@register(
    Kind.TRANSFORM,
    "cross_attention",
    source="After ScaleKD's projector, Fan et al. 2024, arXiv 2411.06786",
    card=Card(needs=frozenset({Need.STAGE_MAPS}), trains=True, config=WidthConfig),
)
class CrossAttention(nn.Module):
    """A linear map of the student's tokens, plus attention of the teacher's places to all of them.

    A query is the student's normalised token at the teacher's place, and the place; keys are all its tokens,
    and their places; four heads; the usual width is min(512, Ct, Cs), rounded down to a multiple of four
    (four at least). ScaleKD's queries are learned for one size; these are functions of the place and fit any
    size. Written out in plain operations: fused attention has no forward-mode derivative.
    """

    def __init__(self, student: Stage, teacher: Stage, *, config: WidthConfig = USUAL_WIDTH) -> None:
        super().__init__()
        width = max(HEADS, width_between(student, teacher, config) // HEADS * HEADS)
        self.normalise = nn.LayerNorm(student.channels)
        self.query = nn.Linear(student.channels, width)
        self.query_place = nn.Linear(4 * BANDS, width, bias=False)
        # A bias of the keys would add the same to all of a query's scores.
        self.key = nn.Linear(student.channels, width, bias=False)
        self.key_place = nn.Linear(4 * BANDS, width, bias=False)
        self.value = nn.Linear(student.channels, width)
        self.leave = nn.Linear(width, teacher.channels)
        self.residual = nn.Linear(student.channels, teacher.channels, bias=False)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        size = teacher_shape[1:]
        asking = resize(student_map, _at_most(size))
        asked = resize(student_map, _at_most(student_map.shape[-2:]))
        attended = self.leave(self._attend(self._tokens(asking), self._tokens(asked), asking, asked))
        grid = attended.transpose(1, 2).reshape(len(attended), -1, *asking.shape[-2:])
        return at_smaller_size(self._residual, student_map, size) + resize(grid, size)

    def _tokens(self, feature_map: Tensor) -> Tensor:
        """(B, H * W, Cs), each of mean 0 and variance 1 over its channels."""
        tokens: Tensor = self.normalise(feature_map.flatten(2).transpose(1, 2))
        return tokens

    def _attend(self, asking: Tensor, asked: Tensor, asking_map: Tensor, asked_map: Tensor) -> Tensor:
        """(B, places asking, width)."""
        query = _heads(self.query(asking) + self.query_place(_places(asking_map)))
        key = _heads(self.key(asked) + self.key_place(_places(asked_map)))
        value = _heads(self.value(asked))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)

    def _residual(self, feature_map: Tensor) -> Tensor:
        mapped: Tensor = self.residual(feature_map.movedim(1, -1)).movedim(-1, 1)
        return mapped


def _heads(tokens: Tensor) -> Tensor:
    """(B, N, width) -> (B, heads, N, width / heads)."""
    return tokens.reshape(*tokens.shape[:2], HEADS, -1).transpose(1, 2)


def _at_most(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    return min(height, MAX_SIDE), min(width, MAX_SIDE)


def _places(feature_map: Tensor) -> Tensor:
    """Sines and cosines of the rows and columns, (H * W, 4 * BANDS); the map's corners are 0 and 1."""
    rows, columns = (_waves(side, feature_map) for side in feature_map.shape[-2:])
    height, width = len(rows), len(columns)
    both = (rows.unsqueeze(1).expand(-1, width, -1), columns.unsqueeze(0).expand(height, -1, -1))
    return torch.cat(both, dim=2).flatten(0, 1)


def _waves(side: int, like: Tensor) -> Tensor:
    """(side, 2 * BANDS): half a wave over the map, one, two and four."""
    at = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side
    angles = at.unsqueeze(1) * math.pi * 2.0 ** torch.arange(BANDS, dtype=like.dtype, device=like.device)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
