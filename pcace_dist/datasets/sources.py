"""What can be packed: each source is a schema and a stream of rows, read lazily. Knows nothing of shards.

A source for another format is one more function that makes a `Source`, and one more line in `open_source`.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.csv as pacsv
from PIL import Image

from pcace_dist.datasets.idx import read_idx
from pcace_dist.datasets.storage import Storage, StoredFile, first_line, split
from pcace_dist.errors import DatasetError

KINDS = ("folder", "csv", "mnist", "webdataset")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGES = "-images-idx3-ubyte"
LABELS = "-labels-idx1-ubyte"
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PEEKED = 256  # samples of a tar that are looked at to find its columns
READERS = 16

Row = dict[str, Any]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Something of the source that could not be packed."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """Rows to pack. `identity` names the content; `total` is None where it is not known."""

    kind: str
    schema: pa.Schema
    identity: tuple[tuple[str, int, str], ...]
    total: int | None
    rows: Callable[[], Iterator[Row | Fault]]
    classes: tuple[str, ...] = field(default=())


def open_source(source: str, storage: Storage, *, kind: str | None = None, image_column: str = "image") -> Source:
    """The source at a path or URL; its kind is found from what is there. Raises DatasetError, one line."""
    if kind is not None and kind not in KINDS:
        raise DatasetError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    try:
        file = storage.stat(source)
        files = [file] if file is not None else [f for f in storage.list(source) if not _hidden(f.url, source)]
        if not files:
            raise DatasetError(f"{source}: no such file, or an empty folder")
        kind = kind or _detect(source, file, files)
        if kind == "csv":
            return csv_source(files, source, storage, image_column)
        if kind == "mnist":
            return idx_source(files, source, storage)
        if kind == "webdataset":
            return webdataset_source(files, source, storage)
        return folder_source(files, source, storage)
    except OSError as error:
        raise DatasetError(first_line(error)) from None


def folder_source(files: list[StoredFile], source: str, storage: Storage) -> Source:
    """Images of a folder: class = folder below it, label = the class's place among the sorted ones."""
    images = [f for f in files if f.url.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        raise DatasetError(f"{source}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    keys = [_key(f.url, source) for f in images]
    classes = sorted({key.partition("/")[0] for key in keys if "/" in key})
    labels = {name: index for index, name in enumerate(classes)}
    fields = [pa.field("image", IMAGE_TYPE)]
    fields += [pa.field("label", pa.int64()), pa.field("class", pa.string())] if classes else []

    def row(item: tuple[str, StoredFile]) -> Row | Fault:
        key, file = item
        name, slash, _ = key.partition("/")
        if classes and not slash:
            return Fault(key, "lies beside the class folders, not in one")
        image = _image(storage, file.url, key)
        if isinstance(image, Fault) or not classes:
            return image
        return {**image, "label": labels[name], "class": name}

    return Source(
        "folder",
        pa.schema(fields),
        _identity(images, source),
        len(images),
        lambda: _in_order(row, zip(keys, images, strict=True)),
        tuple(classes),
    )


def csv_source(files: list[StoredFile], source: str, storage: Storage, image_column: str) -> Source:
    """Rows of a CSV file: a column of image paths (from the CSV's folder, or URLs), and the others with their types."""
    if not _is_named(files, source):
        raise DatasetError(f"{source}: is a folder; name the CSV file")
    data = storage.read_bytes(source)
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    try:
        table = pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(strings_can_be_null=True))
    except pa.ArrowException as error:
        raise DatasetError(f"{source}: not a readable CSV file ({first_line(error)})") from None
    names = table.column_names
    if image_column not in names:
        near = difflib.get_close_matches(image_column, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, names))}"
        raise DatasetError(f"{source}: no column {image_column!r} with the image paths; {hint}")
    if image_column != "image" and "image" in names:
        raise DatasetError(f"{source}: the column 'image' is in the way of the packed images; rename it")
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{source}: more than one column {name!r}")
    folder = split_parent(source)
    others = [table.schema.field(name) for name in names if name != image_column]

    def row(values: Row) -> Row | Fault:
        path = values.pop(image_column)
        if path is None or str(path) == "":
            return Fault(f"{source} row {values.pop(_LINE)}", "names no image")
        values.pop(_LINE)
        path = str(path)
        url = path if "://" in path or path.startswith("/") else f"{folder}/{path}"
        image = _image(storage, url, path)
        return image if isinstance(image, Fault) else {**image, **values}

    def values() -> Iterator[Row]:
        numbers = itertools.count()
        for batch in table.to_batches(max_chunksize=1024):
            for values in batch.to_pylist():
                yield {**values, _LINE: next(numbers)}

    return Source(
        "csv",
        pa.schema([pa.field("image", IMAGE_TYPE), *others]),
        _identity(files, source),
        table.num_rows,
        lambda: _in_order(row, values()),
    )


