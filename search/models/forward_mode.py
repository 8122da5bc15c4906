"""What forward-mode differentiation and tapped maps need of a network."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn


def prepare(network: nn.Module) -> None:
    """Make a network fit for both; its weights and what it computes stay the same.

    In-place activations would overwrite tapped maps, and forward-mode derivatives. torch's fused LSTM has no
    forward-mode derivative.
    """
    module: Any
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False
        if type(module) is nn.LSTM and module.num_layers == 1 and module.proj_size == 0:
            module.__class__ = SteppedLSTM


def tied_names(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Other names of the parameters and buffers that several modules own, by the first name.

    A module that stands in several places has its tensors once, under its first name.
    """
    found: dict[int, str] = {}
    ties: dict[str, tuple[str, ...]] = {}
    for prefix, module in network.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            full = f"{prefix}.{name}" if prefix else name
            first = found.setdefault(id(tensor), full)
            if first != full:
                ties[first] = (*ties.get(first, ()), full)
    return ties


class SteppedLSTM(nn.LSTM):
    """An LSTM of one layer that is computed step by step while forward-mode derivatives are taken."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        """As `nn.LSTM`; without a given state, on batches of sequences (not on packed ones)."""
        if forward_ad._current_level < 0 or hx is not None:
            return super().forward(input, hx)
        sequence = input.transpose(0, 1) if self.batch_first else input  # (time, B, features)
        found = [self._direction(sequence, suffix) for suffix in ("", "_reverse")[: 1 + self.bidirectional]]
        output = torch.cat([outputs for outputs, _, _ in found], dim=2)
        hidden, cell = (torch.stack([run[index] for run in found]) for index in (1, 2))
        return output.transpose(0, 1) if self.batch_first else output, (hidden, cell)

    def _direction(self, sequence: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (time, B, H) and the last state (B, H) and cell of one direction."""
        by_input, by_hidden = (getattr(self, f"weight_{kind}_l0{suffix}") for kind in ("ih", "hh"))
        from_input = sequence @ by_input.T
        if self.bias:
            from_input = from_input + sum(getattr(self, f"bias_{kind}_l0{suffix}") for kind in ("ih", "hh"))
        hidden = cell = sequence.new_zeros(sequence.shape[1], self.hidden_size)
        outputs: list[Tensor] = []
        order = range(len(sequence))
        for time in reversed(order) if suffix else order:
            gates = from_input[time] + hidden @ by_hidden.T
            entry, forget, candidate, exit_ = gates.chunk(4, dim=1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
            hidden = exit_.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs[::-1] if suffix else outputs), hidden, cell
