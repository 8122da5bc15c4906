"""The cache's files: built once by whoever is first, whole or absent, and never the last of the disk."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.teacher_cache.files import CacheKey, OutputFiles, require_room
from search.teacher_cache.teacher_pass import TeacherPass
from tests.search.cached_teacher import EVERY, cache, computed, stored

LAST = 4
MIB = 1024**2


def _ask(directory: Path, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    own = cache(directory, stages=[LAST])
    passes: list[int] = []
    over_view = TeacherPass.over_view

    def counted(self: TeacherPass, view: int, *rest: Any) -> None:
        passes.append(view)
        over_view(self, view, *rest)

    TeacherPass.over_view = counted  # type: ignore[method-assign, assignment]
    barrier.wait(timeout=120)
    logits, maps = own.read(EVERY, 2, [LAST])
    answers.put((logits.sum().item(), maps[LAST].sum().item(), len(passes)))


class TestSharing:
    def test_processes_that_ask_at_once_build_it_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, answers = context.Barrier(2), context.Queue()
        processes = [context.Process(target=_ask, args=(tmp_path, barrier, answers)) for _ in range(2)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(timeout=60)
        assert sum(passes for *_, passes in found) == 1
        assert len({sums for *sums_list, _ in found for sums in [tuple(sums_list)]}) == 1
        assert len(stored(tmp_path)) == 2

    def test_what_a_dead_builder_left_is_built_over(self, tmp_path: Path) -> None:
        own = cache(tmp_path, stages=[LAST])
        files = OutputFiles(tmp_path / "teacher_outputs", own.key, images=len(EVERY))
        left = [files.path(0, name).with_suffix(".building") for name in ("logits", "stage-4-output")]
        files.directory.mkdir(parents=True)
        for path in left:
            path.write_bytes(b"half a file")
        assert torch.equal(own.logits(EVERY, view=0), computed(0)[0])
        assert not any(path.exists() for path in left)

    @pytest.mark.parametrize("damage", ["short", "empty", "foreign", "deleted"])
    def test_a_damaged_file_is_built_anew(self, tmp_path: Path, damage: str) -> None:
        expected = cache(tmp_path, stages=[LAST]).read(EVERY, 0, [LAST])
        (path,) = (tmp_path / "teacher_outputs").glob("*/*stage-4*")
        if damage == "deleted":
            path.unlink()
        else:
            content = path.read_bytes()
            path.unlink()  # the mapping that is still open keeps its own
            path.write_bytes(
                {"short": content[: len(content) // 2], "empty": b"", "foreign": b"x" * 999}[damage]
            )
        found = cache(tmp_path, stages=[LAST]).read(EVERY, 0, [LAST])
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1][LAST], expected[1][LAST])

    def test_rows_of_other_images_are_not_taken(self, tmp_path: Path) -> None:
        own = cache(tmp_path)
        files = OutputFiles(tmp_path / "teacher_outputs", own.key, images=len(EVERY))
        files.directory.mkdir(parents=True)
        np.save(files.path(0, "logits"), np.zeros((len(EVERY) - 1, 10), np.float32))
        assert torch.equal(own.logits(EVERY, view=0), computed(0)[0])

    def test_a_failed_pass_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = cache(tmp_path, stages=[LAST])
        monkeypatch.setattr(
            TeacherPass, "over_view", lambda *_: (_ for _ in ()).throw(KeyError("out of memory"))
        )
        with pytest.raises(KeyError):
            own.logits(EVERY, view=0)
        assert stored(tmp_path) == []


Usage = namedtuple("Usage", "total used free")


class Disk:
    """A disk of 1 GiB whose use is what lies in a directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        monkeypatch.setattr(shutil, "disk_usage", self.usage)

    def usage(self, path: Path) -> Usage:
        used = sum(file.stat().st_size for file in self.root.rglob("*") if file.is_file())
        return Usage(1024 * MIB, used, 1024 * MIB - used)

    def add(self, name: str, *, mebibytes: int, hours: float) -> Path:
        """A set of files of that size, last used so long ago."""
        place = self.root / name
        place.mkdir()
        with (place / "view.npy").open("wb") as file:
            file.truncate(mebibytes * MIB)
        os.utime(place, (time.time() - 3600 * hours,) * 2)
        return place


class TestRoom:
    def test_sets_long_unused_make_room_the_oldest_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = Disk(tmp_path, monkeypatch)
        own = disk.add("own", mebibytes=1, hours=900)
        newer = disk.add("newer", mebibytes=300, hours=5)
        oldest = disk.add("oldest", mebibytes=300, hours=50)
        require_room(own, 300 * MIB)
        assert oldest.exists()
        require_room(own, 500 * MIB)
        assert not oldest.exists()
        assert newer.exists()
        assert own.exists()

    def test_sets_in_use_are_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = Disk(tmp_path, monkeypatch)
        own, used = disk.add("own", mebibytes=1, hours=0), disk.add("used", mebibytes=800, hours=0.5)
        with pytest.raises(OSError, match="400 MiB do not fit"):
            require_room(own, 400 * MIB)
        assert used.exists()

    def test_a_part_of_the_disk_stays_free(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = Disk(tmp_path, monkeypatch).add("own", mebibytes=0, hours=0)
        require_room(own, int(0.94 * 1024) * MIB)
        with pytest.raises(OSError, match="do not fit"):
            require_room(own, int(0.96 * 1024) * MIB)

    def test_opening_a_set_says_that_it_is_used(self, tmp_path: Path) -> None:
        cache(tmp_path).logits(EVERY, view=0)
        (place,) = (path for path in (tmp_path / "teacher_outputs").iterdir() if path.is_dir())
        os.utime(place, (0, 0))
        cache(tmp_path).logits(EVERY, view=0)
        assert place.stat().st_mtime > time.time() - 60


def test_keys_differ_in_every_part() -> None:
    key = CacheKey("m", "t", "p", "i", "shift", 0, "float32", "float32", False, "cpu", 1, 256, ("1",))
    changes = [
        {name: "other"} for name in ("teacher", "teacher_sha256", "preprocessing", "images_sha256", "policy")
    ]
    changes += [{name: "other"} for name in ("dtype", "precision", "device", "channels_last")]
    others = [CacheKey(**{**key.__dict__, **change}) for change in changes]
    others += [CacheKey(**{**key.__dict__, name: 7}) for name in ("seed", "threads", "batch_size")]
    others.append(CacheKey(**{**key.__dict__, "versions": ("2",)}))
    assert len({key.digest(), *(other.digest() for other in others)}) == 1 + len(others)
