"""Identifiers sort by time and never repeat."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.store.ids import Prefix, new_id


@pytest.mark.parametrize("prefix", Prefix)
def test_have_a_prefix_and_26_characters(prefix: Prefix) -> None:
    assert re.fullmatch(rf"{prefix}_[0-9a-hjkmnp-tv-z]{{26}}", new_id(prefix))


def test_grow_even_within_a_millisecond() -> None:
    made = [new_id(Prefix.JOB) for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_sort_by_time() -> None:
    first = new_id(Prefix.TRIAL)
    time.sleep(0.003)
    assert first[:14] < new_id(Prefix.TRIAL)[:14]


def test_never_repeat_across_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: new_id(Prefix.JOB), range(4000)))
    assert len(set(made)) == len(made)
