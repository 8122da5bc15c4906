"""What becomes of images that are no 8-bit greys or colours, no squares, or no images at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from search.data import open_dataset
from search.datasets import pictures
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import digits, encoded, encoded_image
from tests.search.dataset_files import folder

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RED = Image.new("RGB", (16, 16), (200, 30, 10))


def read_back(root: Path, raw: bytes, *, suffix: str = "png", size: int | None = None) -> Tensor:
    """The image as uint8 (C, S, S), through a data set whose images are all this one."""
    for label in range(2):
        (root / f"class {label}").mkdir(parents=True, exist_ok=True)
        for number in range(10):
            (root / f"class {label}" / f"{number}.{suffix}").write_bytes(raw)
    images = folder(root, input_size=size).splits["train"].images
    assert (images == images[0]).all()
    return images[0]


def refused(root: Path, raw: bytes, code: str, words: str, *, suffix: str = "png") -> None:
    with pytest.raises(SearchProblem, match=words) as caught:
        read_back(root, raw, suffix=suffix)
    assert caught.value.code == code


class TestFormats:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})],
    )
    def test_formats_without_loss_come_out_exactly(self, tmp_path: Path, kind: str, options: Any) -> None:
        raw = encoded_image(Image.fromarray(RAMP), kind, **options)
        image = read_back(tmp_path, raw, suffix=kind.lower())
        assert all(np.array_equal(channel, RAMP) for channel in image.numpy())

    def test_the_content_decides_and_not_the_name(self, tmp_path: Path) -> None:
        assert np.array_equal(read_back(tmp_path, encoded(RAMP), suffix="jpg")[0], RAMP)

    @pytest.mark.parametrize("kind", ["PPM", "PDF", "ICO", "EPS"])
    def test_other_formats_are_refused(self, tmp_path: Path, kind: str) -> None:
        refused(
            tmp_path,
            encoded_image(RED, kind),
            "dataset_unreadable",
            "PNG, JPEG, WEBP, BMP, GIF, TIFF are read",
        )


class TestPixels:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_of_sixteen_bits_the_high_byte_counts(self, tmp_path: Path, kind: str) -> None:
        """Pillow's own conversion would make 255 of all that is above 255."""
        wide = Image.fromarray(RAMP.astype(np.uint16) * 256 + 77)
        image = read_back(tmp_path, encoded_image(wide, kind), suffix=kind.lower())
        assert image.shape == (1, 16, 16)
        assert np.array_equal(image[0], RAMP)

    def test_of_sixteen_bit_colours_too(self, tmp_path: Path) -> None:
        image = read_back(tmp_path, sixteen_bit_colours(RAMP.astype(np.uint16) * 256 + 77))
        assert image.shape == (3, 16, 16)
        assert all(np.array_equal(channel, RAMP) for channel in image.numpy())

    def test_one_bit_is_black_and_white(self, tmp_path: Path) -> None:
        image = read_back(tmp_path, encoded_image(Image.fromarray(RAMP > 100)))
        assert np.array_equal(image[0], (RAMP > 100) * 255)

    @pytest.mark.parametrize("transparency", [None, 0])
    def test_palettes_become_their_colours(self, tmp_path: Path, transparency: int | None) -> None:
        options = {} if transparency is None else {"transparency": transparency}
        image = read_back(tmp_path, encoded_image(RED.quantize(4), **options))
        assert image[:, 3, 3].tolist() == [200, 30, 10]

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_alpha_is_left_out_as_timm_does(self, tmp_path: Path, mode: str) -> None:
        image = RED.convert(mode)
        image.putalpha(7)
        found = read_back(tmp_path, encoded_image(image))
        assert torch.equal(found, read_back(tmp_path / "opaque", encoded_image(RED.convert(mode[:-1]))))

    def test_cmyk_becomes_red_green_and_blue(self, tmp_path: Path) -> None:
        raw = encoded_image(RED.convert("CMYK"), "JPEG", quality=100)
        found = read_back(tmp_path, raw, suffix="jpg")[:, 8, 8].tolist()
        assert found == pytest.approx([200, 30, 10], abs=4)

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_of_several_frames_the_first_counts(self, tmp_path: Path, kind: str) -> None:
        others = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "green")]
        options: Any = {"lossless": True} if kind == "WEBP" else {}
        raw = encoded_image(RED, kind, save_all=True, append_images=others, **options)
        (tmp_path / "image").write_bytes(raw)
        assert len(list(ImageSequence.Iterator(Image.open(tmp_path / "image")))) == 3
        image = read_back(tmp_path / "own", raw, suffix=kind.lower())
        assert image[:, 3, 3].tolist() == [200, 30, 10]

    def test_the_camera_s_orientation_is_left_alone_as_timm_does(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        assert np.array_equal(read_back(tmp_path, encoded_image(Image.fromarray(RAMP), exif=exif))[0], RAMP)

    def test_one_image_in_colour_gives_all_three_channels(self, tmp_path: Path) -> None:
        read_back(tmp_path, encoded(RAMP))
        (tmp_path / "class 1" / "7.png").write_bytes(encoded_image(RED))
        assert folder(tmp_path).channels == 3


class TestFloatingPoint:
    def tiff(self, pixels: np.ndarray) -> bytes:
        return encoded_image(Image.fromarray(pixels.astype(np.float32)), "TIFF")

    def test_zero_to_one_becomes_bytes(self, tmp_path: Path) -> None:
        assert np.array_equal(read_back(tmp_path, self.tiff(RAMP / 255), suffix="tiff")[0], RAMP)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_not_a_number_is_refused(self, tmp_path: Path, wrong: float) -> None:
        pixels = RAMP / 255
        pixels[3, 3] = wrong
        refused(tmp_path, self.tiff(pixels), "dataset_pixels", r"0\.tif holds NaN or infinite", suffix="tif")

    def test_another_range_is_refused(self, tmp_path: Path) -> None:
        refused(
            tmp_path, self.tiff(RAMP), "dataset_pixels", r"from 0 to 255: scale them to 0\.\.1", suffix="tif"
        )

    def test_thirty_two_bit_whole_numbers_are_refused(self, tmp_path: Path) -> None:
        raw = encoded_image(Image.fromarray(RAMP.astype(np.int32)), "TIFF")
        refused(tmp_path, raw, "dataset_pixels", "8 or 16 bits", suffix="tif")


class TestShapes:
    @pytest.mark.parametrize("shape", [(16, 48), (48, 16), (17, 48)])
    def test_the_middle_square_is_cut_out(self, tmp_path: Path, shape: tuple[int, int]) -> None:
        pixels = np.zeros(shape, dtype=np.uint8)
        pixels[tuple(slice((side - 16) // 2, (side - 16) // 2 + 16) for side in shape)] = RAMP
        found = read_back(tmp_path, encoded(pixels), size=min(shape))
        expected = RAMP if min(shape) == 16 else pixels[:, 15:32]
        assert np.array_equal(found[0], expected)

    def test_it_is_brought_to_224_where_no_size_is_given(self, tmp_path: Path) -> None:
        assert read_back(tmp_path, encoded(np.zeros((20, 40), dtype=np.uint8))).shape == (1, 224, 224)

    def test_large_squares_are_brought_to_224(self, tmp_path: Path) -> None:
        for side, expected in ((513, 224), (512, 512)):
            raw = encoded(np.zeros((side, side), dtype=np.uint8))
            assert read_back(tmp_path / str(side), raw).shape == (1, expected, expected)

    def test_making_smaller_averages(self, tmp_path: Path) -> None:
        """A checkerboard halved is grey; without averaging it would be black or white."""
        board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
        middle = read_back(tmp_path, encoded(board), size=16)[0, 4:12, 4:12]
        assert (middle.int() - 128).abs().max() <= 2


class TestDamage:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    @pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
    def test_a_cut_image_is_refused_in_every_format(self, tmp_path: Path, kind: str, share: float) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        raw = encoded(noise, kind)
        suffix = kind.lower()
        words = rf"class 0/\d\.{suffix} cannot be read .*mend or remove it"
        refused(tmp_path, raw[: int(len(raw) * share)], "dataset_unreadable", words, suffix=suffix)

    def test_a_wrong_checksum_is_refused(self, tmp_path: Path) -> None:
        raw = bytearray(encoded(digits()[0][0]))
        raw[50] ^= 0xFF
        refused(tmp_path, bytes(raw), "dataset_unreadable", "mend or remove it")


class TestBombs:
    def test_more_pixels_than_any_photograph_are_not_decoded(self, tmp_path: Path) -> None:
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        refused(tmp_path, raw + chunk(b"IEND", b""), "dataset_unreadable", "cannot be read")

    def test_the_bound_is_our_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
        refused(tmp_path, encoded(digits()[0][0]), "dataset_unreadable", "32x32 pixels are more than")
        assert Image.MAX_IMAGE_PIXELS is not None
        monkeypatch.undo()
        assert Image.MAX_IMAGE_PIXELS > pictures.MAX_PIXELS

    def test_a_text_that_unpacks_to_megabytes_is_refused(self, tmp_path: Path) -> None:
        raw = encoded(digits()[0][0])
        bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27)))
        refused(tmp_path, raw[:33] + bomb + raw[33:], "dataset_unreadable", "cannot be read")


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def sixteen_bit_colours(pixels: np.ndarray) -> bytes:
    """A PNG with 16 bits a channel, all three alike, which Pillow reads and cannot write."""
    height, width = pixels.shape
    rows = np.repeat(pixels[..., None], 3, axis=-1).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


def test_the_table_may_ask_for_grey(tmp_path: Path) -> None:
    read_back(tmp_path / "own", encoded_image(RED))
    file = tmp_path / "datasets.toml"
    file.write_text("[datasets.own]\nkind = 'imagefolder'\npath = 'own'\nchannels = 1\n")
    dataset = open_dataset("own", Splits(), datasets_file=file)
    assert dataset.channels == 1
    assert (dataset.splits["train"].images == round(0.299 * 200 + 0.587 * 30 + 0.114 * 10)).all()
