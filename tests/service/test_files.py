"""The artifact root: whole files or none, inside the root, alike in a directory and at a URL."""

import hashlib
import os
import secrets
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from service.files import ArtifactRoot, PathOutsideRootError

BAD_NAMES = [
    "",
    ".",
    "..",
    "../outside",
    "jobs/../../outside",
    "jobs/./a",
    "/etc/passwd",
    "jobs//a",
    "jobs/",
    "a\0b",
    "jobs\\..\\a",
    ".a.0123.part",
]


@pytest.fixture(params=["directory", "url"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactRoot:
    if request.param == "directory":
        return ArtifactRoot(tmp_path / "artifacts")
    return ArtifactRoot(f"memory://limbeck-{secrets.token_hex(8)}/artifacts")


class TestWriting:
    def test_gives_size_and_checksum_of_what_can_be_read_back(self, root: ArtifactRoot) -> None:
        data = os.urandom(3_000_000)
        written = root.write_bytes("jobs/job_1/checkpoint-1-10.bin", data)
        assert (written.bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert root.read_bytes("jobs/job_1/checkpoint-1-10.bin") == data
        assert root.measure("jobs/job_1/checkpoint-1-10.bin") == written

    def test_replaces_an_earlier_file(self, root: ArtifactRoot) -> None:
        root.write_bytes("a", b"long content")
        root.write_bytes("a", b"short")
        assert root.read_bytes("a") == b"short"
        assert root.list() == ["a"]

    def test_copies_a_file_and_keeps_the_source(self, root: ArtifactRoot, tmp_path: Path) -> None:
        source = tmp_path / "student.safetensors"
        source.write_bytes(b"weights" * 1000)
        written = root.write_file("jobs/j/student.safetensors", source)
        assert written.bytes == 7000
        assert root.read_bytes("jobs/j/student.safetensors") == source.read_bytes()

    def test_fetch_gives_a_local_file(self, root: ArtifactRoot, tmp_path: Path) -> None:
        root.write_bytes("jobs/j/teacher.safetensors", b"weights")
        assert root.fetch("jobs/j/teacher.safetensors", tmp_path).read_bytes() == b"weights"
        with pytest.raises(FileNotFoundError):
            root.fetch("jobs/j/missing", tmp_path)

    def test_syncs_the_file_before_its_name_and_the_name_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = ArtifactRoot(tmp_path)
        root.write_bytes("jobs/a", b"")
        order: list[str] = []
        fsync, rename = os.fsync, Path.rename

        def recorded_fsync(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            order.append("fsync directory" if is_directory else "fsync file")
            fsync(descriptor)

        def recorded_rename(path: Path, target: Path) -> Path:
            order.append("rename")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(Path, "rename", recorded_rename)
        root.write_bytes("jobs/a", b"data")
        assert order == ["fsync file", "rename", "fsync directory"]
        order.clear()
        root.append_line("jobs/log", "{}")
        assert order == ["fsync file", "fsync directory"]

    def test_killed_at_any_moment_leaves_only_whole_files(self, tmp_path: Path) -> None:
        program = textwrap.dedent("""
            import os, sys
            from service.files import ArtifactRoot
            root = ArtifactRoot(sys.argv[1])
            while True:
                for name in ("a", "b"):
                    root.write_bytes(f"jobs/{name}", os.urandom(1) * 4_000_000)
        """)
        root = ArtifactRoot(tmp_path)
        for _ in range(5):
            writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
            deadline = time.monotonic() + 20
            while not root.exists("jobs/b") and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(int.from_bytes(os.urandom(1)) / 255 * 0.1)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            for name in root.list("jobs"):
                data = root.read_bytes(name)
                assert len(data) == 4_000_000
                assert len(set(data)) == 1
        root.sweep(older_than_seconds=0)
        assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a", "b"]

    def test_a_full_disk_leaves_the_old_content_and_no_partial_file(self, tmp_path: Path) -> None:
        """The file-size limit of the process stands for the full disk: both fail a write() half-way."""
        program = textwrap.dedent("""
            import os, resource, sys
            from service.files import ArtifactRoot
            root = ArtifactRoot(sys.argv[1])
            root.write_bytes("jobs/a", b"old")
            root.append_line("jobs/log", "first")
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            for write in (
                lambda: root.write_bytes("jobs/a", b"x" * 5_000_000),
                lambda: root.write_bytes("jobs/new", b"x" * 5_000_000),
                lambda: root.append_line("jobs/log", "x" * 200_000),
            ):
                try:
                    write()
                except OSError:
                    continue
                sys.exit("the write succeeded")
        """)
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        root = ArtifactRoot(tmp_path)
        assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a", "log"]
        assert root.read_bytes("jobs/a") == b"old"
        assert root.read_bytes("jobs/log") == b"first\n"


class TestAppending:
    def test_lines_come_in_order(self, root: ArtifactRoot) -> None:
        for step in range(5):
            root.append_line("jobs/j/reports-1.jsonl", f'{{"step": {step}}}')
        assert root.read_bytes("jobs/j/reports-1.jsonl").splitlines() == [
            f'{{"step": {step}}}'.encode() for step in range(5)
        ]

    def test_goes_on_after_what_another_process_wrote(self, root: ArtifactRoot) -> None:
        root.write_bytes("log", b"first\n")
        ArtifactRoot(root.place).append_line("log", "second")
        root.write_bytes("log", b"anew\n")
        root.append_line("log", "third")
        assert root.read_bytes("log") == b"anew\nthird\n"

    def test_refuses_two_lines_in_one(self, root: ArtifactRoot) -> None:
        with pytest.raises(ValueError, match="newline"):
            root.append_line("log", "a\nb")


class TestReading:
    def test_ranges(self, root: ArtifactRoot) -> None:
        data = os.urandom(2_500_000)
        root.write_bytes("a", data)
        assert b"".join(root.open_range("a", start=5, end=12)) == data[5:12]
        assert b"".join(root.open_range("a", start=2_000_000)) == data[2_000_000:]
        assert b"".join(root.open_range("a", start=10, end=10)) == b""
        assert max(len(chunk) for chunk in root.open_range("a")) <= 1 << 20

    def test_list_is_recursive_sorted_and_without_unfinished_files(self, root: ArtifactRoot) -> None:
        for name in ("jobs/b/x", "jobs/a/y", "other"):
            root.write_bytes(name, b"")
        assert root.list("jobs") == ["jobs/a/y", "jobs/b/x"]
        assert root.list("nothing") == []

    def test_missing_files(self, root: ArtifactRoot) -> None:
        root.write_bytes("jobs/a", b"")
        assert not root.exists("jobs")
        assert not root.exists("jobs/b")
        root.remove("jobs/b")
        root.remove("jobs/a")
        assert root.list() == []
        for read in (root.read_bytes, root.size, root.measure):
            with pytest.raises(FileNotFoundError):
                read("jobs/a")


class TestConfinement:
    @pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
    def test_refuses_names_that_are_not_plain_and_relative(self, root: ArtifactRoot, name: str) -> None:
        for use in (root.read_bytes, root.exists, root.remove, root.size, lambda n: root.write_bytes(n, b"")):
            with pytest.raises(PathOutsideRootError):
                use(name)

    def test_refuses_links_that_lead_out(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        root = ArtifactRoot(tmp_path / "artifacts")
        (tmp_path / "artifacts" / "directory").symlink_to(outside)
        (tmp_path / "artifacts" / "file").symlink_to(outside / "secret")
        for name in ("directory/secret", "file"):
            with pytest.raises(PathOutsideRootError):
                root.read_bytes(name)
            with pytest.raises(PathOutsideRootError):
                root.write_bytes(name, b"overwritten")
            with pytest.raises(PathOutsideRootError):
                root.append_line(name, "more")
        assert (outside / "secret").read_text() == "secret"

    def test_a_root_behind_a_link_works(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        ArtifactRoot(tmp_path / "link").write_bytes("jobs/a", b"x")
        assert (tmp_path / "real" / "jobs" / "a").read_bytes() == b"x"


class TestIdentity:
    def test_is_the_same_for_all_that_see_the_same_root(self, root: ArtifactRoot, tmp_path: Path) -> None:
        assert root.identity() == ArtifactRoot(root.place).identity()
        assert root.identity() != ArtifactRoot(tmp_path / "elsewhere").identity()

    def test_of_many_that_ask_first_one_wins(self, tmp_path: Path) -> None:
        program = "import sys, service.files as f; print(f.ArtifactRoot(sys.argv[1]).identity())"
        command = [sys.executable, "-c", program, str(tmp_path)]
        askers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        identities = {asker.communicate()[0] for asker in askers}
        assert len(identities) == 1
        assert [asker.returncode for asker in askers] == [0] * 4

    def test_writable_check_leaves_nothing(self, root: ArtifactRoot) -> None:
        root.check_writable()
        assert root.list() == []

    def test_a_root_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            ArtifactRoot(tmp_path / "file" / "artifacts")
