"""A timm network with its preprocessing inside and its stages within reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.models.activations import PreActivations
from search.models.embedding import EMBEDDING, EmbeddingTap, classifier_of
from search.models.forward_mode import prepare, tied_names
from search.models.part import PART, StudentPart
from search.models.taps import find_taps, read_prefix_tokens
from search.models.watching import Seen
from search.models.weights import Preprocessing
from search.recipe import Stage

Taps = Literal["output", "pre_activation"]
"""Where a stage is tapped: behind its last activation, or before it where the stage ends in one."""


class TappedModel(nn.Module):
    """A timm network that takes images in [0, 1] of the data's size, and can be tapped at its stages.

    Resizing and normalisation happen inside; the network's own state is all that is ever exported. Usable by
    `torch.func.functional_call` and, with the mathematical attention kernel, under forward-mode AD: there are
    no in-place activations.
    """

    mean: Tensor
    std: Tensor
    input_dtype: torch.dtype | None = None
    """What the network's input is cast to, by `search.training.precision` for the time of a call."""

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        data_size: int,
        img_size: int | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.part: StudentPart | None = None
        self.preprocessing = preprocessing
        self.data_size = data_size
        self.img_size = img_size
        for field in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, field), dtype=torch.float32)
            self.register_buffer(field, values[:, None, None], persistent=False)
        prepare(network)
        self.tied_names = tied_names(self)
        with evaluating(network), torch.no_grad():
            blank = self._input(self._blank(2))
            self._read, shapes = find_taps(network, blank)
            self._taps = list(shapes)
            self._before = PreActivations(network, lambda: self._read(network, blank, self._taps)[1])
            self._embedding = EmbeddingTap(network, lambda: network(blank))
        self.stages = [
            Stage(
                index=index,
                channels=channels,
                reduction=data_size / height,
                depth=index / max(1, len(shapes) - 1),
            )
            for index, (channels, height, _) in enumerate(shapes.values())
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of float images (B, C, H, W) in [0, 1]."""
        return self.forward_taps(images, [])[0]

    def attach(self, part: StudentPart) -> None:
        """Let the logits be the part's from now on. ValueError for a second one."""
        if self.part is not None:
            raise ValueError(f"{self.name} has a part between its last map and its logits already")
        self.part = part.to(next(self.network.parameters())).train(self.training)

    def forward_taps(
        self, images: Tensor, stages: Sequence[int], *, taps: Taps = "output"
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (B, K) and the maps (B, C, H, W) of these stages, in one pass; the logits are `forward`'s.

        Each stage may be named once or more; IndexError for one that there is not. With `pre_activation` the
        maps of `pre_activation_stages` are those before the stage's last activation, the others as they are.
        `search.models.embedding.EMBEDDING` stands for the embedding, (B, D, 1, 1), and where the model has a
        part, `search.models.part.PART` for what it shows.
        """
        is_asked = EMBEDDING in stages
        if not is_asked and not (self.part is not None and self.part.reads_embedding):
            return self._forward_stages(images, stages, taps)
        if self.embedding_width is None:
            raise IndexError(f"the embedding of {self.name} is not found")
        others = [one for one in stages if one != EMBEDDING]
        with self._embedding.watching() as seen:
            logits, maps = self._forward_stages(images, others, taps, seen)
        return logits, {**maps, EMBEDDING: self._embedding.read(seen)} if is_asked else maps

    def _forward_stages(
        self, images: Tensor, stages: Sequence[int], taps: Taps, seen: Seen | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        wanted = {PART if stage == PART else self._taps[stage]: stage for stage in stages}
        given = self._input(images)
        numbers = [tap for tap in wanted if tap != PART]
        if self.part is not None:
            numbers = list(dict.fromkeys([*numbers, self._taps[-1]]))
        elif PART in wanted:
            raise IndexError(f"{self.name} has no part of its own before its logits")
        if not numbers:
            return self.network(given), {}

        def read() -> tuple[Tensor, dict[int, Tensor]]:
            return self._through_part(*self._read(self.network, given, numbers), seen)

        logits, maps = self._before.replace(read) if taps == "pre_activation" else read()
        return logits, {stage: maps[tap] for tap, stage in wanted.items()}

    def _through_part(
        self, logits: Tensor, maps: dict[int, Tensor], seen: Seen | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        if self.part is None:
            return logits, maps
        classifier = classifier_of(self.network)
        assert classifier is not None
        embedding = self._embedding.read(seen) if seen and self.part.reads_embedding else None
        of_part = self.part(maps[self._taps[-1]] if embedding is None else embedding, classifier)
        return of_part.logits, {**maps, PART: of_part.shown}

    def prefix_tokens(self, images: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
        """The class and register tokens (B, T, C) of these stages, which their maps leave out; empty for a
        network that has none.
        """
        wanted = {self._taps[stage]: stage for stage in stages}
        found = read_prefix_tokens(self.network, self._input(images), list(wanted))
        return {wanted[tap]: value for tap, value in found.items()}

    @property
    def pre_activation_stages(self) -> list[int]:
        """The stages that end in an activation, and so have a map before it."""
        return [index for index, tap in enumerate(self._taps) if tap in self._before.taps]

    @property
    def embedding_width(self) -> int | None:
        """Values that the classifier is given of an image; None where no classifier is found."""
        return self._embedding.width

    @property
    def parameter_count(self) -> int:
        """Parameters of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def served_parameter_count(self) -> int:
        """Values that are served: of a part that is not folded its own too, in place of the classifier's."""
        if self.part is None or not self.part.described():
            return self.parameter_count
        classifier = classifier_of(self.network)
        unused = sum(value.numel() for value in classifier.parameters()) if classifier else 0
        own = sum(value.numel() for value in self.part.parameters()) + self.part.constant_count
        return self.parameter_count - unused + own

    def _input(self, images: Tensor) -> Tensor:
        size = self.preprocessing.size
        if images.shape[-2:] != (size, size):
            images = functional.interpolate(
                images,
                size=(size, size),
                mode="bilinear",
                align_corners=False,
                antialias=images.shape[-1] > size,
            )
        normalised = (images - self.mean) / self.std
        return normalised if self.input_dtype is None else normalised.to(self.input_dtype)

    def _blank(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (count, len(self.preprocessing.mean), self.data_size, self.data_size)
        return torch.rand(shape, generator=generator)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
