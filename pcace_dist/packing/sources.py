"""What can be packed: image folders, CSV files, MNIST's idx files, WebDataset tars (Parquet: parquet_source.py).

Each function makes a `Source` from a listing, and a portion class that reads a range of its items. Knows nothing of
shards. A source for another format is one more of both, and one more line in `open_source`.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import json
import posixpath
import re
import statistics
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from lzma import LZMAError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pcace_dist.datasets.formats import HEAD, IMAGE_SUFFIXES, PARQUET_SUFFIXES, TAR_SUFFIXES, kind_of_head
from pcace_dist.datasets.paths import Fault, by_reason, identity_of, in_order, is_hidden, parent_of, utf8_name
from pcace_dist.datasets.walk import HIDDEN, SPECIAL, Found, Walked, walk
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.packing.class_names import ClassNames, find_class_names, is_synset, number_folders, of_folders
from pcace_dist.packing.csv_table import read_table
from pcace_dist.packing.idx import read_idx
from pcace_dist.packing.parquet_source import parquet_source
from pcace_dist.packing.source import IMAGE_TYPE, Row, Source, read_image
from pcace_dist.storage.files import Storage, StoredFile, first_line, split

KINDS = ("folder", "csv", "mnist", "webdataset", "parquet")
IMAGES = "-images-idx3-ubyte"
LABELS = "-labels-idx1-ubyte"
SPLITS = {"train", "val", "valid", "validation", "test", "dev"}
PEEKED = 256  # samples of a tar that are looked at to find its columns
SIZED = 64  # images of a CSV file whose sizes are looked up, to know how many make a shard
IMAGE_BYTES = 100_000  # where no size can be looked up
SEVERAL = "several images in the sample"
TEXTS = ("cls", "txt", "json")
NAMED = 3  # files that a remark names

Members = list[tuple[str, bytes]]
"""(suffix, bytes) of the members of a sample."""


@dataclass(frozen=True)
class Reading:
    """What a user says where a source can be read in more than one way.

    `image_key`: which member of a tar's samples is the image (jpg; or `jpg;png`, the first that is there). `encoding`
    and `types` (column -> text or number): of CSV files. `labels`: `order` or `number`, of folders called by numbers.
    `allow_empty_classes`: a class keeps its label though none of its files is packed. `allow_outside`: a CSV may name
    files outside its own folder.
    """

    image_key: str | None = None
    encoding: str = "utf-8"
    types: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    allow_empty_classes: bool = False
    allow_outside: bool = False


def open_source(
    source: str,
    storage: Storage,
    *,
    kind: str | None = None,
    image_column: str = "image",
    classes: ClassNames | None = None,
    reading: Reading | None = None,
) -> Source:
    """The source at a path, URL or glob; its kind is found from what is there. Raises DatasetError, one line."""
    reading = reading or Reading()
    if kind is not None and kind not in KINDS:
        raise DatasetError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    try:
        walked = walk(source, storage)
        kind = kind or _detect(source, walked)
        _check_options(reading, kind, source)
        if kind == "folder":
            return folder_source(walked, storage, classes, reading)
        if kind == "csv":
            opened = csv_source(walked, source, storage, image_column, reading)
        elif kind == "mnist":
            opened = idx_source(walked, source, storage)
        elif kind == "webdataset":
            opened = webdataset_source(walked, storage, classes, reading)
        else:
            opened = _parquet_source(walked, source, storage, image_column)
        return opened if classes is None or opened.classes is not None else _named(opened, classes, source)
    except OSError as error:
        raise DatasetError(first_line(error)) from None


def _check_options(reading: Reading, kind: str, source: str) -> None:
    """Raise DatasetError for an option that would do nothing."""
    for name, value, default, meant in (
        ("--image-key", reading.image_key, None, "webdataset"),
        ("--encoding", reading.encoding, "utf-8", "csv"),
        ("--type", bool(reading.types), False, "csv"),
        ("--allow-outside", reading.allow_outside, False, "csv"),
        ("--labels", reading.labels, None, "folder"),
    ):
        if value != default and kind != meant:
            raise DatasetError(f"{name} is for {meant}; {source} is packed as {kind}")


def _parquet_source(walked: Walked, source: str, storage: Storage, image_column: str) -> Source:
    named = _is_named([one.file for one in walked.files], source)
    found, walked = walked.only("parquet", "not a Parquet file")
    skipped = [one for one in found if "/_" in f"/{one.key}" and not named]
    files = [one.file for one in found if named or "/_" not in f"/{one.key}"]
    if not files:
        raise DatasetError(f"{walked.root}: holds no Parquet file ({' or '.join(PARQUET_SUFFIXES)})")
    opened = parquet_source(files, walked.root, storage, image_column)
    faults = (Fault(one.key, "its name begins with _ (which readers of Parquet skip)") for one in skipped)
    return replace(opened, left_out=(*walked.left_out, *faults), notes=(*walked.notes, *opened.notes))


def _named(opened: Source, classes: ClassNames, source: str) -> Source:
    """The source with its class columns, by the index in `label`."""
    if "label" not in opened.schema.names or not pa.types.is_integer(opened.schema.field("label").type):
        raise DatasetError(f"{source}: --classes needs a column 'label' with class indices; there is none")
    for name in classes.columns():
        if name in opened.schema.names:
            raise DatasetError(f"{source}: has a column {name!r} already; leave --classes out, or rename it")
    return replace(opened, schema=pa.schema([*opened.schema, *classes.fields()]), classes=classes)


# -- image folders


def folder_source(
    walked: Walked, storage: Storage, classes: ClassNames | None = None, reading: Reading | None = None
) -> Source:
    """Images of a folder: class = folder below it, label = the class's place among all the sorted folders.

    With a list of classes (given, or ImageNet's own found beside or above folders named by WordNet ids) the label is
    the place in that list: a part of ImageNet keeps the indices that networks know. Folders are numbered before any
    file is left out, as ImageFolder numbers them with `allow_empty`.
    """
    reading, source = reading or Reading(), walked.root
    images, walked = walked.only("image", "not an image")
    if not images:
        raise DatasetError(f"{source}: holds no image ({', '.join(IMAGE_SUFFIXES)}){_reasons(walked.left_out)}")
    counts = Counter(_class_of(one.key) for one in images if "/" in one.key)
    notes = [*walked.notes, *_by_content(images)]
    labels: dict[str, int] = {}
    if counts:
        folders = [utf8_name(name) for name in walked.folders]
        classes = _classes_of(folders, counts, classes, source, storage, reading, notes)
        labels = _labels(folders, counts, classes, source)
        notes += _empty_classes(labels, counts, walked, reading)
    elif classes is not None:
        raise DatasetError(f"{source}: --classes needs a folder for each class; the images lie in none")
    fields = [pa.field("image", IMAGE_TYPE)]
    fields += [pa.field("label", pa.int64()), *classes.fields()] if classes else []
    entries = tuple(
        (one.key, one.file.url, labels[_class_of(one.key)] if labels and "/" in one.key else None) for one in images
    )
    files = [one.file for one in images]
    return Source(
        "folder",
        pa.schema(fields),
        identity_of(files, source),
        [f.size for f in files],
        lambda start, stop: FolderPortion(entries[start:stop], bool(labels)),
        classes=classes,
        notes=tuple(notes),
        left_out=walked.left_out,
        labels=labels,
        images=counts,
    )


def _class_of(key: str) -> str:
    return key.partition("/")[0]


def _classes_of(
    folders: Sequence[str],
    counts: Mapping[str, int],
    given: ClassNames | None,
    source: str,
    storage: Storage,
    reading: Reading,
    notes: list[str],
) -> ClassNames:
    """The classes of folders: by the list that is given or found, else by the folders themselves."""
    if given is not None and reading.labels is not None:
        raise DatasetError("--labels and --classes: only one of them can number the folders")
    filled = sorted(counts)
    classes = given or _found_classes(filled, source, storage, notes)
    if classes is not None:
        return _with_numbers(classes, folders, counts)
    notes += _doubts(filled, source)
    numbered, remarks = number_folders(folders, reading.labels, source)
    notes += remarks
    return numbered


def _with_numbers(classes: ClassNames, folders: Sequence[str], counts: Mapping[str, int]) -> ClassNames:
    """The list, its keys called as the folders are where these are indices of the list (ImageNet-V2's 0 to 999)."""
    numbers = {int(name): name for name in folders if name in counts and name.isascii() and name.isdigit()}
    indices = len(numbers) == len(counts) and max(numbers) < len(classes.names) and not set(counts) & set(classes.keys)
    return replace(classes, folders=numbers) if indices else classes


def _empty_classes(labels: Mapping[str, int], counts: Mapping[str, int], walked: Walked, reading: Reading) -> list[str]:
    """Remarks on classes without an image. Raises DatasetError where files of one are left out, unless told."""
    by_class: dict[str, list[Fault]] = {}
    for fault in walked.left_out:
        by_class.setdefault(_class_of(fault.name), []).append(fault)
    notes = []
    for folder, label in labels.items():
        if counts.get(folder):
            continue
        faults = [fault for fault in by_class.get(folder, []) if fault.reason != HIDDEN]
        if faults and not reading.allow_empty_classes:
            raise lost_class(walked.root, folder, label, faults)
        notes.append(f"the class {folder!r} has no image{_reasons(faults)}; it keeps its label {label}")
    return notes


def lost_class(source: str, folder: str, label: int, faults: Sequence[Fault]) -> DatasetError:
    """What is said of a class whose files are all left out."""
    return DatasetError(
        f"{source}: no file of the class {folder!r} (label {label}) can be packed{_reasons(faults)}; put images there, "
        "remove the folder, or keep its label without images with --allow-empty-classes"
    )


def _reasons(faults: Sequence[Fault]) -> str:
    """`: 6 link to nothing, 1 not an image`; empty for no faults."""
    counts = (f"{len(names):,} {reason}" for reason, names in by_reason(faults).items())
    return f": {', '.join(counts)}" if faults else ""


def _by_content(images: Sequence[Found]) -> list[str]:
    """A remark on images that their names do not show."""
    named = [one.key for one in images if one.by_content]
    if not named:
        return []
    more = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
    return [f"images that only their first bytes show: {', '.join(named[:NAMED])}{more}"]


@dataclass(frozen=True)
class FolderPortion:
    """Image files: key, URL, class index (None: beside the class folders)."""

    files: tuple[tuple[str, str, int | None], ...]
    labelled: bool

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        def row(file: tuple[str, str, int | None]) -> Row | Fault:
            key, url, label = file
            if self.labelled and label is None:
                return Fault(key, "lies beside the class folders, not in one")
            return read_image(storage, url, key, {"label": label} if self.labelled else {})

        return in_order(row, self.files, storage)


def _found_classes(folders: list[str], source: str, storage: Storage, notes: list[str]) -> ClassNames | None:
    if not all(map(is_synset, folders)):
        return None
    parents = [parent_of(source)]
    for _ in range(3):
        if parents[-1].count("/") <= (3 if "://" in parents[-1] else 1):
            break
        parents.append(parent_of(parents[-1]))
    found = find_class_names(source, storage, parents)
    if found is not None:
        notes.append(f"class names and indices are those of {found.origin}")
    return found


def _doubts(folders: list[str], source: str) -> list[str]:
    """What may be meant otherwise."""
    if all(map(is_synset, folders)) and len(folders) != 1000:
        return [
            f"labels number the {len(folders)} folders; for ImageNet's own 1,000 indices name its list of classes "
            "with --classes LOC_synset_mapping.txt"
        ]
    if set(folders) <= SPLITS:
        return [f"the classes are {', '.join(folders)}; for one of these alone name {source.rstrip('/')}/{folders[0]}"]
    return []


def _labels(folders: Sequence[str], counts: Mapping[str, int], classes: ClassNames, source: str) -> dict[str, int]:
    """Class index of each folder. A folder that holds no image may be missing in a list of classes."""
    places = {folder: index for index, folder in classes.folders.items()}
    for index, key in enumerate(classes.keys):
        places.setdefault(key, index)
    repeated = Counter(classes.keys)
    for folder in folders:
        if folder not in places and counts.get(folder):
            raise DatasetError(
                f"{source}: the folder {folder!r} is no class of {classes.origin}; name the list that has it with "
                "--classes"
            )
        if repeated[folder] > 1:
            raise DatasetError(f"--classes {classes.origin}: {folder!r} stands there more than once")
    return {folder: places[folder] for folder in folders if folder in places}


# -- CSV


def csv_source(walked: Walked, source: str, storage: Storage, image_column: str, reading: Reading) -> Source:
    """Rows of a CSV file: a column of image paths (from the CSV's folder, or URLs), and the others with their types."""
    files = [one.file for one in walked.files]
    if not _is_named(files, source):
        raise DatasetError(f"{source}: is a folder; name the CSV file")
    table, notes = read_table(storage.read_bytes(source), source, reading.encoding, reading.types, image_column)
    names = table.column_names
    if image_column not in names:
        near = difflib.get_close_matches(image_column, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, names))}"
        raise DatasetError(f"{source}: no column {image_column!r} with the image paths; {hint}")
    if image_column != "image" and "image" in names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    folder = parent_of(source)
    if not reading.allow_outside:
        _check_inside(table[image_column], folder, source)
    others = [table.schema.field(name) for name in names if name != image_column]
    size = _usual_size(table[image_column], folder, storage)
    return Source(
        "csv",
        pa.schema([pa.field("image", IMAGE_TYPE), *others]),
        identity_of(files, source),
        [size] * table.num_rows,
        lambda start, stop: CsvPortion(table.take(pa.array(range(start, stop))), image_column, source, folder, start),
        notes=tuple(notes),
    )


