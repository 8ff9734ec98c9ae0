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
    """Row groups that are read, computed and counted together. `id` is a digest of their content, not of
    their location.
    """

    id: str
    pieces: tuple[RowGroupRef, ...]
    rows: int

    @classmethod
    def of(cls, pieces: Sequence[RowGroupRef]) -> Unit:
        """The unit of these pieces, in this order."""
        content = [[p.key, p.size, p.version, p.row_group, p.rows] for p in pieces]
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        return cls(digest, tuple(pieces), sum(p.rows for p in pieces))

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which from_json makes the same unit."""
        return {"id": self.id, "rows": self.rows, "pieces": [asdict(piece) for piece in self.pieces]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Unit:
        """The unit that to_json wrote. Raises ValueError if the id does not match the content."""
        unit = cls.of([RowGroupRef(**piece) for piece in data["pieces"]])
        if unit.id != data["id"]:
            raise ValueError(f"unit {data['id']}: its content gives the id {unit.id}")
        return unit


def pieces_of(file: DataFile) -> Iterator[RowGroupRef]:
    """The row groups of a file that hold rows."""
    first = 0
    for index, rows in enumerate(file.row_groups):
        if rows:
            yield RowGroupRef(file.url, file.key, file.size, file.version, index, first, rows)
        first += rows


def data_digest(pieces: Iterable[RowGroupRef]) -> str:
    """Name of the data that some row groups hold, in any order: equal digests, the same files in the same versions."""
    content = sorted([p.key, p.size, p.version, p.row_group, p.rows] for p in set(pieces))
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def make_units(listing: Listing, rows_per_unit: int) -> tuple[Unit, ...]:
    """Split a listing into units of at most `rows_per_unit` rows.

    Row groups are never split: one that is larger is a unit of its own. A file of at least `rows_per_unit`
    rows shares no unit with another file, so that files that come or go leave its units as they are; smaller
    ones are joined.
    """
    if rows_per_unit < 1:
        raise ValueError(f"rows_per_unit must be at least 1, not {rows_per_unit}")
    units: list[Unit] = []
    held: list[RowGroupRef] = []

    def flush() -> None:
        if held:
            units.append(Unit.of(held))
            held.clear()

    for file in listing.files:
        alone = sum(file.row_groups) >= rows_per_unit
        if alone:
            flush()
        for piece in pieces_of(file):
            if held and sum(p.rows for p in held) + piece.rows > rows_per_unit:
                flush()
            held.append(piece)
        if alone:
            flush()
    flush()
    return tuple(units)


def rows_per_unit(listing: Listing) -> int:
    """From the data set alone, never from the cluster: a retry on more workers has the same units."""
    bytes_per_row = max(1, sum(file.size for file in listing.files) // max(1, listing.rows))
    least, most = UNIT_ROWS
    return max(1, min(max(least, min(most, listing.rows // 64)), UNIT_BYTES // bytes_per_row))


def located(units: Iterable[Unit], listing: Listing) -> Iterator[Unit]:
    """The same units with the locations that the listing has: data may have moved since a location was recorded.

    A piece is known by its key, size and version. Those that the listing does not have stay as they are.
    """
    urls = {(file.key, file.size, file.version): file.url for file in listing.files}
    for unit in units:
        pieces = (replace(p, url=urls.get((p.key, p.size, p.version), p.url)) for p in unit.pieces)
        yield replace(unit, pieces=tuple(pieces))


def check_unchanged(units: Iterable[Unit], listing: Listing) -> None:
    """Raise DatasetError when a file of a unit is gone or has changed. Files that came later are ignored."""
    files = {file.key: file for file in listing.files}
    for unit in units:
        for piece in unit.pieces:
            file = files.get(piece.key)
            if file is None:
                raise DatasetError(
                    f"dataset.path: {piece.key} is gone since the run began; put it back, or use a new output"
                )
            if (file.size, file.version) != (piece.size, piece.version):
                raise DatasetError(
                    f"dataset.path: {piece.key} has changed since the run began ({_state(piece)}, now {_state(file)});"
                    " restore it, or use a new output"
                )


def _state(file: RowGroupRef | DataFile) -> str:
    return f"{file.size} bytes, version {file.version}"
