from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.web import wording


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_400, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(value: float | None, said: str) -> None:
    assert wording.seconds(value) == said


@pytest.mark.parametrize(
    ("passed", "said"),
    [(1, "just now"), (30, "30 s ago"), (90, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_ages(passed: int, said: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert wording.age(now - timedelta(seconds=passed), now) == said


def test_figures() -> None:
    assert [wording.figure(value) for value in (None, 0.0, 12.345, 0.05, 1234.5, 0.00012)] == [
        "–",
        "0",
        "12.3",
        "0.05",
        "1.23e+03",
        "1.2e-04",
    ]
    assert wording.percent(0.94321) == "94.3 %"
    assert wording.points(-0.0123, 2) == "−1.23"
    assert [wording.size(value) for value in (12, 524_288, 3_200_000_000)] == [
        "12 bytes",
        "524.3 kB",
        "3.2 GB",
    ]
    assert wording.words("tuned_kd") == "tuned KD"
    assert wording.lower_first("Tuning of KD") == "tuning of KD"
    assert wording.lower_first("KD") == "KD"
