"""Units of work: groups of row groups, named by their content. Pure; no I/O, no Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pcace_dist.datasets.listing import DataFile, Listing
from pcace_dist.errors import DatasetError

UNIT_ROWS = (128, 1024)  # least and most rows of a unit; in between, 1/64 of the data set
UNIT_BYTES = 64 << 20  # a unit reads about this much at most


@dataclass(frozen=True)
class RowGroupRef:
    """One row group of one file; `first_row` is the row in the file at which it begins."""

    url: str
    key: str
    size: int
    version: str
    row_group: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class Unit:
    """Row groups that are read, computed and counted together. `id` is a digest of what they hold, not of where they
    lie.
    """

    id: str
    row_groups: tuple[RowGroupRef, ...]
    rows: int

    @classmethod
    def of(cls, row_groups: Sequence[RowGroupRef]) -> Unit:
        """The unit of these row groups, in this order."""
        content = [[ref.key, ref.size, ref.version, ref.row_group, ref.rows] for ref in row_groups]
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        return cls(digest, tuple(row_groups), sum(ref.rows for ref in row_groups))

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which from_json makes the same unit."""
        return {"id": self.id, "rows": self.rows, "pieces": [asdict(ref) for ref in self.row_groups]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Unit:
        """The unit that to_json wrote. Raises ValueError if the id does not match the content."""
        unit = cls.of([RowGroupRef(**entry) for entry in data["pieces"]])
        if unit.id != data["id"]:
            raise ValueError(f"unit {data['id']}: its content gives the id {unit.id}")
        return unit


def row_groups_of(file: DataFile) -> Iterator[RowGroupRef]:
    """The row groups of a file that hold rows."""
    first = 0
    for index, rows in enumerate(file.row_groups):
        if rows:
            yield RowGroupRef(file.url, file.key, file.size, file.version, index, first, rows)
        first += rows


def listed_row_groups(listing: Listing) -> list[RowGroupRef]:
    """The row groups of all files that hold rows, in the listing's order."""
    return [ref for file in listing.files for ref in row_groups_of(file)]


def data_digest(row_groups: Iterable[RowGroupRef]) -> str:
    """A name of the data in some row groups, whatever their order. Equal digests mean the same files and versions."""
    content = sorted([ref.key, ref.size, ref.version, ref.row_group, ref.rows] for ref in set(row_groups))
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def make_units(listing: Listing, rows_per_unit: int) -> tuple[Unit, ...]:
    """Split a listing into units of at most `rows_per_unit` rows.

    Row groups are never split: one that is larger is a unit of its own. A file of at least `rows_per_unit` rows shares
    no unit with another file, so that its units stay the same when other files are added or removed. Smaller files are
    joined.
    """
    if rows_per_unit < 1:
        raise ValueError(f"rows_per_unit must be at least 1, not {rows_per_unit}")
    units: list[Unit] = []
    gathered: list[RowGroupRef] = []

    def flush() -> None:
        if gathered:
            units.append(Unit.of(gathered))
            gathered.clear()

    for file in listing.files:
        alone = sum(file.row_groups) >= rows_per_unit
        if alone:
            flush()
        for ref in row_groups_of(file):
            if gathered and sum(other.rows for other in gathered) + ref.rows > rows_per_unit:
                flush()
            gathered.append(ref)
        if alone:
            flush()
    flush()
    return tuple(units)


def rows_per_unit(listing: Listing) -> int:
    """Depends on the data set only, never on the cluster: a retry on more workers has the same units."""
    bytes_per_row = max(1, sum(file.size for file in listing.files) // max(1, listing.rows))
    least, most = UNIT_ROWS
    return max(1, min(max(least, min(most, listing.rows // 64)), UNIT_BYTES // bytes_per_row))


def located(units: Iterable[Unit], listing: Listing) -> Iterator[Unit]:
    """The same units with the URLs of the listing: the data may have moved since a unit was recorded.

    A file is known by its key, size and version. Row groups of files that are not in the listing stay as they are.
    """
    urls = {(file.key, file.size, file.version): file.url for file in listing.files}
    for unit in units:
        row_groups = (replace(ref, url=urls.get((ref.key, ref.size, ref.version), ref.url)) for ref in unit.row_groups)
        yield replace(unit, row_groups=tuple(row_groups))


def check_unchanged(units: Iterable[Unit], listing: Listing) -> None:
    """Raise DatasetError when a file of a unit is gone or has changed. Files that were added later are ignored."""
    files = {file.key: file for file in listing.files}
    for unit in units:
        for ref in unit.row_groups:
            file = files.get(ref.key)
            if file is None:
                raise DatasetError(
                    f"dataset.path: {ref.key} is gone since the run began; put it back, or use a new output"
                )
            if (file.size, file.version) != (ref.size, ref.version):
                raise DatasetError(
                    f"dataset.path: {ref.key} has changed since the run began ({_state(ref)}, now {_state(file)});"
                    " restore it, or use a new output"
                )


def _state(file: RowGroupRef | DataFile) -> str:
    return f"{file.size} bytes, version {file.version}"
