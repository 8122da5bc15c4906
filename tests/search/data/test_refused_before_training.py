"""What no training could use is refused at the command's door: exit status 2, and words with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from search.commands.distilling import main
from search.distill import Distillation
from search.models import build_model
from tests.search.data.written import (
    WRITERS,
    digits,
    encoded_image,
    idx_bytes,
    tar_members,
    train_and_test,
    write_idx,
    write_tar,
)
from tests.search.dataset_files import write_images

PAIR = ["--teacher=test_resnet", "--student=test_efficientnet", "--threads=1"]
Make = Callable[[Path], Any]


def damaged(kind: str, damage: Callable[[bytes], bytes]) -> Make:
    """A data set of this kind, its largest file damaged."""

    def make(root: Path) -> None:
        WRITERS[kind](root, train_and_test())
        files = [path for path in root.rglob("*") if path.is_file()]
        path = max(files, key=lambda file: (file.stat().st_size, file.name))
        path.write_bytes(damage(path.read_bytes()))

    return make


def half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def nothing(raw: bytes) -> bytes:
    return b""


def one_class(root: Path) -> None:
    images, _ = digits(0, 160)
    write_idx(root, {"train": (images, [3] * 160)})


def labels(values: list[int]) -> Make:
    """Handwritten digits whose labels are these."""

    def make(root: Path) -> None:
        write_idx(root, {"train": digits(0, 160)}, suffix="")
        (root / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(values), 0x0C))

    return make


def not_a_number(root: Path) -> None:
    pixels = digits(0, 160)[0] / 255
    pixels[5, 5, 5] = np.nan
    write_idx(root, {"train": digits(0, 160)}, suffix="")
    (root / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels, 0x0D))


def not_a_number_in_a_tar(root: Path) -> None:
    image = Image.fromarray(np.full((32, 32), np.inf, dtype=np.float32))
    write_tar(
        root / "0.tar",
        [*tar_members(*digits(0, 160)), ("x.tif", encoded_image(image, "TIFF")), ("x.cls", b"1")],
    )


CASES: dict[str, tuple[Make, str, str]] = {
    "nothing there": (lambda root: root.mkdir(), "dataset_empty", "no data set of a known kind"),
    "empty class folders": (lambda root: (root / "a").mkdir(parents=True), "dataset_empty", "no image files"),
    "a cut image": (damaged("imagefolder", half), "dataset_unreadable", "mend or remove it"),
    "a cut pickle": (damaged("cifar", half), "dataset_unreadable", "can be read safely"),
    "a cut gzip file": (damaged("idx", half), "dataset_unreadable", "fetch it anew"),
    "a cut tar": (damaged("webdataset", half), "dataset_unreadable", "fetch it anew"),
    "a cut parquet file": (damaged("parquet", half), "dataset_unreadable", "fetch it anew"),
    "an empty file": (damaged("parquet", nothing), "dataset_unreadable", "fetch it anew"),
    "one class": (one_class, "dataset_one_class", "add images of other classes"),
    "two images": (lambda root: write_images(root, classes=2, each=1), "dataset_too_small", "smaller splits"),
    "fewer than a batch": (
        lambda root: write_images(root, classes=2, each=40),
        "dataset_too_small",
        "train split has 48 images, fewer than one batch of 64: set training.batch_size to at most 48",
    ),
    "pixels that are no numbers": (not_a_number, "dataset_pixels", "NaN or infinite pixels: mend"),
    "infinite pixels": (not_a_number_in_a_tar, "dataset_pixels", "x.tif in"),
    "a negative label": (labels([0, -1] * 80), "dataset_labels", "no whole number from 0"),
    "a label without end": (labels([0, 2**31 - 1] * 80), "dataset_labels", "without gaps"),
}


@pytest.fixture
def never_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(run: Distillation) -> None:
        pytest.fail("a training has begun")

    monkeypatch.setattr(Distillation, "steps", steps)


def refusal(root: Path, *arguments: str) -> str:
    """What `search.distill` says of a mistake, in one line."""
    application = typer.Typer()
    application.command()(main)
    done = CliRunner().invoke(
        application, [*PAIR, f"--out={root / 'out'}", *arguments], env={"COLUMNS": "999"}
    )
    assert done.exit_code == 2, (done.output, done.exception)
    assert not (root / "out").exists()
    return " ".join(done.output.split())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("never_trained")
def test_data_that_nothing_can_be_learned_from(tmp_path: Path, case: str) -> None:
    make, code, words = CASES[case]
    make(tmp_path / "own")
    said = refusal(tmp_path, f"--data={tmp_path / 'own'}", "--train-teacher=1")
    assert f"{code}: " in said
    assert words in said


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.batch_size=401", "train split has 400 images.*training.batch_size to at most 400"),
        ("teachers.0.training.batch_size=401", "400 images.*teachers.0.training.batch_size to at most 400"),
        ("search.process.meta_batch_size=201", "meta split has 200 images.*meta_batch_size to at most 200"),
        ("data.splits.train=63", "train split has 63 images.*or data.splits.train higher"),
        ("data.splits.test=5000", "test 5000.*smaller splits"),
    ],
)
@pytest.mark.usefixtures("never_trained")
def test_fewer_images_than_a_batch_in_any_split(tmp_path: Path, setting: str, words: str) -> None:
    said = refusal(tmp_path, "--data=digits", "--train-teacher=1", f"--set={setting}")
    assert "dataset_too_small: " in said
    assert all(word in said for word in words.split(".*")), said


def teacher_state(**changes: int) -> dict[str, Tensor]:
    """A teacher's own weights, as an older training script would have saved them."""
    size = {"classes": 10, "channels": 1, **changes}
    model = build_model(
        "test_resnet",
        **size,
        input_size=32,
        seed=0,
        data_mean=(0.5,) * size["channels"],
        data_std=(0.5,) * size["channels"],
    )
    return model.network.state_dict()


