"""Finds a row of a run by its id: a value of the id column, or `<path below the listed root>#<row>`."""

from __future__ import annotations

import difflib
from dataclasses import replace
from itertools import islice

from pcace_dist.artifacts.reading.rows import Ref, RowSource
from pcace_dist.config.choice import short
from pcace_dist.datasets.row_groups import values_of
from pcace_dist.datasets.units import listed_row_groups, row_groups_of
from pcace_dist.errors import DatasetError

LOOKED_AT = 20_000  # ids among which near ones are sought
NEAR = 3
DIGITS = 18  # of a row's number at most


def find_row(source: RowSource, id: str, column: str | None) -> Ref:
    """The row with this id. column: the one that names rows, if there is one.

    Raises DatasetError for an id that no row has, with those that are near, and where the data set is gone.
    """
    names: list[str] = []
    if column is not None:
        spec = replace(source.dataset, id=column)
        for ref, rows, values in values_of(column, listed_row_groups(source.listing), spec, source.storage):
            texts = list(map(str, values))
            if id in texts:
                return ref.key, ref.row_group, int(rows[texts.index(id)])
            names += islice(texts, LOOKED_AT - len(names))
    file, hash_sign, row = id.rpartition("#")
    is_number = row.isdecimal() and len(row) <= DIGITS
    found = _by_number(source, file, int(row)) if hash_sign and is_number else None
    if found is not None:
        return found
    if column is None:
        names = [f"{file.key}#{row}" for file in source.listing.files for row in (0, sum(file.row_groups) - 1)]
    raise DatasetError(f"{short(id)}: is no file, and no row of the run's data has this id{_near(id, names)}")


def _by_number(source: RowSource, file: str, row: int) -> Ref | None:
    for data_file in source.listing.files:
        if data_file.key == file:
            rows = sum(data_file.row_groups)
            if row >= rows:
                raise DatasetError(f"{short(file)}#{row}: this file has {rows:,} rows, from 0 to {rows - 1}")
            refs = (ref for ref in row_groups_of(data_file) if row < ref.first_row + ref.rows)
            return file, next(refs).row_group, row
    return None


def _near(id: str, names: list[str]) -> str:
    near = difflib.get_close_matches(id, names, n=NEAR, cutoff=0.5)
    like = f"did you mean {', '.join(map(short, near))}?" if near else f"ids are like {', '.join(names[:2])}"
    return f"; {like}" if names else ""
