"""References to rows, and records of rows that were set aside (bad_rows.parquet). Plain data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from pcace_dist.errors import RowError


@dataclass(frozen=True, slots=True)
class RowRef:
    """Where a row lies: the file's key, its row group, its row in the file (from 0) and its id."""

    file: str
    row_group: int
    row: int
    id: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was set aside, or a whole row group of `rows` rows: then `row` and `id` are None."""

    file: str
    row_group: int
    row: int | None
    id: str | None
    stage: str
    reason: str
    rows: int = 1

    @classmethod
    def of(cls, ref: RowRef, error: RowError) -> BadRow:
        """The record of one row that failed with `error`."""
        return cls(ref.file, ref.row_group, ref.row, ref.id, error.stage, error.reason)
