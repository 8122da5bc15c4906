"""Which methods cannot be used together, or in a job at all, and why: from their cards alone. No torch.

Cards are JSON, as the catalogue and preflight hold them (`Method.described`). What a card does not say is the
usual, so that an older catalogue refuses less and nothing wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from search.method_card import Need, Owned
from search.spec import JobSpec

CardJson = Mapping[str, Any]
LOGIT_LOSS = "logit_loss"
SAYS_OWNED = {Owned.STUDENT_LOGITS: "the student's logits", Owned.LAST_MAP: "the student's last map"}
REMEDIES = {
    Need.LABELS: "choose a method without labels, or data with them",
    Need.SECOND_TEACHER: "name a second teacher, or choose another method",
    Need.UNLABELLED: "name unlabelled data, or choose another method",
}


@dataclass(frozen=True)
class Refusal:
    """Why methods cannot be used, and what to do."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class JobFacts:
    """What a job offers to its methods.

    `unmet`: what it cannot give. `images_at_once`: those of a batch that are in one forward pass. `is_mixed`:
    whether images are blended or cut into each other.
    """

    unmet: frozenset[Need] = frozenset()
    images_at_once: int | None = None
    is_mixed: bool = False


def facts_of(spec: JobSpec) -> JobFacts:
    """What the spec alone tells."""
    training = spec.training
    met = {
        Need.LABELS: getattr(spec.data, "labels", "given") != "none",
        Need.SECOND_TEACHER: len(spec.teachers) > 1,
        Need.UNLABELLED: spec.data.unlabelled is not None,
    }
    return JobFacts(
        unmet=frozenset(need for need, is_met in met.items() if not is_met),
        images_at_once=training.batch_size // training.accumulate_parts,
        is_mixed=training.mixup_alpha > 0 or training.cutmix_alpha > 0,
    )


def why_not_together(cards: Sequence[CardJson], facts: JobFacts) -> Refusal | None:
    """Why not all of these methods can be used in one run of such a job; None where they can."""
    alone = chain.from_iterable(_alone(card, facts) for card in cards)
    return next(chain(alone, _owners(cards), _beside_owners(cards)), None)


def _alone(card: CardJson, facts: JobFacts) -> Iterator[Refusal]:
    """What is wrong with a method whatever is beside it."""
    for rule in _RULES:
        found = rule(card, facts)
        if found is not None:
            yield found


def _needs(card: CardJson, facts: JobFacts) -> Refusal | None:
    for need in sorted(need for need in facts.unmet if need in _needs_of(card)):
        words = need.value.replace("_", " ")
        remedy = REMEDIES.get(need, "choose another method, or other models")
        return Refusal(f"{_title(card)} needs {words}, which this job does not have", remedy)
    return None


def _batch(card: CardJson, facts: JobFacts) -> Refusal | None:
    least = int(card.get("least_batch", 1))
    if facts.images_at_once is None or facts.images_at_once >= least:
        return None
    return Refusal(
        f"{_title(card)} compares the images of a batch with each other and needs {least} of them, but only "
        f"{facts.images_at_once} are taken at once",
        f"set training.batch_size to at least {least} times training.accumulate_parts, or choose another "
        "method",
    )


def _mixing(card: CardJson, facts: JobFacts) -> Refusal | None:
    if not (facts.is_mixed and Need.INDICES in _needs_of(card)):
        return None
    return Refusal(
        f"{_title(card)} keeps what was said of each training image, but mixup and CutMix train on images "
        "that are none of them",
        "set training.mixup_alpha and training.cutmix_alpha to 0, or choose another method",
    )


_RULES: tuple[Callable[[CardJson, JobFacts], Refusal | None], ...] = (_needs, _batch, _mixing)


def _owners(cards: Sequence[CardJson]) -> Iterator[Refusal]:
    """Two methods that take the same for themselves; the same method twice is two."""
    for owned, words in SAYS_OWNED.items():
        owners = [card for card in cards if owned in card.get("owns", ())]
        if len(owners) > 1:
            yield Refusal(
                f"{_title(owners[0])} and {_title(owners[1])} both take {words} for themselves", "use one"
            )


def _beside_owners(cards: Sequence[CardJson]) -> Iterator[Refusal]:
    """A loss on the student's logits, beside a method that gives them itself."""
    for owner in cards:
        if Owned.STUDENT_LOGITS not in owner.get("owns", ()):
            continue
        for card in cards:
            if card is not owner and teaches_logits(card):
                yield Refusal(
                    f"{_title(owner)} puts another head in the place of the student's, so that "
                    f"{_title(card)} has no logits of the student to teach",
                    f"use {card_name(owner)} without {card_name(card)}",
                )


def teaches_logits(card: CardJson) -> bool:
    """Whether it is a loss on the student's logits: all logit losses are, and feature losses that say so."""
    return card.get("kind") == LOGIT_LOSS or bool(card.get("teaches_logits", False))


def trains_logits(card: CardJson) -> bool:
    """Whether what the student says is trained with it: by a loss on its logits, or one that gives them."""
    return teaches_logits(card) or Owned.STUDENT_LOGITS in card.get("owns", ())


def card_name(card: CardJson) -> str:
    """The method's name."""
    return str(card.get("name") or str(card["id"]).rpartition("/")[2])


def _needs_of(card: CardJson) -> set[str]:
    return set(card.get("needs", ()))


def _title(card: CardJson) -> str:
    return f"{str(card.get('kind', 'method')).replace('_', ' ')} {card_name(card)!r}"
