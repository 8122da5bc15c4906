"""A logit loss around another: which one is inside, by its name and its settings."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue
from torch import nn

from search.method_card import NAMES, MethodConfig
from search.registry import InvalidConfigError, Kind, get


class WrappingConfig(MethodConfig):
    """The loss inside."""

    of: str = Field(
        default="kd",
        description="The logit loss inside.",
        json_schema_extra={NAMES: Kind.LOGIT_LOSS.value},
    )
    of_config: dict[str, JsonValue] = Field(default_factory=dict, description="Its settings.")


def inside(config: WrappingConfig, *, wrapper: str) -> nn.Module:
    """The loss inside. Raises UnknownMethodError, and InvalidConfigError for a wrapper inside itself."""
    if config.of == wrapper:
        raise InvalidConfigError(f"{wrapper} inside {wrapper}: name another logit loss in `of`")
    loss: Any = get(Kind.LOGIT_LOSS, config.of).build(config=config.of_config)
    assert isinstance(loss, nn.Module)
    return loss
