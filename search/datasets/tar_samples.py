"""Samples of a WebDataset shard: members of a tar with the same name up to its first dot, read in order.

Nothing is written to disk, no link is followed, and what a member's header claims is not believed: reading is
bounded member by member.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from search.problems import SearchProblem

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_MEMBER_BYTES = 64 * 1024**2
MAX_SHARD_BYTES = 256 * 1024**3  # unpacked; ends a gzip file that would unpack for hours


@dataclass
class Sample:
    """The wanted files of one sample, by extension in lower case: `jpg`, `cls`, `seg.png`."""

    key: str
    fields: dict[str, bytes] = field(default_factory=dict)


def samples_of(shard: Path, wanted: Collection[str]) -> Iterator[Sample]:
    """All samples of a shard, with those of their files whose extension is wanted.

    Raises SearchProblem `dataset_unreadable` for what is no tar, is cut short, holds links or devices, or
    a member that is too large.
    """
    try:
        with _unpacked(shard) as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:
            yield from _grouped(tar, wanted)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise SearchProblem(
            f"{shard} is not a whole tar ({error}); fetch it anew", code="dataset_unreadable"
        ) from error


def _unpacked(shard: Path) -> IO[bytes]:
    return shard.open("rb") if shard.name.endswith(".tar") else gzip.GzipFile(shard)  # type: ignore[return-value]


class _Bounded(io.RawIOBase):
    """A file of which nobody reads more at once than a member may hold.

    tarfile reads an extended header as long as it claims to be, which gzip can make gigabytes of zeros.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int = -1, /) -> bytes:
        if not 0 <= count <= MAX_MEMBER_BYTES:
            raise ValueError(f"a part of it claims more than {MAX_MEMBER_BYTES // 1024**2} MiB")
        return self.file.read(count)

    def seek(self, position: int, whence: int = 0, /) -> int:
        if whence == 0 and position > MAX_SHARD_BYTES:
            raise ValueError(f"it claims more than {MAX_SHARD_BYTES // 1024**3} GiB")
        return self.file.seek(position, whence)


def _grouped(tar: tarfile.TarFile, wanted: Collection[str]) -> Iterator[Sample]:
    sample: Sample | None = None
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header that it has read
        if member.isdir():
            continue
        if not member.isreg():
            raise tarfile.TarError(f"{member.name} is a link or a device, which is not followed")
        key, extension = _key_and_extension(member.name)
        if key is None:
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if extension in sample.fields:
            raise tarfile.TarError(f"{member.name} is there twice")
        if extension in wanted:
            sample.fields[extension] = _content(tar, member)
    _require_end(tar)  # before the last sample, which a cut would leave without its label
    if sample is not None:
        yield sample


def _key_and_extension(name: str) -> tuple[str | None, str]:
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    return (f"{folder}{slash}{stem}" if stem and dot else None), extension.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_MEMBER_BYTES:
        raise tarfile.TarError(f"{member.name} claims more than {MAX_MEMBER_BYTES // 1024**2} MiB")
    file = tar.extractfile(member)
    assert file is not None  # only links and devices have none
    content = file.read()
    if len(content) != member.size:
        raise tarfile.TarError(f"{member.name} is cut short")
    return content


def _require_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a header that is cut or damaged for the end; a whole archive ends in a block of zeros."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError("it is cut short or damaged: it has no end mark")
