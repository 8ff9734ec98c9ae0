"""WebDataset tars: members with the same name up to the first dot are one sample."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from lzma import LZMAError
from typing import Any

import pyarrow as pa

from pcace_dist.datasets.formats import HEAD, IMAGE_SUFFIXES, TAR_SUFFIXES, kind_of_head
from pcace_dist.datasets.paths import Skipped, identity_of, is_hidden, utf8_name
from pcace_dist.datasets.walk import HIDDEN, SPECIAL, Walked
from pcace_dist.errors import DatasetError
from pcace_dist.packing.class_folders import class_labels, doubts, listed_classes, reasons
from pcace_dist.packing.class_names import is_synset, of_folders
from pcace_dist.packing.source import IMAGE_TYPE, Request, Row, Source, with_class_columns
from pcace_dist.storage.files import Storage, first_line

PEEKED = 256  # samples that are read to find the columns
SEVERAL = "several images in the sample"
TEXTS = ("cls", "txt", "json")
Members = list[tuple[str, bytes]]
"""(suffix, bytes) of the members of a sample."""


def open_webdataset(walked: Walked, request: Request) -> Source:
    """WebDataset tars: members whose names differ only in suffix are a sample; the suffix begins at the first dot.

    The columns are the image, `.cls` as `label`, `.txt` as `text`, and the plain values of `.json`. They come from the
    first samples; values that do not fit them are faults. ImageNet's own tars, one for each class (`n01440764.tar`),
    hold images only: their names are the classes.
    """
    storage, classes, reading, source = request.storage, request.classes, request.reading, walked.root
    entries, walked = walked.only("tar", "not a tar file")
    if not entries:
        raise DatasetError(f"{source}: holds no tar file ({', '.join(TAR_SUFFIXES)})")
    tars = [entry.file for entry in entries]
    plain = TarSlice(tuple((entry.file.url, entry.key, None) for entry in entries), None, reading.image_key)
    peeked, notes = _peek(plain, source, storage)
    schema = _schema_of([_cells(row) for row in peeked])
    stems = [_tar_stem(f.url) for f in tars]
    labels: dict[str, int] = {}
    notes = [*walked.notes, *notes]
    if schema.names == ["image"] and all(map(is_synset, stems)):
        folders = sorted(set(stems))
        classes = classes or listed_classes(folders, source, storage, notes) or of_folders(folders)
        notes += doubts(folders, source) if classes.origin is None else []
        labels = class_labels(folders, Counter(stems), classes, source)
        schema = pa.schema([*schema, pa.field("label", pa.int64())])
    items = TarSlice(
        tuple((entry.file.url, entry.key, labels.get(stem)) for entry, stem in zip(entries, stems, strict=True)),
        schema,
        reading.image_key,
    )
    opened = Source(
        "webdataset",
        schema,
        identity_of(tars, source),
        [f.size for f in tars],
        lambda start, stop: replace(items, tars=items.tars[start:stop]),
        counted=False,
        notes=tuple(notes),
        left_out=walked.left_out,
        labels=labels,
    )
    return with_class_columns(opened, classes, source) if labels and classes else opened


def _peek(plain: TarSlice, source: str, storage: Storage) -> tuple[list[Row], list[str]]:
    """The first samples, and remarks. Raises DatasetError where it is not clear which member is the image."""
    peeked: list[Row] = []
    faults: list[Skipped] = []
    for row in itertools.islice(plain.rows(storage), 20 * PEEKED):
        if isinstance(row, Skipped):
            faults.append(row)
            if row.reason.startswith(SEVERAL):
                raise DatasetError(f"{row}; choose it with --image-key")
            continue
        peeked.append(row)
        if len(peeked) == PEEKED:
            break
    if not peeked:
        raise DatasetError(f"{source}: no sample with an image among the first of {plain.tars[0][0]}{reasons(faults)}")
    dropped = sorted({name for row in peeked for name in row.dropped})
    notes = [f"lists and objects of .json are not packed: {', '.join(dropped)}"] if dropped else []
    cut_path = next((row.path for row in peeked if row.path.rpartition("/")[2].count(".") > 1), None)
    if cut_path is not None:
        notes.append(f"a sample's name ends at its first dot: {_cut(cut_path)}")
    return peeked, notes


def _cut(path: str) -> str:
    name, _, suffix = path.rpartition("/")[2].partition(".")
    return f"{name!r} has the image '.{suffix}'"


@dataclass(frozen=True)
class TarSlice:
    """Tars: URL, key, and the class index of all samples, or None. `schema`: the samples must fit it; None accepts any
    columns."""

    tars: tuple[tuple[str, str, int | None], ...]
    schema: pa.Schema | None = None
    image_key: str | None = None

    def rows(self, storage: Storage) -> Iterator[Row | Skipped]:
        for url, key, label in self.tars:
            for row in _tar_rows(url, key, storage, self.image_key):
                if isinstance(row, Skipped):
                    yield row
                    continue
                if label is not None:
                    row = Row(row.path, row.data, {**_cells(row), "label": label})
                yield row if self.schema is None else _fit(row, self.schema)


def _tar_rows(url: str, key: str, storage: Storage, image_key: str | None) -> Iterator[Row | Skipped]:
    """Samples of one tar, streamed; nothing is extracted to disk. Raises DatasetError where the storage fails, so that
    this does not look like a broken tar."""
    try:
        with storage.open(url) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            for sample in _samples(tar, key):
                if isinstance(sample, Skipped):
                    yield sample
                else:
                    name, members = sample
                    yield from _sample(f"{key}/{name}", dict(members), image_key)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, LZMAError) as error:
        yield Skipped(key, f"broken tar file ({first_line(error)})")
    except OSError as error:
        raise DatasetError(f"{url}: cannot be read to its end ({first_line(error)}); try again") from None


def _samples(tar: tarfile.TarFile, key: str) -> Iterator[tuple[str, Members] | Skipped]:
    """(name, its members) of each sample, and a fault for each member that belongs to no sample.

    Raises DatasetError where other members stand between those of a sample: its image would be packed without its
    label.
    """
    name, members = "", Members()
    seen: set[str] = set()
    for member in tar:
        if member.isdir():
            continue
        path = utf8_name(member.name)
        sample, suffix = _sample_key(path), _sample_suffix(path)
        if members and sample != name:
            yield name, members
            members = []
        if (reason := _unfit(member, {suffix_known for suffix_known, _ in members}, suffix)) is not None:
            yield Skipped(f"{key}/{path}", reason)
            continue
        if not members and sample in seen:
            raise DatasetError(
                f"{key}: the members of sample {sample!r} do not follow one another; sort the tar by name "
                "(tar --sort=name)"
            )
        seen.add(sample)
        name = sample
        members.append((suffix, _content(tar, member)))
    if members:
        yield name, members


def _unfit(member: tarfile.TarInfo, suffixes: set[str], suffix: str) -> str | None:
    """Why a member cannot be part of a sample; None where it can."""
    if is_hidden(member.name):
        return HIDDEN
    if not member.isfile():
        return f"{SPECIAL} (a link)" if member.issym() or member.islnk() else SPECIAL
    return f"a second member of this name in the sample (.{suffix})" if suffix in suffixes else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return b"" if content is None else content.read()


def _sample(name: str, members: Mapping[str, bytes], image_key: str | None) -> Iterator[Row | Skipped]:
    """The sample's row, and a fault for each member that is not in it; or a fault for the whole sample."""
    images = _images_of(members, image_key)
    if len(images) != 1:
        several = f"{SEVERAL} ({', '.join(images)})"
        yield Skipped(name, several if images else f"no image in the sample{f' ({image_key})' if image_key else ''}")
        return
    (image,) = images
    cells: dict[str, Any] = {}
    dropped: tuple[str, ...] = ()
    try:
        if "cls" in members:
            cells["label"] = int(members["cls"])
        if "txt" in members:
            cells["text"] = members["txt"].decode()
        if "json" in members:
            values = json.loads(members["json"])
            plain = {k: v for k, v in values.items() if k != "image" and isinstance(v, str | int | float | bool | None)}
            cells = {**plain, **cells}
            dropped = tuple(k for k in values if k != "image" and k not in plain)
    except (ValueError, AttributeError, RecursionError) as error:
        yield Skipped(name, f"unreadable cls, txt or json ({first_line(error)})")
        return
    yield Row(_member(name, image), members[image], cells, dropped)
    for suffix in members:
        if suffix not in (image, *TEXTS):
            yield Skipped(_member(name, suffix), f"a member that is not the image, cls, txt or json (.{suffix})")


