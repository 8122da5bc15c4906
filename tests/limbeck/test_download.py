"""Fetching files: checked, resumed, and kept whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from limbeck import Artifact, ChecksumMismatch, Client
from limbeck.download import place
from tests.job_story import STUDENT_BYTES, Story


class TestDownload:
    def test_the_student_arrives(self, client: Client, finished: Story, tmp_path: Path) -> None:
        paths = client.jobs.download(finished.job_id, tmp_path / "new")

        assert sorted(path.name for path in paths) == ["recipe.json", "student.safetensors"]
        assert (tmp_path / "new" / "student.safetensors").read_bytes() == STUDENT_BYTES

    def test_what_is_there_already_is_not_fetched_again(
        self, client: Client, finished: Story, tmp_path: Path
    ) -> None:
        client.jobs.download(finished.job_id, tmp_path)
        before = (tmp_path / "student.safetensors").stat()
        client.jobs.download(finished.job_id, tmp_path)
        after = (tmp_path / "student.safetensors").stat()

        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    def test_a_file_that_is_not_what_it_should_be_is_not_kept(
        self, client: Client, story: Story, tmp_path: Path
    ) -> None:
        story.submit()
        story.tell()
        (place_on_server,) = Path(story.artifact_root.place).glob(
            f"jobs/{story.job_id}/*/student.safetensors"
        )
        place_on_server.write_bytes(STUDENT_BYTES[::-1])
        (tmp_path / "student.safetensors").write_bytes(b"an older one")

        with pytest.raises(ChecksumMismatch, match="nothing was kept"):
            client.jobs.download(story.job_id, tmp_path)
        assert (tmp_path / "student.safetensors").read_bytes() == b"an older one"
        assert not list(tmp_path.glob(".*"))

    def test_a_job_without_files(self, client: Client, story: Story, tmp_path: Path) -> None:
        story.submit()

        assert client.jobs.download(story.job_id, tmp_path) == []


class BrokenServer:
    """Serves one file; the connection breaks after every 1,000 bytes. Ranges are honoured or not."""

    def __init__(self, content: bytes, *, with_ranges: bool) -> None:
        self.content = content
        self.with_ranges = with_ranges
        self.ranges: list[str | None] = []
        self.limit = 1000

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/trials"):
            return listing([])
        if request.url.path.endswith("/artifacts"):
            sha256 = hashlib.sha256(self.content).hexdigest()
            return listing([{"id": "art_1", "name": "f", "bytes": len(self.content), "sha256": sha256}])
        asked = request.headers.get("range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.with_ranges else 0
        # Without ranges a broken transfer can only succeed once the connection holds.
        self.limit = self.limit if self.with_ranges else self.limit * 3
        status = 206 if asked and self.with_ranges else 200
        return httpx.Response(status, stream=Breaking(self.content[start:], self.limit))


class Breaking(httpx.SyncByteStream):
    def __init__(self, content: bytes, limit: int) -> None:
        self.content, self.limit = content, limit

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield self.content[: self.limit]
        if len(self.content) > self.limit:
            raise httpx.ReadError("reset")


def listing(data: list[dict[str, object]]) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": data, "has_more": False, "next_cursor": None})


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_broke(tmp_path: Path, with_ranges: bool) -> None:
    content = bytes(i * i % 251 for i in range(4_500))
    server = BrokenServer(content, with_ranges=with_ranges)
    with Client("http://test", transport=httpx.MockTransport(server)) as client:
        (path,) = client.jobs.download("job_1", tmp_path)

    assert path.read_bytes() == content
    if with_ranges:
        assert server.ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "..\\x", ""])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    artifact = Artifact(id="art_1", name=name, bytes=1, sha256="", trial_id="../trl_1")

    for is_result in (True, False):
        assert place(tmp_path, artifact, is_result=is_result).resolve().is_relative_to(tmp_path)
