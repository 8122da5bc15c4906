"""YAML as people mean it: version 1.2's scalars, where `3e-3` is a number and `off` is a word.

PyYAML follows version 1.1, in which `learning_rate: 3e-3` is a string and `transfer: off` is False.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+[eE][-+]?[0-9]+
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    pass


# A class attribute that SafeLoader shares with its subclasses: copied before anything is changed.
_CoreLoader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] not in (f"{_TAG}bool", f"{_TAG}float", f"{_TAG}timestamp")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_CoreLoader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_CoreLoader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))


def load(text: str) -> Any:
    """The document in the text; safe. Raises yaml.YAMLError with line and column."""
    return yaml.load(text, Loader=_CoreLoader)
