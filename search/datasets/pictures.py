"""Encoded images, brought to one side and number of channels. docs/datasets.md says what becomes of which.

Everything here may come from strangers: only a few formats are opened, by their content and not by their
name, and never more pixels than `MAX_PIXELS`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from search.datasets.contents import Entry
from search.problems import SearchProblem

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 80_000_000  # of one image; just below where Pillow itself begins to warn
MAX_ENCODED_BYTES = 64 * 1024**2
DEFAULT_SIZE = 224
MAX_OWN_SIZE = 512
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_AT_A_TIME = 512  # images whose encoded bytes are in memory together


@dataclass(frozen=True)
class Picture:
    """One encoded image: where it stands, for messages, and its file or its bytes."""

    where: str
    source: Path | bytes


@dataclass(frozen=True)
class Format:
    """How images are brought into memory."""

    channels: int
    size: int


@dataclass
class Survey:
    """What the headers of images say."""

    count: int = 0
    is_grey: bool = True
    sizes: set[tuple[int, int]] = field(default_factory=set)

    def add(self, pictures: Iterable[Picture]) -> None:
        """Read the headers of more images, no pixels."""
        for picture in pictures:
            with opened(picture) as image:
                self.count += 1
                self.is_grey = self.is_grey and image.mode in _GREY_MODES
                if len(self.sizes) < 2:
                    self.sizes.add(image.size)

    def format(self, entry: Entry, *, size: int | None) -> Format:
        """Channels and side: as set, else the data's own.

        The data's own size is that of its images where all are squares of one size (at most 512), else 224.
        """
        width, height = next(iter(self.sizes), (0, 1))
        is_uniform = len(self.sizes) == 1 and width == height and width <= MAX_OWN_SIZE
        return Format(
            channels=entry.channels or (1 if self.is_grey else 3),
            size=size or entry.size or (width if is_uniform else DEFAULT_SIZE),
        )


def survey(pictures: Iterable[Picture]) -> Survey:
    """The headers of all these images."""
    found = Survey()
    found.add(pictures)
    return found


def decode(pictures: Iterable[Picture], chosen: Format, *, count: int) -> Tensor:
    """uint8 (N, C, S, S), in order; decoded by as many threads as torch has."""
    images = torch.empty((count, chosen.channels, chosen.size, chosen.size), dtype=torch.uint8)
    waiting = iter(pictures)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        index = 0
        while some := list(islice(waiting, _AT_A_TIME)):
            for pixels in pool.map(lambda picture: decode_one(picture, chosen), some):
                images[index] = pixels
                index += 1
    if index != count:
        raise SearchProblem(
            f"the data set changed while it was read: {count} images became {index}; start again",
            code="dataset_unreadable",
        )
    return images


def decode_one(picture: Picture, chosen: Format) -> Tensor:
    """uint8 (C, S, S): the middle square of the first frame, in eight bits, without alpha."""
    with opened(picture) as image:
        try:
            image.load()
            converted = _in_eight_bits(image, picture.where).convert("L" if chosen.channels == 1 else "RGB")
        except SearchProblem:
            raise
        except Exception as error:  # a hostile or damaged image may raise anything
            raise _unreadable(picture.where, error) from error
    if converted.size != (chosen.size, chosen.size):
        converted = _middle(converted, chosen.size)
    pixels = torch.from_numpy(np.array(converted))
    return pixels[None] if chosen.channels == 1 else pixels.permute(2, 0, 1)


def opened(picture: Picture) -> Image.Image:
    """The image with its header read and its first frame chosen.

    Raises SearchProblem `dataset_unreadable` for other formats, and for more than `MAX_PIXELS`.
    """
    source = picture.source
    if isinstance(source, bytes) and len(source) > MAX_ENCODED_BYTES:
        raise _unreadable(picture.where, f"more than {MAX_ENCODED_BYTES // 1024**2} MiB")
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Exception as error:  # see above
        raise _unreadable(picture.where, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise _unreadable(
            picture.where, f"{width}x{height} pixels are more than {MAX_PIXELS // 10**6} million"
        )
    return image


def _in_eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Pillow would cut 16-bit greys off at 255 and NaN to 0; here 16 bits keep their high byte."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(bytes_of_floats(np.asarray(image), where))
    if image.mode == "I":
        raise SearchProblem(
            f"the image {where} has 32-bit whole numbers for pixels, and nothing says their range: write it "
            "with 8 or 16 bits",
            code="dataset_pixels",
        )
    return image


def bytes_of_floats(pixels: np.ndarray, where: str) -> np.ndarray:
    """Floats in [0, 1] as uint8 in 0..255. Raises SearchProblem `dataset_pixels` for others and for NaN."""
    if not np.isfinite(pixels).all():
        raise SearchProblem(
            f"{where} holds NaN or infinite pixels: mend or remove them", code="dataset_pixels"
        )
    if pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        raise SearchProblem(
            f"{where} holds floating-point pixels from {pixels.min():.4g} to {pixels.max():.4g}: scale them "
            "to 0..1, or write them as bytes",
            code="dataset_pixels",
        )
    return np.round(pixels * 255).astype(np.uint8)


def _middle(image: Image.Image, size: int) -> Image.Image:
    """The middle square, at that side."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cut first: resizing by `box` would mix in pixels from outside it.
    middle = image.crop((left, top, left + side, top + side))
    return middle.resize((size, size), Image.Resampling.BILINEAR)


def _unreadable(where: str, reason: object) -> SearchProblem:
    return SearchProblem(
        f"the image {where} cannot be read ({reason}); mend or remove it. {', '.join(FORMATS)} are read",
        code="dataset_unreadable",
    )


def files_as_pictures(files: Iterable[Path]) -> Iterator[Picture]:
    """Image files, named by their paths."""
    return (Picture(str(file), file) for file in files)
