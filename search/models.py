"""Models by name, with stage taps. The only caller of timm."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from search.problems import SearchProblem
from search.recipe import Stage
from search.taps import find_taps
from search.weights import Preprocessing, load_weights, pretrained_file, read_preprocessing, write_weights

Weights = Path | Literal["pretrained"] | None
# Beyond this a resized image is nothing but interpolation, and costs hundreds of times its own size.
MAX_ENLARGEMENT = 16


class TappedModel(nn.Module):
    """A timm network that takes images in [0, 1] of the data's size, and can be tapped at its stages.

    Resizing and normalisation happen inside; the network's own state is all that is ever exported. Usable by
    `torch.func.functional_call` and under forward-mode AD: no fused attention, no in-place activations.
    """

    mean: Tensor
    std: Tensor

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
        self.preprocessing = preprocessing
        self.data_size = data_size
        self.img_size = img_size
        for field in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, field), dtype=torch.float32)
            self.register_buffer(field, values[:, None, None], persistent=False)
        _prepare(network)
        with _evaluating(network):
            self._read, shapes = find_taps(network, self._input(self._blank(2)))
        self._taps = list(shapes)
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
        logits: Tensor = self.network(self._input(images))
        return logits

    def forward_taps(self, images: Tensor, stages: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (B, K) and the maps (B, C, H, W) of these stages, in one pass; the logits are `forward`'s.

        Each stage may be named once or more; IndexError for one that there is not.
        """
        wanted = {self._taps[stage]: stage for stage in stages}
        if not wanted:
            return self.forward(images), {}
        logits, maps = self._read(self.network, self._input(images), list(wanted))
        return logits, {wanted[tap]: value for tap, value in maps.items()}

    @property
    def parameter_count(self) -> int:
        """Parameters of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

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
        return (images - self.mean) / self.std

    def _blank(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (count, len(self.preprocessing.mean), self.data_size, self.data_size)
        return torch.rand(shape, generator=generator)


def build_model(
    name: str,
    *,
    classes: int,
    channels: int,
    input_size: int,
    seed: int,
    data_mean: Sequence[float],
    data_std: Sequence[float],
    weights: Weights = None,
    exact_size: bool = False,
) -> TappedModel:
    """Build a model for images of `channels` and `input_size`; random weights depend on the seed alone.

    `weights` is a safetensors file, a torch file of plain tensors, or `pretrained` for timm's own weights
    where they are in the local cache: nothing is downloaded. Inputs are normalised as the weights' file says,
    by timm's figures for `pretrained`, else by the data's. With `exact_size` a model of fixed size that
    cannot take the data's size is refused instead of getting resized images. The global random state is left
    as it was.

    Raises SearchProblem: unknown_model, model_unsupported, input_size_unsupported, weights_do_not_fit,
    weights_unreadable, weights_unavailable.
    """
    require_known(name)
    kwargs: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if weights == "pretrained":
        kwargs |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(pretrained_file(name))}}
    saved = read_preprocessing(weights) if isinstance(weights, Path) else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network, size, img_size = _network_at_size(
            name, wanted=saved.size if saved else input_size, seed=seed, exact=exact_size, kwargs=kwargs
        )
    if size > MAX_ENLARGEMENT * input_size:
        raise SearchProblem(
            f"{name} takes images of {size}x{size} pixels only, more than {MAX_ENLARGEMENT} times the data's "
            f"{input_size}x{input_size}: choose another model, or set data.input_size",
            code="input_size_unsupported",
        )
    if isinstance(weights, Path):
        load_weights(network, weights, name=name)
    if saved is None or len(saved.mean) != channels:
        mean, std = _normalisation(
            network, weights, channels=channels, data=(tuple(data_mean), tuple(data_std))
        )
        saved = Preprocessing(mean=mean, std=std, size=size)
    try:
        return TappedModel(network, name=name, preprocessing=saved, data_size=input_size, img_size=img_size)
    except Exception as error:
        raise SearchProblem(
            f"{name} does not run on {channels}-channel images of {size}x{size}: {error}",
            code="model_unsupported",
        ) from error


def available_models() -> list[str]:
    """Names of all architectures that timm can build."""
    return list(_names())


def similar_models(name: str, *, count: int = 5) -> list[str]:
    """The names nearest to one, for a suggestion."""
    return difflib.get_close_matches(name.lower(), _names(), n=count, cutoff=0.5)


def require_known(name: str) -> None:
    """Raise SearchProblem `unknown_model` with suggestions, unless timm has a model of that name.

    A pretrained tag (`resnet18.a1_in1k`) may follow. Hub and directory sources are no names.
    """
    architecture, _, tag = name.partition(".")
    if architecture in _names() and (not tag or name in _tagged_names()):
        return
    pool = (
        similar_models(name) if not tag else difflib.get_close_matches(name, _tagged_names(), n=5, cutoff=0.5)
    )
    hint = f"; did you mean {', '.join(pool)}?" if pool else "; see GET /v1/models"
    raise SearchProblem(f"unknown model {name!r}{hint}", code="unknown_model")


def export_student(model: TappedModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student for `timm.create_model(name, num_classes=, in_chans=, checkpoint_path=path)` alone.

    The file's metadata hold the model's name, classes, channels and preprocessing, beside what is given. A
    model of fixed size that was built for the data's size needs `img_size=` too; the metadata say which.
    """
    own = {
        "model": model.name,
        "num_classes": str(model.network.num_classes),
        "in_chans": str(len(model.preprocessing.mean)),
        **model.preprocessing.to_metadata(),
    }
    if model.img_size is not None:
        own["img_size"] = str(model.img_size)
    write_weights(model.network, path, {**metadata, **own})


