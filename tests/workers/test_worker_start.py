"""What a worker sees to before it claims anything."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from service.settings import Settings
from service.store import workers
from service.store.errors import StoreUnavailable
from service.store.session import Store, open_store
from workers import __main__ as worker
from workers.__main__ import CannotStart, prepare


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Settings, Store]:
    """Settings of a worker that has not been started, on an empty SQLite file. Torch is left alone."""
    monkeypatch.setattr(worker, "read_catalogue", lambda: {"methods": [], "models": [], "datasets": []})
    settings = Settings(home=tmp_path / "home")
    return settings, open_store(settings.database_url)


def register(store: Store, **catalogue: str) -> str:
    worker_id = str(uuid.uuid4())
    with store.begin_write() as session:
        workers.register(session, worker_id=worker_id, host="other", pid=7, catalogue=catalogue)
    return worker_id


def test_brings_an_embedded_database_up_to_date_and_makes_its_directories(
    started: tuple[Settings, Store],
) -> None:
    settings, store = started
    catalogue = prepare(settings, store)
    assert len(catalogue["artifact_root"]) == 32
    assert settings.cache_root.is_dir()
    with store.session() as session:
        assert workers.list_all(session) == []


def test_the_same_root_has_the_same_identity(started: tuple[Settings, Store]) -> None:
    settings, store = started
    first = prepare(settings, store)["artifact_root"]
    register(store, artifact_root=first)
    assert prepare(settings, store)["artifact_root"] == first


def test_another_root_than_a_living_workers_is_refused(started: tuple[Settings, Store]) -> None:
    settings, store = started
    prepare(settings, store)
    other = register(store, artifact_root="0" * 32)
    with pytest.raises(CannotStart, match=r"worker on other \(process 7\) uses: all nodes must share one"):
        prepare(settings, store)
    with store.begin_write() as session:
        workers.stop(session, worker_id=other)
    prepare(settings, store)


def test_a_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    environment = {
        **os.environ,
        "LIMBECK_HOME": str(tmp_path),
        "LIMBECK_ARTIFACT_ROOT": str(tmp_path / "file/x"),
    }
    process = subprocess.run(
        [sys.executable, "-m", "workers"], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "worker_cannot_start" in process.stderr
    assert "NotADirectoryError" in process.stderr


def test_a_database_out_of_reach_is_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker, "START_PATIENCE_SECONDS", 0.2)
    settings = Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable):
        prepare(settings, open_store(settings.database_url))
