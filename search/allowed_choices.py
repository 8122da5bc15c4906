"""Which choices of a job's space can be used, by the cards of the methods that they name. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product

from pydantic import JsonValue

from search.chains import parts_of
from search.combinations import CardJson, JobFacts, Refusal, teaches_logits, trains_logits, why_not_together
from search.method_card import NAMES
from search.registry import Kind
from search.spec import MethodUse, Space, name_of
from search.spec_faults import SpecFault

Cards = Mapping[str, CardJson]
"""By "kind/name"."""
Uses = Sequence[str | MethodUse]
SetsOfCards = Mapping[str, list[list[CardJson]]]
"""By field of a space, the cards of each of its sets."""

SETS: tuple[tuple[str, Kind], ...] = (
    ("logit_losses", Kind.LOGIT_LOSS),
    ("feature_losses", Kind.FEATURE_LOSS),
    ("transforms", Kind.TRANSFORM),
    ("distances", Kind.DISTANCE),
)
"""The fields of a space whose choices are sets of methods, and the methods' kind."""
LOSSES = ("logit_losses", "feature_losses")
"""Those in which an empty set is allowed."""

DEEPEST = 8
"""Of methods inside methods."""


def sets_of(space: Space, field: str) -> Sequence[Uses]:
    """The choices of one of `SETS`."""
    found: Sequence[Uses] = getattr(space, field)
    return found


def cards_of(uses: Uses, kind: Kind, cards: Cards) -> list[CardJson]:
    """The cards of these methods, and of those that their settings name; without those that have no card."""
    return [cards[key] for key in named_in(uses, kind, cards) if key in cards]


def named_in(uses: Uses, kind: Kind, cards: Cards) -> list[str]:
    """As "kind/name" these methods, and those that by their cards their settings name."""
    return [*chain.from_iterable(named_by(name_of(use), _config(use), kind, cards) for use in uses)]


def named_by(name: str, config: Mapping[str, JsonValue], kind: Kind, cards: Cards) -> list[str]:
    """The same of one method, or of all parts of a chain."""
    parts = parts_of(name) if kind is Kind.TRANSFORM else [(kind, name)]
    return [*chain.from_iterable(_keys(part, config, of.value, cards) for of, part in parts)]


def why_no_choice(space: Space, cards: Cards, facts: JobFacts) -> SpecFault | None:
    """Why not one choice of the space can be used in such a job; None where there is one."""
    sets = _sets_of_cards(space, cards)
    for field, each in sets.items():
        refusals = [why_not_together(one, facts) for one in each]
        if all(refusals):
            first = next(filter(None, refusals))
            return SpecFault(f"search.space.{field}", first.reason, first.remedy)
    remaining = _remaining(sets, facts)
    refusal = _why_no_product(remaining, facts)
    if refusal is None:
        return None
    emptied = _saved_by_empty(remaining, facts)
    if emptied is None:
        return SpecFault("search.space", refusal.reason, refusal.remedy)
    return SpecFault(f"search.space.{emptied}", refusal.reason, _add_empty(emptied))


def passed_over(space: Space, cards: Cards, facts: JobFacts) -> Iterator[str]:
    """In words, the sets of methods that no trial can use, each by its field: alone, or beside any choice of
    the others."""
    remaining = _remaining(_sets_of_cards(space, cards), facts)
    for field, kind in SETS:
        for index, uses in enumerate(sets_of(space, field)):
            one = cards_of(uses, kind, cards)
            reason = _why_not(one, facts) or _why_no_partner({**remaining, field: [one]}, field, facts)
            if reason is not None:
                yield f"search.space.{field}.{index} is passed over: {reason}"