def idx_source(files: list[StoredFile], source: str, storage: Storage) -> Source:
    """MNIST idx files, gzipped or plain: images as PNG, labels; a column `split` where there is more than one set."""
    by_name = {_stem(f.url): f for f in files}
    if _is_named(files, source):  # the other file lies beside it
        beside = storage.list(split_parent(source))
        by_name = {_stem(f.url): f for f in beside if _stem(f.url).partition("-")[0] == _stem(source).partition("-")[0]}
    sets = sorted(name.removesuffix(IMAGES) for name in by_name if name.endswith(IMAGES))
    if not sets:
        raise DatasetError(f"{source}: holds no idx images (like train{IMAGES}.gz)")
    for name in sets:
        if name + LABELS not in by_name:
            raise DatasetError(f"{source}: no {name}{LABELS} beside {name}{IMAGES}")
    loaded = []
    for name in sets:
        pair = []
        for suffix, axes in ((IMAGES, 3), (LABELS, 1)):
            url = by_name[name + suffix].url
            array = read_idx(storage.read_bytes(url), url)
            if array.ndim != axes or array.dtype.itemsize != 1:
                raise DatasetError(f"{url}: not {'images' if axes == 3 else 'labels'} of MNIST's kind")
            pair.append(array)
        if len(pair[0]) != len(pair[1]):
            raise DatasetError(f"{source}: {len(pair[0])} images but {len(pair[1])} labels in {name}")
        loaded.append((name, pair[0], pair[1]))
    fields = [pa.field("image", IMAGE_TYPE), pa.field("label", pa.int64())]
    fields += [pa.field("split", pa.string())] if len(sets) > 1 else []

    def rows() -> Iterator[Row | Fault]:
        for name, images, labels in loaded:
            extra = {"split": name} if len(sets) > 1 else {}
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "PNG")
                path = f"{name}/{index:05d}.png"
                yield {"image": {"bytes": buffer.getvalue(), "path": path}, "label": int(label), **extra}

    used = [by_name[name + suffix] for name in sets for suffix in (IMAGES, LABELS)]
    return Source("mnist", pa.schema(fields), _identity(used, source), sum(len(i) for _, i, _ in loaded), rows)


def webdataset_source(files: list[StoredFile], source: str, storage: Storage) -> Source:
    """WebDataset tars: members of one name but for their suffixes are a sample.

    The image, `.cls` as `label`, `.txt` as `text`, and the plain values of `.json` as columns. The columns
    are those of the first samples; values that do not fit them are faults.
    """
    tars = [f for f in files if f.url.lower().endswith(TAR_SUFFIXES)]
    if not tars:
        raise DatasetError(f"{source}: holds no tar file ({', '.join(TAR_SUFFIXES)})")

    def rows() -> Iterator[Row | Fault]:
        for file in tars:
            yield from _tar_rows(file, source, storage)

    peeked = [row for row in itertools.islice(rows(), PEEKED) if not isinstance(row, Fault)]
    if not peeked:
        raise DatasetError(f"{source}: no sample with an image among the first of {tars[0].url}")
    names = dict.fromkeys(name for row in peeked for name in row if name != "image")
    fields = [pa.field("image", IMAGE_TYPE)]
    for name in names:
        try:
            kind = pa.array([row.get(name) for row in peeked]).type
        except pa.ArrowException:
            kind = pa.string()
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
    schema = pa.schema(fields)

    def fitted() -> Iterator[Row | Fault]:
        for row in rows():
            yield row if isinstance(row, Fault) else _fit(row, schema)

    return Source("webdataset", schema, _identity(tars, source), None, fitted)


