"""What a data set says of itself: its columns, and which are image, label, numbers, and candidates for fold_by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
from torch import Tensor

from pcace_dist.datasets.columns import DatasetSpec, is_image_struct, plain_type
from pcace_dist.datasets.formats import IMAGE_SUFFIXES, kind_of_name
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.listing import Listing, NoParquet, find_files, list_dataset
from pcace_dist.datasets.loader import spread
from pcace_dist.datasets.row_groups import RowGroup, read_row_groups
from pcace_dist.datasets.stored_parquet import StoredParquet
from pcace_dist.datasets.units import listed_row_groups
from pcace_dist.datasets.values.labels import is_text
from pcace_dist.datasets.values.partitions import partition_types
from pcace_dist.errors import DatasetError, RowError
from pcace_dist.packing.csv_table import read_table
from pcace_dist.run.read_data import open_any
from pcace_dist.storage.files import Storage, StoredFile

LABELS = ("label", "labels", "class", "target", "category", "fine_label", "y")
TOGETHER = re.compile(
    r"(^|_)(photo|video|clip|scene|street|panorama|patient|subject|series|study|place|camera|location|session|track|"
    r"sequence|source|author|writer|group)(_?id)?$",
    re.IGNORECASE,
)
SEEN = 16  # images that are decoded, to see their size


@dataclass(frozen=True)
class DataLook:
    """kind: Parquet, images or CSV. image: the column with the images. columns: types of all columns by name. label,
    together: columns that are probably the class, and what images of one thing share. vectors: lists of numbers.
    images: some of them, decoded as they are, uint8 (C, H, W), RGB."""

    kind: str
    rows: int
    image: str
    columns: Mapping[str, pa.DataType]
    label: str | None
    largest_label: int | None
    together: str | None
    images: tuple[Tensor, ...]

    @property
    def numbers(self) -> list[str]:
        """Columns of numbers that are no label, fractions first."""
        numeric = (pa.types.is_floating, pa.types.is_integer)
        found = [name for is_ in numeric for name, kind in self.columns.items() if is_(kind)]
        return [name for name in found if name != self.label]

    @property
    def vectors(self) -> list[str]:
        """Columns of lists of numbers."""
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        return [
            name
            for name, kind in self.columns.items()
            if any(is_(kind) for is_ in lists) and pa.types.is_floating(kind.value_type)
        ]

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) where all images that were looked at are of one size."""
        sizes = {(int(image.shape[1]), int(image.shape[2])) for image in self.images}
        return sizes.pop() if len(sizes) == 1 else None


def look_at_data(path: str, storage: Storage, scratch: str, label: str | None = None) -> DataLook:
    """label: the column that is said to be the class. A list of images is written below `scratch`. Raises
    DatasetError."""
    kind, image, columns = _columns(path, storage)
    found = label or _label_among(columns)
    opened = open_any(DatasetSpec([path], image=image, label=found), storage, scratch, None)
    listing = opened.listing
    if not columns:  # a list of images is there only now
        columns = _schema_of(listing, storage)
        found = label or _label_among(columns)
        listing = list_dataset(replace(opened.dataset, label=found), storage)
    return DataLook(
        kind=kind,
        rows=listing.rows,
        image=image,
        columns={name: kind for name, kind in columns.items() if name != image},
        label=found,
        largest_label=None if listing.labels is None else _whole(listing.labels.high),
        together=next((name for name in columns if TOGETHER.search(name) and name != found), None),
        images=_some_images(listing, replace(opened.dataset, label=None), storage),
    )


def _columns(path: str, storage: Storage) -> tuple[str, str, dict[str, pa.DataType]]:
    """Kind of data, the column of images, and the types of all columns, those that folders name too; none before a list
    of images is made."""
    if kind_of_name(path) == "csv":
        table, _ = read_table(storage.read_bytes(path), path, "utf-8", {}, "image")
        return "CSV", _paths_column(table, path), {}
    try:
        files, _ = find_files([path], storage)
    except NoParquet as error:
        if error.has_images:
            return "images", "image", {}
        raise
    key, file = next(iter(files.items()))
    columns = partition_types(files) | _types(StoredParquet(file, storage).schema)
    images = [name for name, kind in columns.items() if is_image_struct(kind) or pa.types.is_binary(kind)]
    images += [name for name, kind in columns.items() if pa.types.is_large_binary(kind)]
    if not images:
        raise DatasetError(
            f"--data {path}: no column of {key} holds images (binary, or struct<bytes, path>); it has "
            f"{', '.join(f'{name} ({kind})' for name, kind in columns.items())}"
        )
    return "Parquet", "image" if "image" in images else images[0], columns


def _paths_column(table: pa.Table, path: str) -> str:
    """The column of a CSV whose values are names of images."""
    for name in table.column_names:
        first = next((value for value in table[name].to_pylist() if value is not None), None)
        if isinstance(first, str) and first.lower().endswith(tuple(IMAGE_SUFFIXES)):
            return str(name)
    raise DatasetError(f"--data {path}: no column names image files; it has {', '.join(table.column_names)}")


def _schema_of(listing: Listing, storage: Storage) -> dict[str, pa.DataType]:
    file = listing.files[0]
    return _types(StoredParquet(StoredFile(file.url, file.size, file.version), storage).schema)


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    return {field.name: plain_type(field.type) for field in schema}


def _label_among(columns: Mapping[str, pa.DataType]) -> str | None:
    return next((name for name in LABELS if _may_be_label(columns.get(name))), None)


def _may_be_label(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_integer(kind) or is_text(kind) or pa.types.is_boolean(kind))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _some_images(listing: Listing, dataset: DatasetSpec, storage: Storage) -> tuple[Tensor, ...]:
    """A few images of a few row groups, evenly chosen, decoded as they are."""
    row_groups = listed_row_groups(listing)
    chosen = spread([ref.rows for ref in row_groups], SEEN, 4)
    images: list[Tensor] = []
    for group in read_row_groups([row_groups[place] for place in chosen], dataset, storage):
        if isinstance(group, RowGroup):
            images += _decoded(group, dataset.image)
    if not images:
        raise DatasetError(f"--data {dataset.path[0]}: none of the first images can be decoded")
    return tuple(images)


def _decoded(group: RowGroup, image: str) -> list[Tensor]:
    column = group.table.column(image)
    step = max(1, len(column) // 4)
    images = []
    for value in column.take(pa.array(range(0, len(column), step))):
        try:
            images.append(decode(value.as_py(), ImageSpec()))
        except RowError:
            continue
    return images
