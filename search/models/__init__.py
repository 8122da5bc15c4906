"""Models by name, with stage taps. Nobody else builds timm's models."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

import search.cifar_nets
from search.cifar_nets.cifar_net import CifarNet
from search.models.pretrained import own_normalisation, pretrained_file
from search.models.served import attach_saved_part, entries, folded, part_metadata
from search.models.tapped import TappedModel, evaluating
from search.models.weights import Preprocessing, load_weights, read_preprocessing, write_weights
from search.problems import SearchProblem

__all__ = [
    "TappedModel",
    "available_models",
    "build_model",
    "export_student",
    "require_known",
    "similar_models",
    "weights_sha256",
]

Weights = Path | Literal["pretrained"] | None
# Beyond this a resized image is nothing but interpolation, and costs hundreds of times its own size.
MAX_ENLARGEMENT = 16


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
        kwargs |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"file": str(pretrained_file(name, timm.get_pretrained_cfg(name)))},
        }
    saved = read_preprocessing(weights) if isinstance(weights, Path) else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network, size, img_size = _network_at_size(
            name,
            wanted=saved.size if saved else input_size,
            limit=MAX_ENLARGEMENT * input_size,
            seed=seed,
            exact=exact_size,
            kwargs=kwargs,
        )
    if isinstance(weights, Path):
        load_weights(network, weights, name=name)
    mean, std = (saved.mean, saved.std) if saved else (tuple(data_mean), tuple(data_std))
    if weights == "pretrained":
        mean, std = own_normalisation(network, channels=channels)
    preprocessing = Preprocessing(mean=mean, std=std, size=size)
    model = TappedModel(
        network, name=name, preprocessing=preprocessing, data_size=input_size, img_size=img_size
    )
    if isinstance(weights, Path):
        attach_saved_part(model, weights)
    return model


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
    hint = (
        f"; did you mean {', '.join(pool)}?" if pool else "; GET /v1/models and timm.list_models() list all"
    )
    raise SearchProblem(f"unknown model {name!r}{hint}", code="unknown_model")


def export_student(model: TappedModel, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a student that timm alone loads, with the same logits to the bit.

    A part before its logits is folded into its classifier where that is possible, which leaves the logits as
    they are up to rounding; else it is in the file, from which `build_model` makes both
    (`search.models.served`).

    The file's metadata hold, beside what is given: the model's name, classes, channels and preprocessing, and
    as `create_model` all that `timm.create_model(**json.loads(...), checkpoint_path=path)` needs: name,
    num_classes and in_chans, and img_size for a model of fixed size that was built for the data's. A net that
    timm does not know says in `requires_import` which module registers it.
    """
    model = folded(model)
    arguments: dict[str, str | int] = {
        "model_name": model.name,
        "num_classes": int(model.network.num_classes),  # type: ignore[arg-type]
        "in_chans": len(model.preprocessing.mean),
    }
    own = {
        "model": model.name,
        "num_classes": str(model.network.num_classes),
        "in_chans": str(len(model.preprocessing.mean)),
        **model.preprocessing.to_metadata(),
    }
    if model.img_size is not None:
        own["img_size"] = str(model.img_size)
        arguments["img_size"] = model.img_size
    if isinstance(model.network, CifarNet):
        own["requires_import"] = search.cifar_nets.__name__
    own["create_model"] = json.dumps(arguments)
    write_weights(entries(model), path, {**metadata, **own, **part_metadata(model)})


def weights_sha256(model: nn.Module) -> str:
    """Hash of a model's state: every entry's name, type, shape and bytes, in the order of the names."""
    state = entries(model) if isinstance(model, TappedModel) else model.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
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
    name: str, *, wanted: int, limit: int, seed: int, exact: bool, kwargs: dict[str, Any]
) -> tuple[nn.Module, int, int | None]:
    """The network, the side of its input, and the `img_size` it was built with (None: timm's default).

    The wanted size where the model runs at it, else the next larger multiple of its patch, else the size that
    timm gives it; then images are resized. Models of fixed size are built for the first two by `img_size`.
    """
    config = timm.get_pretrained_cfg(name)
    own, patch = int(config.input_size[-1]), 1
    channels, classes = kwargs["in_chans"], kwargs["num_classes"]
    for candidate in (wanted, None, own):
        side = candidate or -(-wanted // patch) * patch
        if side > limit:
            raise _unsupported_size(name, wanted, f"{name} runs on {side}x{side}, far larger than the data")
        img_size = side if config.fixed_input_size and side != own else None
        network = _try_size(name, img_size=img_size, seed=seed, kwargs=kwargs)
        if network is not None and getattr(network, "num_classes", classes) != classes:
            raise SearchProblem(f"{name} is no classifier; choose another model", code="model_unsupported")
        patch = _patch_of(network) if network is not None else patch
        fits = network is not None and side % patch == 0
        if network is not None and fits and _runs(network, channels=channels, classes=classes, side=side):
            return network, side, img_size
        if exact:
            remedy = f"a multiple of {patch}" if patch > 1 else str(own)
            raise _unsupported_size(name, wanted, f"set data.input_size to {remedy}, or leave it out")
    raise SearchProblem(
        f"{name} cannot sort {channels}-channel images into {classes} classes, neither of {wanted}x{wanted} "
        f"nor of {own}x{own} pixels; choose another model",
        code="model_unsupported",
    )


def _unsupported_size(name: str, wanted: int, remedy: str) -> SearchProblem:
    return SearchProblem(
        f"{name} cannot take images of {wanted}x{wanted} pixels: {remedy}; or choose another model",
        code="input_size_unsupported",
    )


def _try_size(name: str, *, img_size: int | None, seed: int, kwargs: dict[str, Any]) -> nn.Module | None:
    """The network, built for that size where `img_size` says so; None where timm refuses."""
    try:
        return _create(name, seed=seed, **kwargs, **({} if img_size is None else {"img_size": img_size}))
    except Exception as error:  # timm's families refuse a size in many ways
        if img_size is None:
            raise SearchProblem(f"{name} cannot be built: {error}", code="model_unsupported") from error
        return None


def _runs(network: nn.Module, *, channels: int, classes: int, side: int) -> bool:
    """Whether images of that side give logits of that many classes: encoders have none."""
    try:
        with evaluating(network), torch.no_grad():
            logits = network(torch.zeros(2, channels, side, side))
    except Exception:  # AssertionError, RuntimeError, ValueError, by family
        return False
    return isinstance(logits, Tensor) and logits.shape == (2, classes)


def _create(name: str, *, seed: int, **kwargs: Any) -> nn.Module:
    torch.default_generator.manual_seed(seed)
    with _quiet("timm"):
        network: nn.Module = timm.create_model(name, **kwargs)
    return network


def _patch_of(network: nn.Module) -> int:
    """Of which a side must be a multiple, lest the image's border be cut off; 1 where patches overlap."""
    embed = getattr(network, "patch_embed", None)
    patch, stride = (
        int(value[0] if isinstance(value, tuple | list) else value)
        for value in (getattr(embed, "patch_size", 1), getattr(getattr(embed, "proj", None), "stride", 1))
    )
    return patch if stride in (1, patch) else 1


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)