def _member(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if suffix else name


def _images_of(members: Mapping[str, bytes], image_key: str | None) -> list[str]:
    """Suffixes of the members that may be the image: the one in `image_key`; else those that are a plain image suffix;
    else those that end in one; else those that are images by their first bytes."""
    if image_key is not None:
        return [key for key in re.split("[;,]", image_key.lower()) if key in members][:1]
    with_suffix = [suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    exact = [suffix for suffix in with_suffix if "." not in suffix]
    other_members = (suffix for suffix in members if suffix not in TEXTS)
    return (
        exact or with_suffix or [suffix for suffix in other_members if kind_of_head(members[suffix][:HEAD]) == "image"]
    )


def _cells(row: Row) -> dict[str, Any]:
    assert isinstance(row.cells, dict)
    return row.cells


def _schema_of(samples: list[dict[str, Any]]) -> pa.Schema:
    """Columns of the first samples, in the order of their appearance."""
    fields = [pa.field("image", IMAGE_TYPE)]
    for name in dict.fromkeys(name for cells in samples for name in cells):
        try:
            dtype = pa.array([cells.get(name) for cells in samples]).type
        except (pa.ArrowException, OverflowError):  # values of several types, or too large
            dtype = pa.string()
        fields.append(pa.field(name, pa.string() if pa.types.is_null(dtype) else dtype))
    return pa.schema(fields)


def _fit(row: Row, schema: pa.Schema) -> Row | Skipped:
    """The row with exactly the schema's columns."""
    fitted = {}
    for column in schema:
        if column.name == "image":
            continue
        value = _cells(row).get(column.name)
        if pa.types.is_string(column.type) and value is not None:
            value = str(value)
        try:
            pa.scalar(value, column.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return Skipped(row.path, f"{column.name} {value!r} is not {column.type} as in the first samples")
        fitted[column.name] = value
    return Row(row.path, row.data, fitted)


def _sample_key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample_suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _tar_stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]
