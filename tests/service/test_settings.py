"""Settings come from the environment, and refuse what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_everything_lies_below_home_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    settings = Settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/limbeck.sqlite"
    assert settings.artifact_root == str(tmp_path / "artifacts")
    assert {settings.cache_root, settings.weights_root, settings.datasets_file} == {
        tmp_path / "cache",
        tmp_path / "weights",
        tmp_path / "datasets.toml",
    }


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATABASE_URL", "postgresql://user:hunter2@host/name")
    monkeypatch.setenv("LIMBECK_LEASE_SECONDS", "8")
    monkeypatch.setenv("LIMBECK_HEARTBEAT_SECONDS", "1")
    settings = Settings()
    assert (settings.lease_seconds, settings.heartbeat_seconds) == (8.0, 1.0)
    assert "hunter2" not in repr(settings)


def test_a_lease_must_be_renewed_in_time() -> None:
    with pytest.raises(ValidationError, match="at most a third of lease_seconds"):
        Settings(lease_seconds=8, heartbeat_seconds=4)


@pytest.mark.parametrize("values", [{"port": 70_000}, {"lease_seconds": 0}, {"max_fruitless_attempts": 0}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)  # type: ignore[arg-type]