def of_other_classes(path: Path) -> None:
    torch.save(teacher_state(classes=7), path)


def of_other_channels(path: Path) -> None:
    torch.save(teacher_state(channels=3), path)


def with_a_missing_entry(path: Path) -> None:
    state = teacher_state()
    torch.save({name: tensor for name, tensor in state.items() if "fc.bias" not in name}, path)


def with_an_entry_too_many(path: Path) -> None:
    torch.save({**teacher_state(), "more": torch.zeros(3)}, path)


def with_not_a_number(path: Path) -> None:
    state = teacher_state()
    state["fc.weight"] = state["fc.weight"].clone()
    state["fc.weight"][0, 0] = float("nan")
    torch.save(state, path)


def cut(path: Path) -> None:
    torch.save(teacher_state(), path)
    path.write_bytes(half(path.read_bytes()))


def that_run_code(path: Path) -> None:
    torch.save({"fc.weight": os.system}, path)


@pytest.mark.parametrize(
    ("write", "code", "words"),
    [
        (of_other_classes, "weights_do_not_fit", ["fc.weight is (7,", "(10,", "this data's classes"]),
        (
            of_other_channels,
            "weights_do_not_fit",
            ["conv1.0.weight is (16, 3, 3, 3) in the file", "channels"],
        ),
        (with_a_missing_entry, "weights_do_not_fit", ["1 entries are missing (fc.bias"]),
        (with_an_entry_too_many, "weights_do_not_fit", ["1 entries are unknown (more"]),
        (with_not_a_number, "weights_not_finite", ["NaN or infinite", "fc.weight", "earlier checkpoint"]),
        (cut, "weights_unreadable", ["give a safetensors file"]),
        (that_run_code, "weights_unreadable", ["give a safetensors file"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.usefixtures("never_trained")
def test_weights_that_do_not_fit(
    tmp_path: Path, write: Callable[[Path], None], code: str, words: list[str]
) -> None:
    write(tmp_path / "teacher.pth")
    said = refusal(tmp_path, "--data=digits", f"--teacher-weights={tmp_path / 'teacher.pth'}")
    assert f"{code}: " in said
    assert all(word in said for word in words), said


@pytest.mark.parametrize("case", ["a cut tar"])
def test_the_command_itself_ends_with_status_two(tmp_path: Path, case: str) -> None:
    make, code, words = CASES[case]
    make(tmp_path / "own")
    arguments = [*PAIR, "--data=own", "--train-teacher=1"]
    done = subprocess.run(
        [sys.executable, "-m", "search.distill", *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "999"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert f"{code}: " in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