def weights_sha256(model: nn.Module) -> str:
    """Hash of a model's state: every entry's name, type, shape and bytes, in the order of the names."""
    network = model.network if isinstance(model, TappedModel) else model
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(timm.list_models())


@lru_cache(maxsize=1)
def _tagged_names() -> frozenset[str]:
    return frozenset(timm.list_pretrained())


def _network_at_size(
    name: str, *, wanted: int, seed: int, exact: bool, kwargs: dict[str, Any]
) -> tuple[nn.Module, int, int | None]:
    """The network, the side of its input, and the `img_size` it was built with (None: timm's default).

    A model of fixed size is built for the data's size where it allows that, else for the next larger multiple
    of its patch, else it keeps its own size and gets resized images.
    """
    config = timm.get_pretrained_cfg(name)
    own = config.input_size[-1]
    if not config.fixed_input_size or wanted == own:
        return _create(name, seed=seed, **kwargs), wanted, None
    patch = 1
    for size in (wanted, None):
        side = size if size is not None else -(-wanted // patch) * patch
        network = _try_size(name, side, seed=seed, kwargs=kwargs)
        if network is None:
            continue
        patch = _patch_of(network)
        if side % patch == 0:
            return network, side, side
        if exact:
            break
    if exact:
        remedy = f"a multiple of {patch}, or " if patch > 1 else ""
        raise SearchProblem(
            f"{name} cannot take images of {wanted}x{wanted} pixels; set data.input_size to {remedy}{own}, "
            "or leave it out to have images resized",
            code="input_size_unsupported",
        )
    return _create(name, seed=seed, **kwargs), own, None


def _try_size(name: str, side: int, *, seed: int, kwargs: dict[str, Any]) -> nn.Module | None:
    """The network built for that size, or None where it cannot be or does not run."""
    try:
        network = _create(name, seed=seed, img_size=side, **kwargs)
        with _evaluating(network), torch.no_grad():
            network(torch.zeros(2, kwargs["in_chans"], side, side))
    except SearchProblem:
        raise
    except Exception:  # timm's families refuse a size in many ways: TypeError, AssertionError, RuntimeError
        return None
    return network


def _create(name: str, *, seed: int, **kwargs: Any) -> nn.Module:
    torch.default_generator.manual_seed(seed)
    with _quiet("timm"):
        network: nn.Module = timm.create_model(name, **kwargs)
    return network


def _patch_of(network: nn.Module) -> int:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(patch[0] if isinstance(patch, tuple | list) else patch)


def _normalisation(
    network: nn.Module, weights: Weights, *, channels: int, data: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel; timm's RGB figures are averaged for other channels."""
    if weights != "pretrained":
        return data
    figures = []
    for field in ("mean", "std"):
        config: Any = network.pretrained_cfg
        values = tuple(float(value) for value in config[field])
        figures.append(values if len(values) == channels else (sum(values) / len(values),) * channels)
    return figures[0], figures[1]


def _prepare(network: nn.Module) -> None:
    """Fused attention has no forward-mode derivative; in-place activations would overwrite tapped maps."""
    module: Any
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)
