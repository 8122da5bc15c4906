"""How figures and moments are said on a page. Template filters; each takes None as "not known"."""

from __future__ import annotations

from datetime import UTC, datetime

NOTHING = "–"
MINUTE, HOUR, DAY = 60, 3600, 86_400


def percent(share: float | None, digits: int = 1) -> str:
    """An accuracy in [0, 1] in per cent."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float | None, digits: int = 1) -> str:
    """A difference of accuracies in percentage points, signed with a real minus."""
    return NOTHING if difference is None else f"{100 * difference:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def figure(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None:
        return NOTHING
    return "0" if value == 0 else f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def seconds(value: float | None) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < MINUTE:
        return f"{whole} s"
    for unit, below, name, lesser in ((MINUTE, HOUR, "min", "s"), (HOUR, DAY, "h", "min")):
        if whole < below:
            rest = whole % unit // (1 if unit == MINUTE else MINUTE)
            return f"{whole // unit} {name}" + (f" {rest} {lesser}" if rest else "")
    rest = whole % DAY // HOUR
    return f"{whole // DAY} d" + (f" {rest} h" if rest else "")


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago: `just now`, `5 min ago`."""
    if moment is None:
        return NOTHING
    passed = (now - moment).total_seconds()
    if passed < MINUTE:
        return "just now" if passed < 10 else f"{int(passed)} s ago"
    for unit, below, name in ((MINUTE, HOUR, "min"), (HOUR, DAY, "h")):
        if passed < below:
            return f"{int(passed // unit)} {name} ago"
    return f"{int(passed // DAY)} d ago"


def moment(value: datetime | None) -> str:
    """A moment in full, in UTC."""
    return NOTHING if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(value: int) -> str:
    """Bytes for people."""
    scaled = float(value)
    for unit in ("bytes", "kB", "MB"):
        if scaled < 1000:
            return f"{scaled:.0f} {unit}" if unit == "bytes" else f"{scaled:.1f} {unit}"
        scaled /= 1000
    return f"{scaled:.1f} GB"


def words(name: str | None) -> str:
    """A code as words: `stopped_early` becomes `stopped early`, `tuned_kd` `tuned KD`."""
    if name is None:
        return NOTHING
    return " ".join("KD" if word == "kd" else word for word in name.split("_"))


def lower_first(text: str) -> str:
    """For the middle of a sentence: `Tuning of KD` becomes `tuning of KD`; `KD` stays."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def elapsed(start: datetime | None, end: datetime | None, now: datetime) -> float | None:
    """Seconds from start to end, or to now while there is no end."""
    return None if start is None else ((end or now) - start).total_seconds()