def leaves_classifier(space: Space, cards: Cards, facts: JobFacts) -> bool:
    """Whether a choice that can be used has no loss that trains the student's logits."""
    fields = ((name, kind) for name, kind in SETS if name in LOSSES)
    sets = ([cards_of(uses, kind, cards) for uses in sets_of(space, name)] for name, kind in fields)
    silent = [[one for one in each if not any(map(trains_logits, one))] for each in sets]
    is_joined = any(each != "none" for each in space.connections)
    pairs = ([*chain(*pair)] for pair in product(*silent))
    return any(why_not_together(pair, facts) is None for pair in pairs if pair or is_joined)


def _why_not(uses: list[CardJson], facts: JobFacts) -> str | None:
    refusal = why_not_together(uses, facts)
    return None if refusal is None else refusal.reason


def _why_no_partner(sets: SetsOfCards, field: str, facts: JobFacts) -> str | None:
    """Why the only set of this field goes with no choice of the others; None where it goes with one."""
    refusal = _why_no_product(sets, facts)
    if refusal is None:
        return None
    emptied = _saved_by_empty(sets, facts, but=field)
    return refusal.reason if emptied is None else f"{refusal.reason}; {_add_empty(emptied)}"


def _why_no_product(sets: SetsOfCards, facts: JobFacts) -> Refusal | None:
    """Why no choice of one set of each field can be used; None where there is one."""
    refusals = [why_not_together([*chain(*choice)], facts) for choice in product(*sets.values())]
    return next(filter(None, refusals), None) if all(refusals) else None


def _saved_by_empty(sets: SetsOfCards, facts: JobFacts, *, but: str = "") -> str | None:
    """The field of losses, other than `but`, in which one more set without any would make a choice."""
    others = (field for field in LOSSES if field != but)
    return next((field for field in others if not _why_no_product({**sets, field: [[]]}, facts)), None)


def _add_empty(field: str) -> str:
    return f"add [] to search.space.{field}"


def _remaining(sets: SetsOfCards, facts: JobFacts) -> SetsOfCards:
    """Of every field the sets that can be used alone, one of those that are alike."""
    return {
        field: _unlike(one for one in each if why_not_together(one, facts) is None)
        for field, each in sets.items()
    }


def _sets_of_cards(space: Space, cards: Cards) -> SetsOfCards:
    """Of every field the cards of its sets; no transform and no distance where nothing is connected."""
    found = {field: [cards_of(uses, kind, cards) for uses in sets_of(space, field)] for field, kind in SETS}
    if "none" in space.connections:
        is_only = all(each == "none" for each in space.connections)
        for field in ("transforms", "distances"):
            found[field] = [[]] if is_only else [[], *found[field]]
    return found


def _unlike(sets: Iterable[list[CardJson]]) -> list[list[CardJson]]:
    """Of sets that each can be used, one of those that are alike in what they take from others."""
    by_claims: dict[frozenset[str], list[CardJson]] = {}
    for each in sets:
        claims = set(chain.from_iterable(card.get("owns", ()) for card in each))
        claims |= {"a loss on logits" for card in each if teaches_logits(card)}
        by_claims.setdefault(frozenset(claims), each)
    return [*by_claims.values()]


def _keys(name: str, config: Mapping[str, JsonValue], kind: str, cards: Cards, depth: int = 0) -> list[str]:
    """Its card's key, and those of the methods that its settings name, by default or as `config` says.

    What `x_config` says are the settings of the method that `x` names.
    """
    key = f"{kind}/{name}"
    found = [key]
    settings = cards.get(key, {}).get("config", {}).get("properties", {}) if depth < DEEPEST else {}
    for setting, schema in settings.items():
        if NAMES not in schema:
            continue
        inner = config.get(f"{setting}_config")
        for other in _listed(config.get(setting, schema.get("default"))):
            of_other = inner if isinstance(inner, dict) else {}
            found += _keys(str(other), of_other, schema[NAMES], cards, depth + 1)
    return found


def _config(use: str | MethodUse) -> Mapping[str, JsonValue]:
    return {} if isinstance(use, str) else use.config


def _listed(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]
