"""Write docs/methods.md from the cards of the built-in methods, so that both say the same.

`python -m tools.method_page` writes, `--check` only says whether the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from search.method_card import Evidence
from search.registry import Kind, Method, load_built_in, methods

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
HEAD = """# Methods

All that a job may name, by kind. `python -m search methods --json` and `GET /v1/methods` say the same of an
installation, plug-ins included. A transform, a distance, a loss or a temperature rule is used by its name, or
with settings: `{"name": "dkd", "config": {"rest_weight": 4}}`; a setting that is an object with `low` and
`high` is searched in that range, one that is a list among its values
([the job spec](job-spec.md#methoduse)). An operator's settings are given to the transform that it follows:
`{"name": "projection+random_mask", "config": {"random_mask.ratio": 0.5}}`. Where nothing is said of a
formula, it was read in the paper or in its released code.

This page is written by `make docs` from what the methods declare.
"""
ABOUT = {
    Kind.TRANSFORM: "What fits a student's map to the teacher's.",
    Kind.OPERATOR: "What both maps go through after the transform and before the distance, named after the "
    "transform with +: `projection+channel_attention+max_pool2`.",
    Kind.DISTANCE: "Between a transformed map of the student and the teacher's map.",
    Kind.LOGIT_LOSS: "On both models' logits, at the temperatures that a temperature rule gives.",
    Kind.FEATURE_LOSS: "Whole methods on maps, embeddings and more, which choose their stages themselves. "
    "Each gets one weight, as a pathway does, and is divided by its first value as pathways are.",
    Kind.TEMPERATURE_RULE: "What gives a trial's logit losses their temperatures "
    "([search](search.md#temperature-rules)). The logit loss `logit_std` standardises each image's logits, "
    "which is a temperature for each image beside the rule's.",
    Kind.NORMALISATION: "From the parameters of pathways to their weights.",
    Kind.STRATEGY: "What proposes trials.",
    Kind.HYPERGRADIENT: "How the process's gradient is found.",
    Kind.AUGMENTATION: "What training images are turned into, as a function of seed, view and index.",
}


def main() -> int:
    """Write or check the page; the exit status is 1 when a checked page is out of date."""
    parser = argparse.ArgumentParser(description="Write docs/methods.md from the methods' cards.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when it is out of date")
    check = parser.parse_args().check
    load_built_in()
    page = render()
    if PAGE.is_file() and PAGE.read_text() == page:
        return 0
    if not check:
        PAGE.write_text(page)
    sys.stderr.write(f"docs/{PAGE.name} {'is out of date: run `make docs`' if check else 'written'}\n")
    return int(check)


def render() -> str:
    """The page."""
    lines = [HEAD]
    for kind, found in groupby(methods(), key=lambda method: method.kind):
        lines += [f"## {kind.replace('_', ' ').capitalize()}", "", ABOUT[kind], ""]
        for method in found:
            lines += [*_about(method), ""]
    return "\n".join(lines).rstrip() + "\n"


def _about(method: Method) -> Iterator[str]:
    card = method.card
    yield f"### `{method.name}`"
    yield ""
    yield method.summary
    yield ""
    evidence = "" if card.evidence is Evidence.PUBLISHED else f" The formula is {card.evidence.value}."
    yield f"- Source: {method.source}.{evidence}"
    if card.systems:
        yield f"- Carries: {', '.join(f'`{system}`' for system in card.systems)}."
    if card.needs:
        yield f"- Needs: {', '.join(sorted(need.replace('_', ' ') for need in card.needs))}."
    if method.kind is Kind.LOGIT_LOSS and card.temperatures != ("teacher", "student"):
        sides = " and ".join(f"the {side}'s" for side in card.temperatures)
        yield f"- Of the temperatures it takes {f'{sides} alone' if sides else 'none'}."
    if card.trains:
        yield "- Trains parameters of its own beside the student's."
    if card.least_batch > 1:
        yield f"- Compares the images of a batch: at least {card.least_batch} at once."
    if card.owns:
        yield f"- Takes for itself: {', '.join(sorted(owned.replace('_', ' ') for owned in card.owns))}."
    if not card.train_time_only:
        yield "- **Is served with the student.**"
    if card.differences:
        yield f"- {card.differences}"
    yield from _settings(card.config.model_json_schema().get("properties", {}))


def _settings(properties: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, setting in properties.items():
        searched = setting.get("search")
        usual = f", usually searched from {searched['low']:g} to {searched['high']:g}" if searched else ""
        default = setting.get("default", {})
        yield f"- `{name}` (`{default}`{usual}): {setting.get('description', '')}"


if __name__ == "__main__":
    sys.exit(main())
