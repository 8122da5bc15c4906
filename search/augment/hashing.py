"""Random numbers as a pure function of a counter: the same for an image whatever batch it is in.

splitmix64's finaliser (Steele, Lea, Flood 2014, as in Vigna's public-domain code) on int64 tensors, whose
products wrap around as unsigned ones would.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 1 << 64


def _signed(value: int) -> int:
    """A 64-bit constant as int64 holds it."""
    value %= _WORD
    return value - _WORD if value >= _WORD >> 1 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def mix(words: Tensor) -> Tensor:
    """splitmix64's next output for each state int64 (B,)."""
    words = words + _GOLDEN
    words = (words ^ _shift_right(words, 30)) * _FIRST
    words = (words ^ _shift_right(words, 27)) * _SECOND
    return words ^ _shift_right(words, 31)


def stream(indices: Tensor, *, seed: int, view: int) -> Tensor:
    """One word int64 (B,) per image, from which its draws for this view are made."""
    start = torch.full_like(indices, _signed(seed))
    return mix(mix(mix(start) + indices) + view)


def integers(words: Tensor, *, draw: int, high: int) -> Tensor:
    """The stream's draw number `draw`: integers int64 (B,) in 0..high-1 (bias below high / 2**31)."""
    return _shift_right(mix(words + _signed(draw * _GOLDEN)), 33) % high


def uniform(words: Tensor, *, draw: int) -> Tensor:
    """The stream's draw number `draw`: numbers (B,) in [0, 1) of 31 bits, as wide as the device has them."""
    return integers(words, draw=draw, high=1 << 31).to(widest(words.device)) / (1 << 31)


def offsets(words: Tensor, *, draw: int, reach: int) -> Tensor:
    """The stream's draw number `draw`: integers int64 (B,) in -reach..reach."""
    return integers(words, draw=draw, high=2 * reach + 1) - reach


def widest(device: torch.device) -> torch.dtype:
    """float64; on MPS, which has none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift without copying the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
