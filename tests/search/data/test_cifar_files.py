"""CIFAR's own files: read without running what a hostile one asks for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.problems import SearchProblem
from tests.search.dataset_files import folder, write_cifar


class TestCifar:
    @pytest.mark.parametrize("writer", ["python2", "2", "3", "4"])
    def test_files_of_every_python_are_read(self, tmp_path: Path, writer: str) -> None:
        pixels = write_cifar(tmp_path, writer=writer)
        dataset = folder(tmp_path)
        assert dataset.split_sizes == {"train": 120, "meta": 15, "validation": 15, "test": 30}
        assert dataset.class_names == [f"class {index}" for index in range(10)]
        expected = {row.tobytes(): index % 30 % 10 for index, row in enumerate(pixels)}
        for name in ("train", "meta", "validation"):
            split = dataset.splits[name]
            for image, label in zip(split.images, split.labels.tolist(), strict=True):
                assert expected[image.numpy().tobytes()] == label

    def test_cifar_100s_fine_classes_are_read(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for name, count in (("train", 40), ("test", 10)):
            data = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            labels = [index % 4 for index in range(count)]
            content = {b"data": data, b"fine_labels": labels, b"coarse_labels": [0] * count}
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
        meta = {b"fine_label_names": [b"a", b"b", b"c", b"d"], b"coarse_label_names": [b"x"]}
        (tmp_path / "meta").write_bytes(pickle.dumps(meta, protocol=2))
        assert folder(tmp_path).class_names == ["a", "b", "c", "d"]

    @pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
    def test_a_missing_file_is_named(self, tmp_path: Path, name: str) -> None:
        write_cifar(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(SearchProblem, match=r"is missing: fetch the data set anew") as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_unreadable"

    def test_another_size_on_request(self, tmp_path: Path) -> None:
        write_cifar(tmp_path)
        assert folder(tmp_path, input_size=16).splits["test"].images.shape == (30, 3, 16, 16)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({b"labels": [0]}, "no entry data"),
            ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, "array of bytes"),
            ({b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 1]}, "3072 columns"),
            ({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["0", "1"]}, "whole numbers"),
            ([1, 2], "dictionary"),
        ],
    )
    def test_another_content_is_refused(self, tmp_path: Path, content: Any, words: str) -> None:
        write_cifar(tmp_path)
        (tmp_path / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(SearchProblem, match=words) as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_unreadable"

    @pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
    def test_labels_out_of_range_are_refused(self, tmp_path: Path, labels: list[int]) -> None:
        write_cifar(tmp_path)
        content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": labels}
        (tmp_path / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(SearchProblem, match="labels run from") as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_labels"


class _Runs:
    """Makes a directory when it is unpickled without restrictions."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class TestHostilePickles:
    def refused(self, root: Path, raw: bytes) -> SearchProblem:
        write_cifar(root)
        (root / "data_batch_3").write_bytes(raw)
        with pytest.raises(SearchProblem) as caught:
            folder(root)
        assert caught.value.code == "dataset_unreadable"
        return caught.value

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_function_call_is_refused_and_not_made(self, tmp_path: Path, protocol: int) -> None:
        made = tmp_path / "made"
        raw = pickle.dumps({b"data": _Runs(os.mkdir, str(made))}, protocol=protocol)
        problem = self.refused(tmp_path / "own", raw)
        assert "mkdir" in problem.message
        assert not made.exists()
        pickle.loads(raw)
        assert made.exists()  # the file does run its code where it is unpickled

    @pytest.mark.parametrize(
        "function", [eval, getattr, __import__, open, np.load, np.fromfile, torch.load, pickle.loads]
    )
    def test_no_function_gets_through(self, tmp_path: Path, function: Any) -> None:
        assert "asks for" in self.refused(tmp_path, pickle.dumps(_Runs(function, "x"), protocol=2)).message

    def test_arrays_of_objects_are_refused(self, tmp_path: Path) -> None:
        raw = pickle.dumps({b"data": np.array([{}, []], dtype=object)}, protocol=2)
        assert "type 'O8'" in self.refused(tmp_path, raw).message

    def test_arrays_with_fields_are_refused(self, tmp_path: Path) -> None:
        raw = pickle.dumps({b"data": np.zeros(3, dtype=[("a", "u1"), ("b", "u1")])}, protocol=2)
        assert "array of type" in self.refused(tmp_path, raw).message

    def test_a_huge_empty_array_is_not_made(self, tmp_path: Path) -> None:
        raw = (
            b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85U\x01b\x87Rs."
        )
        assert "no entry labels" in self.refused(tmp_path, raw).message

    def test_the_stand_ins_cannot_be_changed(self, tmp_path: Path) -> None:
        raw = b"\x80\x02cnumpy\ndtype\nN}X\x04\x00\x00\x00nameK\x01s\x86b."
        assert "AttributeError" in self.refused(tmp_path, raw).message

    def test_bytes_in_a_compressing_encoding_are_refused(self, tmp_path: Path) -> None:
        raw = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R."
        assert "latin-1" in self.refused(tmp_path, raw).message

    @pytest.mark.parametrize(
        "raw", [b"", b"\x80\x02", b"garbage", b"\x80\x02}q\x00U\xffdata", b"\x80\x02Pabc\n."]
    )
    def test_damaged_files_are_refused(self, tmp_path: Path, raw: bytes) -> None:
        self.refused(tmp_path, raw)
