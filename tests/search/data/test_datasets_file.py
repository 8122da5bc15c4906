"""Names of data sets: the tables of `datasets.toml`, and directories that are told by their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.data import available_datasets, open_dataset
from search.datasets_file import entry_of_directory, name_of_directory, write_datasets_file
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import WRITERS, train_and_test
from tests.search.dataset_files import write_cifar, write_images


class TestDatasetsFile:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "datasets.toml"
        path.write_text(text)
        return path

    def test_names_lead_to_directories_relative_to_the_file(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers" / "learn")
        write_images(tmp_path / "flowers" / "exam", each=4)
        path = self.write(
            tmp_path,
            '[datasets.flowers]\nkind = "imagefolder"\npath = "flowers"\n'
            'train = "learn"\ntest = "exam"\nsize = 8\n',
        )
        dataset = open_dataset("flowers", Splits(), datasets_file=path)
        assert dataset.split_sizes["test"] == 12
        assert dataset.size == 8

    def test_an_unknown_name_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '[datasets.flowers]\nkind = "imagefolder"\npath = "flowers"\n')
        for wrong, right in (("flower", "flowers"), ("digit", "digits")):
            with pytest.raises(SearchProblem, match=f"did you mean {right}") as caught:
                open_dataset(wrong, Splits(), datasets_file=path)
            assert caught.value.code == "unknown_dataset"

    def test_no_name_leads_out_to_a_path(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers")
        with pytest.raises(SearchProblem) as caught:
            open_dataset(str(tmp_path / "flowers"), Splits())
        assert caught.value.code == "unknown_dataset"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[datasets.a\n", "cannot be read"),
            ("[datasets.a]\npath = 'x'\n", "kind: Field required"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 'x'\nfolder = 'y'\n", "folder: Extra inputs"),
            (
                "[datasets.a]\nkind = 'images'\npath = 'x'\n",
                "known kinds: cifar, digits, idx, imagefolder",
            ),
            ("datasets = 3\n", "table"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 3\n", "path: Input should be a valid string"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 'x'\nsize = -4\n", "size"),
            ("[datasets.a]\nkind = 'idx'\npath = 'x'\nlabel_key = 'y'\n", "'idx' has no setting label_key"),
            ("[datasets.a]\nkind = 'cifar'\npath = 'x'\ntest = 'y'\n", "'cifar' has no setting test"),
            ("[datasets.a]\nkind = 'idx'\npath = 'x'\nclasses = ['y', 'z', 'y']\n", "'y' is named twice"),
            ("[datasets.a]\nkind = 'idx'\npath = 'x'\nclasses = ['y']\n", "classes"),
            ("[datasets.a]\nkind = 'idx'\npath = 'x'\ntrain = ''\n", "train"),
        ],
    )
    def test_a_faulty_file_is_refused_in_words(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(SearchProblem, match=words) as caught:
            open_dataset("a", Splits(), datasets_file=self.write(tmp_path, text))
        assert caught.value.code == "dataset_unreadable"

    def test_a_directory_without_a_name_gets_one_and_a_file_that_names_it(self, tmp_path: Path) -> None:
        write_images(tmp_path / "my 'own' flowers")
        path = tmp_path / "datasets.toml"
        write_datasets_file(path, tmp_path / "my 'own' flowers")
        name = name_of_directory(tmp_path / "my 'own' flowers")
        assert name == "my-own-flowers"
        assert open_dataset(name, Splits(), datasets_file=path).classes == 3
        with pytest.raises(SearchProblem, match="not a directory"):
            write_datasets_file(path, tmp_path / "gone")

    def test_a_directory_called_digits_is_not_taken_for_the_built_in_ones(self, tmp_path: Path) -> None:
        write_images(tmp_path / "digits")
        path = tmp_path / "datasets.toml"
        write_datasets_file(path, tmp_path / "digits")
        name = name_of_directory(tmp_path / "digits")
        assert open_dataset(name, Splits(), datasets_file=path).classes == 3
        path.write_text("[datasets.digits]\nkind = 'imagefolder'\npath = 'digits'\n")
        with pytest.raises(SearchProblem, match=r"digits are built in; rename it"):
            open_dataset("flowers", Splits(), datasets_file=path)

    def test_the_catalogue_lists_all_without_decoding(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers")
        write_cifar(tmp_path / "cifar")
        broken = tmp_path / "flowers" / "class_2" / "019.png"
        broken.write_bytes(b"")
        path = self.write(
            tmp_path,
            "[datasets.flowers]\nkind = 'imagefolder'\npath = 'flowers'\n"
            "[datasets.small]\nkind = 'cifar'\npath = 'cifar'\n"
            "[datasets.gone]\nkind = 'imagefolder'\npath = 'gone'\n",
        )
        found = {entry["name"]: entry for entry in available_datasets(path)}
        assert found["digits"] == {
            "name": "digits",
            "kind": "digits",
            "classes": 10,
            "channels": 1,
            "size": 32,
            "images": 1797,
        }
        assert (found["flowers"]["classes"], found["flowers"]["images"], found["flowers"]["size"]) == (
            3,
            60,
            24,
        )
        assert found["small"]["classes"] == 10
        assert "not a directory" in found["gone"]["error"]
        assert [entry["name"] for entry in available_datasets(None)] == ["digits"]


class TestDirectories:
    @pytest.mark.parametrize("kind", sorted(WRITERS))
    def test_the_kind_is_told_by_the_names_of_files(self, tmp_path: Path, kind: str) -> None:
        WRITERS[kind](tmp_path, train_and_test())
        assert entry_of_directory("own", tmp_path).kind == kind

    def test_the_written_table_names_the_kind(self, tmp_path: Path) -> None:
        WRITERS["parquet"](tmp_path / "own", train_and_test())
        write_datasets_file(tmp_path / "datasets.toml", tmp_path / "own")
        assert 'kind = "parquet"' in (tmp_path / "datasets.toml").read_text()

    def test_files_of_two_kinds_are_refused(self, tmp_path: Path) -> None:
        for kind in ("idx", "parquet"):
            WRITERS[kind](tmp_path, train_and_test())
        with pytest.raises(SearchProblem, match=r"several kinds \(idx, parquet\).*--datasets-file"):
            entry_of_directory("own", tmp_path)

    def test_an_archive_left_beside_its_class_folders_is_not_taken_for_the_data(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train")
        assert entry_of_directory("own", tmp_path).kind == "imagefolder"
        (tmp_path / "flowers.tar.gz").write_bytes(b"")
        with pytest.raises(SearchProblem, match=r"several kinds \(imagefolder, webdataset\): keep one"):
            entry_of_directory("own", tmp_path)

    def test_a_directory_without_any_data_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("nothing")
        with pytest.raises(SearchProblem, match="no data set of a known kind") as caught:
            entry_of_directory("own", tmp_path)
        assert caught.value.code == "dataset_empty"
