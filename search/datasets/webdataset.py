"""WebDataset shards: tars with {key}.jpg or .png, and {key}.cls or .json for the label."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from search.datasets.contents import Contents, Entry, Labelled, Part, register_kind
from search.datasets.decoded import fingerprint, require_room, stored
from search.datasets.labels import numbered
from search.datasets.parts import has_shards, shards_by_part
from search.datasets.pictures import SUFFIXES as IMAGE_SUFFIXES
from search.datasets.pictures import Picture, Survey, decode, survey
from search.datasets.places import root_of
from search.datasets.tar_samples import SUFFIXES, Sample, samples_of
from search.problems import SearchProblem

SETTINGS = ("train", "validation", "test", "size", "channels", "classes", "image_key", "label_key")
DEFAULT_FIELD = "label"
MAX_LABEL_BYTES = 1024**2
MAX_NAMES_BYTES = 16 * 1024**2
_IMAGE_FIELDS = tuple(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))


def describe(entry: Entry) -> dict[str, int | None]:
    """The first image's header; counting images and classes would mean reading all shards."""
    shards = shards_by_part(entry, SUFFIXES)
    first = next(iter(samples_of(shards[Part.TRAIN][0], _wanted(entry))), None)
    if first is None:
        raise _empty(entry, Part.TRAIN)
    chosen = survey([_picture(entry, shards[Part.TRAIN][0], first)]).format(entry, size=None)
    names = entry.classes or _class_names(entry)
    return {
        "classes": len(names) if names else None,
        "channels": chosen.channels,
        "size": chosen.size,
        "images": None,
    }


def recognises(directory: Path) -> bool:
    """Whether tars lie there."""
    return has_shards(directory, SUFFIXES)


@register_kind("webdataset", describe=describe, recognises=recognises, settings=SETTINGS)
def read(entry: Entry, *, size: int | None) -> Contents:
    """All samples of all shards, decoded once per node and kept in the cache directory."""
    shards = shards_by_part(entry, SUFFIXES)
    files = [shard for paths in shards.values() for shard in paths]
    named = root_of(entry) / "classnames.txt"
    name = fingerprint(entry, [*files, named] if named.is_file() else files, size=size)
    return stored(entry.cache_directory, name, lambda: _decode(entry, shards, size=size))


def _decode(entry: Entry, shards: dict[Part, list[Path]], *, size: int | None) -> Contents:
    """Twice over the shards: room for all images can only be made when their headers and number are known."""
    found = Survey()
    raw = {part: _survey_part(entry, part, paths, found) for part, paths in shards.items()}
    labels, names = numbered(entry, raw, names=_class_names(entry))
    chosen = found.format(entry, size=size)
    require_room(found.count, channels=chosen.channels, size=chosen.size)
    parts = {
        part: Labelled(
            decode(_pictures(entry, paths), chosen, count=len(labels[part])),
            labels[part],
        )
        for part, paths in shards.items()
    }
    return Contents.of(parts, names)


def _survey_part(entry: Entry, part: Part, shards: Iterable[Path], found: Survey) -> list[object]:
    """Adds the headers of a part's images to the survey; its labels as they stand there."""
    labels: list[object] = []

    def seen() -> Iterator[Picture]:
        for shard in shards:
            for sample in samples_of(shard, _wanted(entry)):
                labels.append(_label(entry, shard, sample))
                yield _picture(entry, shard, sample)

    found.add(seen())
    if not labels:
        raise _empty(entry, part)
    return labels


def _pictures(entry: Entry, shards: Iterable[Path]) -> Iterator[Picture]:
    for shard in shards:
        for sample in samples_of(shard, _wanted(entry)):
            yield _picture(entry, shard, sample)


def _wanted(entry: Entry) -> set[str]:
    images = {entry.image_key.lower()} if entry.image_key else set(_IMAGE_FIELDS)
    return images | {"cls", "json"}


def _picture(entry: Entry, shard: Path, sample: Sample) -> Picture:
    fields = (entry.image_key.lower(),) if entry.image_key else _IMAGE_FIELDS
    found = [name for name in fields if name in sample.fields]
    if len(found) != 1:
        has = f"{len(found)} images ({', '.join(found)})" if found else "no image"
        raise SearchProblem(
            f"sample {sample.key} of {shard} has {has}: one of {', '.join(fields)} is expected; "
            "`image_key` in datasets.toml says which",
            code="dataset_unreadable",
        )
    return Picture(f"{sample.key}.{found[0]} in {shard}", sample.fields[found[0]])


def _label(entry: Entry, shard: Path, sample: Sample) -> object:
    """From `.cls` a number; else from `.json`, a number or a name."""
    where = f"sample {sample.key} of {shard}"
    text, document = sample.fields.get("cls"), sample.fields.get("json")
    if max(len(text or b""), len(document or b"")) > MAX_LABEL_BYTES:
        raise _unlabelled(where, f"its label is longer than {MAX_LABEL_BYTES // 1024**2} MiB")
    if text is not None and entry.label_key is None:
        return _whole_number(text, where)
    if document is None:
        raise _unlabelled(where, "it has no .json" if entry.label_key else "it has neither .cls nor .json")
    return _json_field(document, entry.label_key or DEFAULT_FIELD, where)


def _whole_number(text: bytes, where: str) -> int:
    stripped = text.decode("ascii", "replace").strip()
    if not stripped.removeprefix("-").isdecimal() or len(stripped) > 18:
        raise _unlabelled(where, f"its .cls is {stripped[:40]!r} and no whole number")
    return int(stripped)


def _json_field(document: bytes, name: str, where: str) -> object:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise _unlabelled(where, f"its .json cannot be read ({error})") from error
    if not isinstance(found, dict) or name not in found:
        raise _unlabelled(where, f"its .json has no field {name!r}: set `label_key` in datasets.toml")
    return found[name]


def _class_names(entry: Entry) -> list[str] | None:
    """From `classnames.txt`, one to a line, where there is one."""
    path = root_of(entry) / "classnames.txt"
    if entry.classes or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8") as file:
            names = file.read(MAX_NAMES_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SearchProblem(f"{path} cannot be read ({error})", code="dataset_unreadable") from error
    return [name.strip() for name in names if name.strip()]


def _unlabelled(where: str, reason: str) -> SearchProblem:
    return SearchProblem(f"{where}: {reason}", code="dataset_labels")


def _empty(entry: Entry, part: Part) -> SearchProblem:
    return SearchProblem(
        f"data set {entry.name!r}: the tars of the {part} part have no samples; name others by `{part}` in "
        "datasets.toml",
        code="dataset_empty",
    )
