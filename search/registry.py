"""The registry of methods: how one new file becomes searchable, documented and tested.

A method registers itself by name under a kind. Sibling files of a method package are imported by
`import_siblings`, plug-in packages through their entry points (docs/plugins.md).
Imports no torch: factories are only called where torch is at hand.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError

from search.method_card import Card, MethodConfig
from search.spec_faults import explain_validation

T = TypeVar("T", bound=Callable[..., Any])


METHOD_PACKAGES = (
    "search.operators",
    "search.pathways",
    "search.logits",
    "search.features",
    "search.temperature",
    "search.process",
    "search.augment",
    "search.hypergradient",
)


class PlugIns(StrEnum):
    """The entry-point groups of plug-in packages."""

    PLANS = "limbeck.plans"  # strategies and declarations: loaded wherever a job is planned, without torch
    METHODS = "limbeck.methods"  # all else: loaded where students are trained, and for the catalogue


class Kind(StrEnum):
    """What a method is; each kind has its own call contract, written in the package that holds it."""

    TRANSFORM = "transform"
    OPERATOR = "operator"
    DISTANCE = "distance"
    LOGIT_LOSS = "logit_loss"
    FEATURE_LOSS = "feature_loss"
    TEMPERATURE_RULE = "temperature_rule"
    NORMALISATION = "normalisation"
    STRATEGY = "strategy"
    HYPERGRADIENT = "hypergradient"
    AUGMENTATION = "augmentation"


@dataclass(frozen=True)
class Method:
    """A registered method: its factory, and what the catalogue says of it."""

    kind: Kind
    name: str
    summary: str
    source: str
    factory: Callable[..., Any]
    card: Card = field(default_factory=Card)

    def described(self) -> dict[str, Any]:
        """All that is said of it, as JSON: an entry of the catalogue."""
        return {
            "id": f"{self.kind}/{self.name}",
            "kind": self.kind.value,
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            **self.card.described(),
        }

    def build(self, *arguments: Any, config: Mapping[str, Any] | None = None) -> Any:
        """What the factory makes of these arguments, with these settings beside where it has any.

        Raises InvalidConfigError.
        """
        return self.bound(config)(*arguments)

    def bound(self, config: Mapping[str, Any] | None = None) -> Callable[..., Any]:
        """The factory with these settings where it has any: what a method that is a function is called by.

        Raises InvalidConfigError.
        """
        settings = self.configured(config or {})
        if self.card.config is MethodConfig:
            return self.factory
        return partial(self.factory, config=settings)

    def configured(self, config: Mapping[str, Any]) -> MethodConfig:
        """The settings, defaults filled in. Raises InvalidConfigError."""
        try:
            return self.card.config.model_validate(config)
        except ValidationError as error:
            found = explain_validation(error, self.card.config)
            faults = "; ".join(f"{fault.field}: {fault.message} ({fault.remedy})" for fault in found)
            raise InvalidConfigError(f"the settings of {self.kind} {self.name!r}: {faults}") from error


class InvalidConfigError(ValueError):
    """A method does not have such settings."""


class UnknownMethodError(LookupError):
    """No method of that kind has that name."""


_methods: dict[tuple[Kind, str], Method] = {}


def register(kind: Kind, name: str, *, source: str, card: Card | None = None) -> Callable[[T], T]:
    """Register a class or function as a method; its docstring's first line is the summary.

    Raises ValueError for a name that is taken: a second method must never shadow a first.
    """

    def decorate(factory: T) -> T:
        if (kind, name) in _methods:
            raise ValueError(f"{kind} {name!r} is already registered by {_methods[kind, name].factory!r}")
        summary = (factory.__doc__ or "").strip().splitlines()
        if not summary:
            raise ValueError(f"{kind} {name!r} needs a docstring: its first line is shown in the catalogue")
        _methods[kind, name] = Method(kind, name, summary[0], source, factory, card or Card())
        return factory

    return decorate


def get(kind: Kind, name: str) -> Method:
    """The method, or UnknownMethodError naming those there are."""
    try:
        return _methods[kind, name]
    except KeyError:
        known = ", ".join(method.name for method in methods(kind))
        raise UnknownMethodError(f"unknown {kind} {name!r}; known: {known}") from None


def methods(kind: Kind | None = None) -> list[Method]:
    """All registered methods, of one kind or of every kind, sorted by kind and name."""
    return [_methods[key] for key in sorted(_methods) if kind is None or key[0] == kind]


def import_siblings(package: str, path: list[str]) -> None:
    """Import every module of a method package, sorted; a broken one breaks start-up loudly."""
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


def load_built_in() -> None:
    """Import all methods of our own; this needs torch."""
    for package in (*METHOD_PACKAGES, "search.strategies"):
        importlib.import_module(package)


def load_everything() -> None:
    """Import all built-in methods (this needs torch) and all plug-ins."""
    load_built_in()
    load_plans()
    _load_plug_ins(PlugIns.METHODS)


def load_plans() -> None:
    """Import all that a plan may name, built in and from plug-ins. Needs no torch."""
    importlib.import_module("search.strategies")
    _load_plug_ins(PlugIns.PLANS)


def _load_plug_ins(group: PlugIns) -> None:
    """Each registers or declares what it has when it is imported; a broken one breaks start-up loudly."""
    for entry_point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        entry_point.load()
