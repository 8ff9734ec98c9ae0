"""A row is found by its id, in whatever row group it is; near ids are named for one that no row has."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.notebook.pictures import LocalRows
from pcace_dist.artifacts.reading.ids import find_row
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import Storage


@pytest.fixture
def source(tmp_path: Path) -> LocalRows:
    """Two files of 10 rows in groups of 4: ids street-0 to street-19, where the filter leaves the even ones."""
    for file in range(2):
        rows = range(10 * file, 10 * file + 10)
        columns = {
            "image": [b"x"] * 10,
            "name": [f"street-{row}" for row in rows],
            "even": [row % 2 == 0 for row in rows],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{file}.parquet", row_group_size=4)
    spec = DatasetSpec(path=[str(tmp_path)], filter={"even": True})
    return LocalRows(spec, ImageSpec(), Storage())


def test_by_column(source: LocalRows) -> None:
    assert find_row(source, "street-16", "name") == ("1.parquet", 1, 6)
    assert find_row(source, "street-0", "name") == ("0.parquet", 0, 0)


def test_by_file_and_row_with_and_without_a_column(source: LocalRows) -> None:
    for column in (None, "name"):
        assert find_row(source, "1.parquet#9", column) == ("1.parquet", 2, 9)


@pytest.mark.parametrize(
    "id, column, message",
    [
        ("stret-16", "name", r"stret-16: is no file, and no row .* has this id; did you mean street-16"),
        ("street-17", "name", "did you mean street-1"),  # the filter leaves it out
        ("zzz", "name", "ids are like street-0, street-2"),
        ("2.parquet#3", None, "did you mean [01].parquet#"),
        ("1.parquet#10", None, "1.parquet#10: this file has 10 rows, from 0 to 9"),
        ("1.parquet#x", None, "has this id"),
        (f"1.parquet#{'9' * 5000}", None, "has this id"),
    ],
)
def test_an_id_that_no_row_has(source: LocalRows, id: str, column: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        find_row(source, id, column)
