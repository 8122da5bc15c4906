"""What all CIFAR nets share: stem, stages, head and the interface that timm's users know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Part:
    """One stage: its module, the channels that leave it, and image side over map side there."""

    module: nn.Module
    channels: int
    reduction: int


class CifarNet(nn.Module):
    """stem -> stages -> tail -> global average pool -> linear head, on images (B, in_chans, H, W).

    `tail` stands between the last stage and the pooling (`nn.Identity` where there is nothing); it has
    `features` channels.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Part],
        *,
        tail: nn.Module | None = None,
        features: int | None = None,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = features or stages[-1].channels
        self.stem = stem
        self.stages = nn.Sequential(*(part.module for part in stages))
        self.tail = tail or nn.Identity()
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.feature_info = [
            {"num_chs": part.channels, "reduction": part.reduction, "module": f"stages.{index}"}
            for index, part in enumerate(stages)
        ]
        for module in self.modules():
            _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The map (B, num_features, h, w) that is pooled."""
        features: Tensor = self.tail(self.stages(self.stem(x)))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of the map that `forward_features` gives, or what the linear layer reads."""
        logits: Tensor = self.head(x, pre_logits=pre_logits)
        return logits

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages' maps (B, C, H, W), with or without what `forward_features` gives; as timm's nets do.

        `indices` are stages, or the number of last ones; all by default. There is no norm to apply.
        """
        if output_fmt != "NCHW":
            raise ValueError("output_fmt must be NCHW")
        count = len(self.stages)
        wanted = range(count - indices, count) if isinstance(indices, int) else indices
        taken = {index % count for index in (range(count) if wanted is None else wanted)}
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            if stop_early and intermediates_only and index > max(taken):
                break
            x = stage(x)
            if index in taken:
                maps.append(x)
        return maps if intermediates_only else (self.tail(x), maps)

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer for so many classes; none for 0."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not offered: these nets are small."""
        if enable:
            raise NotImplementedError("CIFAR nets have no gradient checkpointing")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth, for timm's layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}


def register(
    name: str,
    make: Callable[..., CifarNet],
    *,
    stages: int = 3,
    first_conv: str = "stem.0",
    **arguments: Any,
) -> None:
    """Give timm an architecture of this name: `make` with these arguments, and with timm's own over them."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        network: nn.Module = build_model_with_cfg(
            make,
            name,
            pretrained,
            feature_cfg={"out_indices": tuple(range(stages)), "flatten_sequential": True},
            **{**arguments, **kwargs},
        )
        return network

    entry.__name__ = entry.__qualname__ = name
    # timm looks for the configuration in the entry's module, and groups architectures by it.
    entry.__module__ = __name__
    default_cfgs[name] = {
        "input_size": (3, 32, 32),
        "num_classes": 100,
        "pool_size": (8, 8),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
        "first_conv": first_conv,
        "classifier": "head.fc",
        "notes": ("registered by `import search.cifar_nets`",),
    }
    register_model(entry)


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, padded so that only the stride changes the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _initialise(module: nn.Module) -> None:
    """He's normal initialisation, by what leaves a convolution."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


default_cfgs: dict[str, dict[str, Any]] = {}
__all__ = ["CifarNet", "Part", "convolution", "register"]