def _check_inside(paths: pa.ChunkedArray, folder: str, source: str) -> None:
    """Raises DatasetError where a row names a file outside the CSV's own folder: a CSV of unknown origin must not make
    private files part of a data set."""
    outside = {path for path in pc.unique(paths).to_pylist() if path and not _lies_in(_image_url(path, folder), folder)}
    if not outside:
        return
    rows = [row for row, path in enumerate(paths.to_pylist()) if path in outside]
    raise DatasetError(
        f"{source}: {len(rows):,} of {len(paths):,} rows name files outside {folder}, the first is row {rows[0]}: "
        f"{paths[rows[0]].as_py()}; --allow-outside packs them"
    )


def _lies_in(url: str, folder: str) -> bool:
    scheme, path = split(url)
    base_scheme, base = split(folder)
    return scheme == base_scheme and posixpath.normpath(path).startswith(base.rstrip("/") + "/")


@dataclass(frozen=True)
class CsvPortion:
    """Rows of a CSV file from row `first`."""

    table: pa.Table
    image_column: str
    source: str
    folder: str
    first: int

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        def row(numbered: tuple[int, dict[str, Any]]) -> Row | Fault:
            number, values = numbered
            path = values.pop(self.image_column)
            if not path or "\0" in path:
                return Fault(f"{self.source} row {number}", "names no image")
            return read_image(storage, _image_url(path, self.folder), path, values)

        return in_order(row, enumerate(self._values(), self.first), storage)

    def _values(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


def _image_url(path: str, folder: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{folder}/{path}"


def _usual_size(paths: pa.ChunkedArray, folder: str, storage: Storage) -> int:
    """Mean size of some of the images, evenly spread: a listing of them all may be impossible or take hours."""
    step = max(1, len(paths) // SIZED)
    names = [path for path in paths[::step].to_pylist() if path and "\0" not in path]

    def size(name: str) -> int:
        try:
            found = storage.stat(_image_url(name, folder))
        except (OSError, JobError):
            return 0
        return found.size if found else 0

    sizes = [found for found in in_order(size, names, storage) if found]
    return max(1, int(statistics.fmean(sizes))) if sizes else IMAGE_BYTES


# -- MNIST


def idx_source(walked: Walked, source: str, storage: Storage) -> Source:
    """MNIST idx files, gzipped or plain: images as PNG, labels; a column `split` where there is more than one set."""
    files = [one.file for one in walked.files]
    by_name = {_stem(f.url): f for f in files}
    named = _is_named(files, source)
    if named:  # the other file lies beside it
        beside = storage.list(parent_of(source))
        by_name = {_stem(f.url): f for f in beside if _stem(f.url).partition("-")[0] == _stem(source).partition("-")[0]}
    names = sorted(name.removesuffix(IMAGES) for name in by_name if name.endswith(IMAGES))
    if not names:
        raise DatasetError(f"{source}: holds no idx images (like train{IMAGES}.gz)")
    for name in names:
        if name + LABELS not in by_name:
            raise DatasetError(f"{source}: no {name}{LABELS} beside {name}{IMAGES}")
    sets, sizes = [], []
    for name in names:
        found = IdxSet(utf8_name(name), by_name[name + IMAGES].url, by_name[name + LABELS].url)
        images, labels = found.read(storage)
        if len(images) != len(labels):
            raise DatasetError(f"{source}: {len(images)} images but {len(labels)} labels in {name}")
        sets.append(replace(found, count=len(images)))
        sizes += [images[0].size if len(images) else 0] * len(images)
    fields = [pa.field("image", IMAGE_TYPE), pa.field("label", pa.int64())]
    fields += [pa.field("split", pa.string())] if len(sets) > 1 else []
    used = [by_name[name + suffix] for name in names for suffix in (IMAGES, LABELS)]
    return Source(
        "mnist",
        pa.schema(fields),
        identity_of(used, source),
        sizes,
        lambda start, stop: IdxPortion(tuple(sets), start, stop),
        notes=walked.notes,
        left_out=walked.left_out if named else (*walked.left_out, *_no_idx(walked, used)),
    )


def _no_idx(walked: Walked, used: Sequence[StoredFile]) -> Iterator[Fault]:
    urls = {file.url for file in used}
    for one in walked.files:
        if one.file.url not in urls:
            yield Fault(one.key, "not an idx file of the images and labels")


@dataclass(frozen=True)
class IdxSet:
    """A file of images, the file of their labels, and how many there are."""

    name: str
    images: str
    labels: str
    count: int = 0

    def read(self, storage: Storage) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return _read_idx(self.images, 3, "images", storage), _read_idx(self.labels, 1, "labels", storage)


@dataclass(frozen=True)
class IdxPortion:
    """Images `start` to `stop` of the sets one after another."""

    sets: tuple[IdxSet, ...]
    start: int
    stop: int

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        before = 0
        for one in self.sets:
            first, last = max(0, self.start - before), min(one.count, self.stop - before)
            before += one.count
            if first >= last:
                continue
            images, labels = one.read(storage)
            extra = {"split": one.name} if len(self.sets) > 1 else {}
            for index in range(first, last):
                buffer = io.BytesIO()
                Image.fromarray(images[index]).save(buffer, "PNG")
                cells = {"label": int(labels[index]), **extra}
                yield Row(f"{one.name}/{index:05d}.png", buffer.getvalue(), cells)


def _read_idx(url: str, axes: int, what: str, storage: Storage) -> np.ndarray[Any, Any]:
    array = read_idx(storage.read_bytes(url), url)
    if array.ndim != axes or array.dtype.itemsize != 1:
        raise DatasetError(f"{url}: not {what} of MNIST's kind")
    return array


# -- WebDataset tars


def webdataset_source(
    walked: Walked, storage: Storage, classes: ClassNames | None = None, reading: Reading | None = None
) -> Source:
    """WebDataset tars: members of one name but for their suffixes are a sample; a name ends at its first dot.

    The image, `.cls` as `label`, `.txt` as `text`, and the plain values of `.json` as columns. The columns
    are those of the first samples; values that do not fit them are faults. ImageNet's own tars, one for each class
    (`n01440764.tar`), hold images only: their names are the classes.
    """
    reading, source = reading or Reading(), walked.root
    found, walked = walked.only("tar", "not a tar file")
    if not found:
        raise DatasetError(f"{source}: holds no tar file ({', '.join(TAR_SUFFIXES)})")
    tars = [one.file for one in found]
    plain = TarPortion(tuple((one.file.url, one.key, None) for one in found), None, reading.image_key)
    peeked, notes = _peek(plain, source, storage)
    schema = _schema_of([_cells(row) for row in peeked])
    stems = [_tar_stem(f.url) for f in tars]
    labels: dict[str, int] = {}
    notes = [*walked.notes, *notes]
    if schema.names == ["image"] and all(map(is_synset, stems)):
        folders = sorted(set(stems))
        classes = classes or _found_classes(folders, source, storage, notes) or of_folders(folders)
        notes += _doubts(folders, source) if classes.origin is None else []
        labels = _labels(folders, Counter(stems), classes, source)
        schema = pa.schema([*schema, pa.field("label", pa.int64())])
    portion = TarPortion(
        tuple((one.file.url, one.key, labels.get(stem)) for one, stem in zip(found, stems, strict=True)),
        schema,
        reading.image_key,
    )
    opened = Source(
        "webdataset",
        schema,
        identity_of(tars, source),
        [f.size for f in tars],
        lambda start, stop: replace(portion, tars=portion.tars[start:stop]),
        counted=False,
        notes=tuple(notes),
        left_out=walked.left_out,
        labels=labels,
    )
    return _named(opened, classes, source) if labels and classes else opened


def _peek(plain: TarPortion, source: str, storage: Storage) -> tuple[list[Row], list[str]]:
    """The first samples, and remarks. Raises DatasetError where it is not clear which member is the image."""
    peeked: list[Row] = []
    faults: list[Fault] = []
    for row in itertools.islice(plain.rows(storage), 20 * PEEKED):
        if isinstance(row, Fault):
            faults.append(row)
            if row.reason.startswith(SEVERAL):
                raise DatasetError(f"{row}; choose it with --image-key")
            continue
        peeked.append(row)
        if len(peeked) == PEEKED:
            break
    if not peeked:
        raise DatasetError(f"{source}: no sample with an image among the first of {plain.tars[0][0]}{_reasons(faults)}")
    dropped = sorted({name for row in peeked for name in row.dropped})
    notes = [f"lists and objects of .json are not packed: {', '.join(dropped)}"] if dropped else []
    cut = next((row.path for row in peeked if row.path.rpartition("/")[2].count(".") > 1), None)
    if cut is not None:
        notes.append(f"a sample's name ends at its first dot: {_cut(cut)}")
    return peeked, notes


def _cut(path: str) -> str:
    name, _, suffix = path.rpartition("/")[2].partition(".")
    return f"{name!r} has the image '.{suffix}'"


@dataclass(frozen=True)
class TarPortion:
    """Tars: URL, key, and the class index of all its samples where that is given. `schema`: what the samples must
    fit; None takes them as they are."""

    tars: tuple[tuple[str, str, int | None], ...]
    schema: pa.Schema | None = None
    image_key: str | None = None

    def rows(self, storage: Storage) -> Iterator[Row | Fault]:
        for url, key, label in self.tars:
            for row in _tar_rows(url, key, storage, self.image_key):
                if isinstance(row, Fault):
                    yield row
                    continue
                if label is not None:
                    row = Row(row.path, row.data, {**_cells(row), "label": label})
                yield row if self.schema is None else _fit(row, self.schema)


def _tar_rows(url: str, key: str, storage: Storage, image_key: str | None) -> Iterator[Row | Fault]:
    """Samples of one tar, streamed; nothing is extracted to disk. Raises DatasetError where the storage fails: what
    is left of the tar must not pass for a fault of the tar."""
    try:
        with storage.open(url) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            for sample in _samples(tar, key):
                if isinstance(sample, Fault):
                    yield sample
                else:
                    name, members = sample
                    yield from _sample(f"{key}/{name}", dict(members), image_key)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, LZMAError) as error:
        yield Fault(key, f"broken tar file ({first_line(error)})")
    except OSError as error:
        raise DatasetError(f"{url}: cannot be read to its end ({first_line(error)}); try again") from None


def _samples(tar: tarfile.TarFile, key: str) -> Iterator[tuple[str, Members] | Fault]:
    """(name, its members) of each sample, and a fault for each member that belongs to none.

    Raises DatasetError where the members of a sample do not follow one another: the image would be packed without its
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
        if (reason := _unfit(member, {known for known, _ in members}, suffix)) is not None:
            yield Fault(f"{key}/{path}", reason)
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


def _unfit(member: tarfile.TarInfo, known: set[str], suffix: str) -> str | None:
    """Why a member is no part of a sample."""
    if is_hidden(member.name):
        return HIDDEN
    if not member.isfile():
        return f"{SPECIAL} (a link)" if member.issym() or member.islnk() else SPECIAL
    return f"a second member of this name in the sample (.{suffix})" if suffix in known else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return b"" if content is None else content.read()


def _sample(name: str, members: Mapping[str, bytes], image_key: str | None) -> Iterator[Row | Fault]:
    """The sample's row, and a fault for each member that is not in it; or what is wrong with the sample."""
    images = _images_of(members, image_key)
    if len(images) != 1:
        several = f"{SEVERAL} ({', '.join(images)})"
        yield Fault(name, several if images else f"no image in the sample{f' ({image_key})' if image_key else ''}")
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
        yield Fault(name, f"unreadable cls, txt or json ({first_line(error)})")
        return
    yield Row(_member(name, image), members[image], cells, dropped)
    for suffix in members:
        if suffix not in (image, *TEXTS):
            yield Fault(_member(name, suffix), f"a member that is not the image, cls, txt or json (.{suffix})")


def _member(name: str, suffix: str) -> str:
    return f"{name}.{suffix}" if suffix else name


def _images_of(members: Mapping[str, bytes], image_key: str | None) -> list[str]:
    """Suffixes of the members that may be the image: the one that is asked for; those that are an image's suffix and
    nothing more; with a further dot; by their first bytes."""
    if image_key is not None:
        return [key for key in re.split("[;,]", image_key.lower()) if key in members][:1]
    named = [suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    exact = [suffix for suffix in named if "." not in suffix]
    others = (suffix for suffix in members if suffix not in TEXTS)
    return exact or named or [suffix for suffix in others if kind_of_head(members[suffix][:HEAD]) == "image"]


def _cells(row: Row) -> dict[str, Any]:
    assert isinstance(row.cells, dict)
    return row.cells


def _schema_of(samples: list[dict[str, Any]]) -> pa.Schema:
    """Columns of the first samples, in the order of their appearance."""
    fields = [pa.field("image", IMAGE_TYPE)]
    for name in dict.fromkeys(name for cells in samples for name in cells):
        try:
            kind = pa.array([cells.get(name) for cells in samples]).type
        except (pa.ArrowException, OverflowError):  # of more than one type, or too large for one
            kind = pa.string()
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


def _fit(row: Row, schema: pa.Schema) -> Row | Fault:
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
            return Fault(row.path, f"{column.name} {value!r} is not {column.type} as in the first samples")
        fitted[column.name] = value
    return Row(row.path, row.data, fitted)


def _sample_key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample_suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _tar_stem(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]


# -- what a path is


def _is_named(files: list[StoredFile], source: str) -> bool:
    """True if the source is a file, not a folder."""
    return len(files) == 1 and split(files[0].url) == split(source)


def _detect(source: str, walked: Walked) -> str:
    kinds = Counter(one.kind for one in walked.files)
    if any(_stem(one.file.url).endswith((IMAGES, LABELS)) for one in walked.files):
        return "mnist"
    if kinds["tar"] and kinds["image"]:
        raise DatasetError(
            f"{source}: holds {kinds['image']:,} images and {kinds['tar']:,} tar files; say which to pack with --kind "
            "folder or --kind webdataset"
        )
    if kinds["tar"]:
        return "webdataset"
    if kinds["parquet"] and not kinds["image"]:
        return "parquet"
    if not _is_named([one.file for one in walked.files], source):
        return "folder"
    if kinds["csv"]:
        return "csv"
    raise DatasetError(f"{source}: not a folder, CSV, idx, tar or Parquet file; say which kind it is")


def _stem(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".gz").replace(".idx", "-idx")
