"""What every temperature rule keeps, over the registry: a new one is covered the moment it exists."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from search.problems import SearchProblem
from search.registry import Method, methods
from search.temperature import TemperatureRuleModule, TemperatureRules, build_temperature_rule
from tests.search.temperature.batches import BASE, NAMES, RULES, logits, process, sure, targets

PROGRESS = (0.0, 0.01, 0.3, 0.7, 1.0)


def shown(rule: TemperatureRuleModule, steps: int, *, first: int = 0) -> list[tuple[float, float]]:
    """The temperatures before each of so many steps, which the rule is shown."""
    found = []
    for step in range(first, first + steps):
        teacher, student = rule(BASE, step / 10)
        found.append((float(teacher), float(student)))
        rule.observe(logits(2 * step), logits(2 * step + 1), targets(), progress=step / 10)
    return found


def test_there_are_those_that_the_spec_speaks_of() -> None:
    assert {"fixed", "learned", "ctkd", "dts", "ltd"} <= set(NAMES)
    assert all(method in methods() for method in RULES)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_numbers_above_zero_whatever_the_batch(name: str) -> None:
    labels = targets()
    outputs = [
        logits(0),
        logits(1, size=1e4),
        logits(2, size=1e-6),
        torch.zeros_like(logits(0)),
        *(sure(of=labels, by=by) for by in (30.0, 1e4)),
        sure(of=(labels + 1) % 10, by=1e4),
    ]
    rule = build_temperature_rule(name)
    for (student, teacher), progress in product(product(outputs, repeat=2), PROGRESS):
        rule.observe(student, teacher, labels, progress=progress)
        for temperature in rule(BASE, progress):
            assert temperature.shape == ()
            assert temperature.dtype == torch.float64
            assert temperature.isfinite()
            assert temperature > 0
            assert not temperature.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_mixed_images_have_probabilities_for_targets(name: str) -> None:
    hard, soft = (build_temperature_rule(name) for _ in range(2))
    labels = targets()
    hard.observe(logits(0), logits(1), labels, progress=0.5)
    soft.observe(logits(0), logits(1), sure(of=labels, by=1.0), progress=0.5)
    assert float(hard(BASE, 0.5)[0]) == pytest.approx(float(soft(BASE, 0.5)[0]), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_asking_changes_nothing_and_the_same_batches_give_the_same(name: str) -> None:
    one, other = build_temperature_rule(name), build_temperature_rule(name)
    for progress in PROGRESS:
        one(BASE, progress)
    assert shown(one, 6) == shown(other, 6)


@pytest.mark.parametrize("name", NAMES)
def test_it_follows_the_training_where_it_says_so(name: str) -> None:
    rule = build_temperature_rule(name)
    before = {key: value.clone() for key, value in rule.state_dict().items()}
    shown(rule, 6)
    changed = [key for key, value in rule.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(changed) == rule.follows_training


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_its_state(name: str) -> None:
    whole, first, second = (build_temperature_rule(name) for _ in range(3))
    expected = shown(whole, 8)
    begun = shown(first, 3)
    second.load_state_dict(first.state_dict())
    assert begun + shown(second, 5, first=3) == expected


@pytest.mark.parametrize("method", RULES, ids=lambda method: method.name)
def test_both_ends_of_the_range_of_a_setting_give_other_temperatures(method: Method) -> None:
    for setting, searched in method.card.ranges().items():
        low, high = (
            shown(build_temperature_rule(method.name, {setting: searched[end]}), 8) for end in ("low", "high")
        )
        assert low != high, setting


def test_each_loss_has_a_rule_of_its_own_or_none() -> None:
    rules = TemperatureRules(process("learned", None, "fixed", "dts"))
    assert rules.moved(by_default=True).tolist() == [1, 1, 0, 0]
    assert rules.moved(by_default=False).tolist() == [1, 0, 0, 0]
    assert rules.follow_training
    assert not TemperatureRules(process("learned", None, "fixed", "ltd")).follow_training


@pytest.mark.parametrize(("name", "config"), [("dst", {}), ("dts", {"average_dceay": 0.5})])
def test_what_there_is_not_is_said(name: str, config: dict[str, float]) -> None:
    with pytest.raises(SearchProblem) as caught:
        TemperatureRules(process(name, **config))
    assert caught.value.code == "unknown_method"


def test_a_schedule_whose_bounds_are_crossed_is_refused() -> None:
    with pytest.raises(SearchProblem, match="lowest_temperature must not be above"):
        TemperatureRules(process("dts", lowest_temperature=9.0))
