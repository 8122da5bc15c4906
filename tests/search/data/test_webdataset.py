"""WebDataset tars: which members make a sample, and that damaged or hostile tars are refused in words."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from search.data import Dataset, open_dataset
from search.datasets import tar_samples
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import (
    digits,
    encoded,
    tar_members,
    train_and_test,
    write_tar,
    write_webdataset,
)
from tests.search.dataset_files import folder

Members = list[tuple[str, bytes]]


def members(count: int = 60) -> Members:
    return tar_members(*digits(0, count))


def one(root: Path, found: Members) -> Path:
    write_tar(root / "0.tar", found)
    return root


def refused(root: Path, code: str, words: str) -> None:
    with pytest.raises(SearchProblem, match=words) as caught:
        folder(root)
    assert caught.value.code == code


def by_table(root: Path, text: str) -> Dataset:
    file = root / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = 'webdataset'\npath = '.'\n{text}")
    return open_dataset("own", Splits(), datasets_file=file)


class TestSamples:
    def test_labels_may_be_fields_of_a_json_file(self, tmp_path: Path) -> None:
        found = [
            (name.replace(".cls", ".json"), content if name.endswith("png") else b'{"label": %s}' % content)
            for name, content in members()
        ]
        assert folder(one(tmp_path / "json", found)).content_sha256 == (
            folder(one(tmp_path / "cls", members())).content_sha256
        )

    def test_a_json_field_may_name_the_class(self, tmp_path: Path) -> None:
        found = [
            (
                name.replace(".cls", ".json"),
                content if name.endswith("png") else b'{"digit": "no. %s"}' % content,
            )
            for name, content in members()
        ]
        refused(one(tmp_path, found), "dataset_labels", "no field 'label': set `label_key`")
        assert by_table(tmp_path, "label_key = 'digit'\n").class_names == [f"no. {n}" for n in range(10)]

    def test_other_members_are_left_alone(self, tmp_path: Path) -> None:
        more = [("README", b"text"), (".hidden.png", b"no image")]
        for name, content in members():
            more += [(f"./folder/{name}", content)]
            if name.endswith("cls"):
                more += [(f"./folder/{name.replace('cls', 'txt')}", b"a digit"), ("./folder/x/", b"")]
        assert folder(one(tmp_path, more)).content_sha256 == (
            folder(one(tmp_path / "plain", members())).content_sha256
        )

    def test_of_several_images_the_table_chooses(self, tmp_path: Path) -> None:
        both: Members = []
        for name, content in members():
            both += [(name, content)]
            if name.endswith("png"):
                both += [(name.replace("png", "jpg"), b"broken"), (name.replace("png", "mask.png"), content)]
        refused(one(tmp_path, both), "dataset_unreadable", r"2 images \(jpg, png\).*`image_key`")
        chosen = by_table(tmp_path, "image_key = 'mask.png'\n")
        assert chosen.content_sha256 == folder(one(tmp_path / "plain", members())).content_sha256

    @pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
    def test_gzipped_shards_are_read(self, tmp_path: Path, suffix: str) -> None:
        write_tar(tmp_path / f"train-000{suffix}", members())
        assert folder(tmp_path).classes == 10

    def test_shards_come_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        images, labels = digits(0, 60)
        for shard in (2, 0, 1):
            part = slice(20 * shard, 20 * shard + 20)
            write_tar(tmp_path / "several" / f"{shard}.tar", tar_members(images[part], labels[part]))
        assert folder(tmp_path / "several").content_sha256 == (
            folder(one(tmp_path / "one", members())).content_sha256
        )


class TestParts:
    @pytest.mark.parametrize(
        "names",
        [
            {"train": "train-000.tar", "val": "val-000.tar", "test": "test-000.tar"},
            {"train": "digits-train.tar", "val": "digits-valid.tar", "test": "digits-test.tar"},
            {"train": "train/0.tar", "val": "validation/0.tar", "test": "test/0.tar"},
            {"train": "data/train_0.tar", "val": "data/dev_0.tar", "test": "data/test_0.tar"},
        ],
    )
    def test_names_of_files_or_folders_tell_the_part(self, tmp_path: Path, names: dict[str, str]) -> None:
        for part, (start, stop) in {"train": (0, 120), "val": (120, 160), "test": (160, 200)}.items():
            write_tar(tmp_path / names[part], tar_members(*digits(start, stop)))
        write_tar(tmp_path / "extra-000.tar", [])
        assert folder(tmp_path).split_sizes == {"train": 108, "meta": 12, "validation": 40, "test": 40}

    def test_a_lone_validation_part_is_the_test_split(self, tmp_path: Path) -> None:
        for name, (start, stop) in {"train": (0, 160), "val": (160, 200)}.items():
            write_tar(tmp_path / f"{name}.tar", tar_members(*digits(start, stop)))
        assert folder(tmp_path).split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}
        kept = by_table(tmp_path, "validation = 'val.tar'\n")
        assert kept.split_sizes == {"train": 112, "meta": 16, "validation": 40, "test": 32}

    def test_patterns_of_the_table_come_first(self, tmp_path: Path) -> None:
        for name, (start, stop) in {"a-1": (0, 80), "a-2": (80, 160), "b": (160, 200)}.items():
            write_tar(tmp_path / f"{name}.tar", tar_members(*digits(start, stop)))
        dataset = by_table(tmp_path, "train = 'a-*.tar'\ntest = 'b.tar'\n")
        assert dataset.split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}

    @pytest.mark.parametrize(
        ("text", "code", "words"),
        [
            ("train = 'c-*.tar'\n", "dataset_empty", "matches `train = 'c-"),
            ("train = '../own/*.tar'\n", "dataset_unreadable", "leads out"),
            ("train = '/tmp/*.tar'\n", "dataset_unreadable", "leads out"),
            (
                "train = '*.tar'\ntest = '0.tar'\n",
                "dataset_unreadable",
                "in two parts .* name every file once",
            ),
        ],
    )
    def test_a_pattern_that_finds_nothing_inside_is_refused(
        self, tmp_path: Path, text: str, code: str, words: str
    ) -> None:
        with pytest.raises(SearchProblem, match=words) as caught:
            by_table(one(tmp_path, members()), text)
        assert caught.value.code == code


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.7, 0.9])
    @pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
    def test_a_shard_that_is_cut_is_refused_wherever_it_is_cut(
        self, tmp_path: Path, share: float, suffix: str
    ) -> None:
        path = tmp_path / f"0{suffix}"
        write_tar(path, members())
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        refused(tmp_path, "dataset_unreadable", "is not a whole tar.*fetch it anew")

    @pytest.mark.parametrize("cut", [0, 1, 511])
    def test_a_cut_between_members_is_noticed(self, tmp_path: Path, cut: int) -> None:
        """tarfile alone takes such a file for a whole one with fewer members."""
        path = tmp_path / "0.tar"
        write_tar(path, members())
        with tarfile.open(path) as tar:
            offset = tar.getmembers()[20].offset
        path.write_bytes(path.read_bytes()[: offset + cut])
        with tarfile.open(path) as tar:
            assert len(tar.getmembers()) == 20
        refused(tmp_path, "dataset_unreadable", "no end mark")

    def test_a_damaged_header_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "0.tar"
        write_tar(path, members())
        with tarfile.open(path) as tar:
            offset = tar.getmembers()[20].offset
        raw = path.read_bytes()
        path.write_bytes(raw[: offset + 10] + b"\xff" * 20 + raw[offset + 30 :])
        refused(tmp_path, "dataset_unreadable", "no end mark")

    def test_what_is_no_tar_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "0.tar").write_bytes(b"no tar" * 1000)
        refused(tmp_path, "dataset_unreadable", "is not a whole tar")

    def test_a_broken_image_is_named(self, tmp_path: Path) -> None:
        found = members()
        found[8] = ("0004.png", found[8][1][:60])
        refused(one(tmp_path, found), "dataset_unreadable", r"0004\.png in .*0\.tar cannot be read")

    def test_a_tar_without_samples_is_refused(self, tmp_path: Path) -> None:
        refused(one(tmp_path, [("README", b"")]), "dataset_empty", "no samples")

    def test_a_part_without_training_files_is_refused(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "test-0.tar", members())
        refused(tmp_path, "dataset_empty", "name them by `train`")


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "words"),
        [
            (b"", "no whole number"),
            (b"7.5", "is '7.5' and no whole number"),
            (b"cat", "is 'cat' and no whole number"),
            (b"-1", "leave them out"),
            (b"1e3", "no whole number"),
            (b"100000", "number the classes without gaps"),
            (b"9" * 5000, "no whole number"),
            ("\u0663".encode(), "no whole number"),
        ],
    )
    def test_what_is_no_number_of_a_class_is_refused(self, tmp_path: Path, label: bytes, words: str) -> None:
        found = members()
        found[9] = ("0004.cls", label)
        refused(one(tmp_path, found), "dataset_labels", words)

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            (b'{"label": 1.5}', "'1.5' of image 4"),
            (b'{"label": null}', "leave them out"),
            (b'{"label": true}', "'True' of image 4"),
            (b'{"label": [1]}', "of image 4"),
            (b'{"label": "one"}', "none of the 1 classes by name"),
            (b'{"label": 1', "cannot be read"),
            (b"[1]", "no field 'label'"),
            (b"[" * 100_000, "cannot be read"),
        ],
    )
    def test_json_that_says_no_class_is_refused(self, tmp_path: Path, document: bytes, words: str) -> None:
        found = members()
        found[9] = ("0004.json", document)
        refused(one(tmp_path, found), "dataset_labels", words)

    def test_a_sample_without_label_is_named(self, tmp_path: Path) -> None:
        found = members()
        del found[9]
        refused(one(tmp_path, found), "dataset_labels", "sample 0004 .*neither .cls nor .json")

    def test_a_sample_without_image_is_named(self, tmp_path: Path) -> None:
        found = members()
        del found[8]
        refused(one(tmp_path, found), "dataset_unreadable", "sample 0004 .*no image")


def _link(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("0001.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)

    return add


def _twice(tar: tarfile.TarFile) -> None:
    for _ in range(2):
        member = tarfile.TarInfo("0001.cls")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"1"))


class TestHostileTars:
    @pytest.mark.parametrize(
        ("add", "words"),
        [
            (_link(tarfile.SYMTYPE), "link or a device"),
            (_link(tarfile.LNKTYPE), "link or a device"),
            (_link(tarfile.FIFOTYPE), "link or a device"),
            (_link(tarfile.CHRTYPE), "link or a device"),
            (_twice, "is there twice"),
        ],
    )
    def test_anything_but_files_is_refused(
        self, tmp_path: Path, add: Callable[[tarfile.TarFile], None], words: str
    ) -> None:
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            add(tar)
        refused(tmp_path, "dataset_unreadable", words)

    def test_names_that_lead_out_write_nothing(self, tmp_path: Path) -> None:
        found = [(f"../../{name}", content) for name, content in members()]
        found += [("/tmp/limbeck-test.png", encoded(digits()[0][0])), ("/tmp/limbeck-test.cls", b"1")]
        own = tmp_path / "1" / "2" / "3"
        assert folder(one(own, found)).classes == 10
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own / "0.tar"]
        assert not Path("/tmp/limbeck-test.png").exists()

    def test_a_member_larger_than_an_image_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tar_samples, "MAX_MEMBER_BYTES", 4096)
        found = [("0.png", bytes(5000)), ("0.cls", b"1")]
        refused(one(tmp_path, found), "dataset_unreadable", "0.png claims more than")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_header_that_unpacks_to_gigabytes_is_not_read(self, tmp_path: Path, kind: bytes) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 2**33 - 512
        raw = header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
        (tmp_path / "0.tar.gz").write_bytes(gzip.compress(raw))
        refused(tmp_path, "dataset_unreadable", "claims more than 64 MiB")

    def test_a_shard_that_claims_to_be_endless_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tar_samples, "MAX_SHARD_BYTES", 10_000)
        write_webdataset(tmp_path, train_and_test())
        refused(tmp_path, "dataset_unreadable", "claims more than")
