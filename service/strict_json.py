"""JSON from outside, read strictly: what is ambiguous, cannot be stored or only does harm is refused."""

from __future__ import annotations

import json
import math
from typing import Any

from service.problems import Code, Fault, Problem

MAX_DEPTH = 64


def parse_json(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises Problem (`malformed_json`) for broken syntax (with line and column), duplicate names, NaN and
    infinities, nesting deeper than 64, and characters that a database cannot hold (NUL, lone surrogates).
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8", "Send UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise _malformed(_where(error, body), "Send one complete JSON object.") from None
    except RecursionError:
        raise _malformed(f"nested deeper than {MAX_DEPTH} levels", "Nest less deeply.") from None
    except ValueError as error:
        raise _malformed(str(error), "Send each name once, and finite numbers only.") from None
    _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:100]!r} appears twice in one object")
        found[name] = value
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _check(value: Any) -> None:
    """Walk without recursion, so that depth is bounded by the check and not by the interpreter."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _malformed(f"nested deeper than {MAX_DEPTH} levels", "Nest less deeply.")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level = below


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _malformed("a string contains the character NUL", "Remove \\u0000.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _malformed("a string contains half a surrogate pair", "Send whole characters.") from None


def _where(error: json.JSONDecodeError, body: bytes) -> str:
    if not body.strip():
        return "the body is empty"
    ended = " (the text ends there)" if error.pos >= len(error.doc.rstrip()) else ""
    return f"{error.msg} at line {error.lineno}, column {error.colno}{ended}"


def _malformed(message: str, remedy: str) -> Problem:
    fault = Fault(field="body", message=message, remedy=remedy)
    return Problem(Code.MALFORMED_JSON, f"The body is not valid JSON: {message}.", errors=[fault])