_LINE = "\0line"


def _is_named(files: list[StoredFile], source: str) -> bool:
    """True if the source is a file, not a folder."""
    return len(files) == 1 and split(files[0].url) == split(source)


def _detect(source: str, file: StoredFile | None, files: list[StoredFile]) -> str:
    names = [f.url.lower() for f in files]
    if any(_stem(name).endswith((IMAGES, LABELS)) for name in names):
        return "mnist"
    if any(name.endswith(TAR_SUFFIXES) for name in names):
        return "webdataset"
    if file is None:
        return "folder"
    if names[0].endswith((".csv", ".csv.gz")):
        return "csv"
    raise DatasetError(f"{source}: not a folder, CSV, idx or tar file; say which kind it is")


def _image(storage: Storage, url: str, path: str) -> Row | Fault:
    try:
        return {"image": {"bytes": storage.read_bytes(url), "path": path}}
    except OSError as error:
        return Fault(path, first_line(error).removeprefix(f"{url}: "))


def _in_order(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Results of `work` in the order of the items, a few ahead in threads."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-pack") as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) >= 4 * READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _tar_rows(file: StoredFile, source: str, storage: Storage) -> Iterator[Row | Fault]:
    """Samples of one tar, streamed; nothing is extracted to disk."""
    name = _key(file.url, source)
    try:
        with storage.open(file.url) as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            members = (m for m in tar if m.isfile() and not _hidden(m.name, ""))
            for key, group in itertools.groupby(members, key=lambda m: _sample_key(m.name)):
                sample = {_sample_suffix(m.name): _content(tar, m) for m in group}
                yield _sample(f"{name}/{key}", sample)
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Fault(name, f"broken tar file ({first_line(error)})")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return b"" if content is None else content.read()


def _sample(name: str, members: Mapping[str, bytes]) -> Row | Fault:
    image = next((suffix for suffix in members if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES), None)
    if image is None:
        return Fault(name, "no image in the sample")
    row: Row = {"image": {"bytes": members[image], "path": f"{name}.{image}"}}
    try:
        if "cls" in members:
            row["label"] = int(members["cls"])
        if "txt" in members:
            row["text"] = members["txt"].decode()
        if "json" in members:
            values = json.loads(members["json"])
            plain = {k: v for k, v in values.items() if isinstance(v, str | int | float | bool | None)}
            row = {**plain, **row}
    except (ValueError, AttributeError) as error:
        return Fault(name, f"unreadable cls, txt or json ({first_line(error)})")
    return row


def _fit(row: Row, schema: pa.Schema) -> Row | Fault:
    """The row with exactly the schema's columns."""
    fitted = {}
    for column in schema:
        value = row.get(column.name)
        if pa.types.is_string(column.type) and value is not None:
            value = str(value)
        try:
            pa.scalar(value, column.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return Fault(row["image"]["path"], f"{column.name} {value!r} is not {column.type} as in the first samples")
        fitted[column.name] = value
    return fitted


def _sample_key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sample_suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def split_parent(url: str) -> str:
    """The folder a file lies in."""
    scheme, path = split(url)
    parent = path.rpartition("/")[0]
    return (parent or "/") if scheme == "file" else f"{scheme}://{parent}"


def _key(url: str, source: str) -> str:
    base = split(source)[1].rstrip("/")
    path = split(url)[1]
    return path.rpartition("/")[2] if path == base else path[len(base) :].lstrip("/")


def _hidden(url: str, source: str) -> bool:
    key = _key(url, source) if source else url
    return any(part.startswith((".", "_")) for part in key.split("/") if part not in ("", "."))


def _stem(url: str) -> str:
    return url.rpartition("/")[2].removesuffix(".gz").replace(".idx", "-idx")


def _identity(files: Iterable[StoredFile], source: str) -> tuple[tuple[str, int, str], ...]:
    return tuple((_key(f.url, source), f.size, f.version) for f in files)
