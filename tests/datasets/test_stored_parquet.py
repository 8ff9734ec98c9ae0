"""Which bytes of a Parquet file are fetched for which columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.datasets.stored_parquet import StoredParquet
from pcace_dist.storage.files import Storage

ROWS, GROUPS = 6, 3


@pytest.fixture
def file(tmp_path: Path) -> StoredParquet:
    """Columns whose names begin alike or have dots, and one with leaves of its own; each beyond what is bridged."""
    values = {name: [f"{name}{row}" * 2000 for row in range(ROWS)] for name in ("a", "ab", "a.b", "c:x.1[0:64]")}
    table = pa.table(values | {"s": [{"bytes": b"1" * 20_000, "path": "p"}] * ROWS, "last": [b"2" * 20_000] * ROWS})
    path = tmp_path / "columns.parquet"
    pq.write_table(table, path, row_group_size=ROWS // GROUPS, compression="NONE", use_dictionary=False)
    storage = Storage({})
    stored = storage.stat(str(path))
    assert stored is not None
    return StoredParquet(stored, storage)


@pytest.mark.parametrize(
    ("columns", "leaves"),
    [
        (["ab"], ["ab"]),
        (["a.b"], ["a.b"]),
        (["c:x.1[0:64]"], ["c:x.1[0:64]"]),
        (["s"], ["s.bytes", "s.path"]),
        (["s.bytes"], ["s.bytes"]),
        (["last", "ab"], ["ab", "last"]),
        (["nowhere"], []),
    ],
)
def test_the_chunks_of_a_column_and_of_all_below_it_are_fetched(
    file: StoredParquet, columns: list[str], leaves: list[str]
) -> None:
    group = file.metadata.row_group(1)
    chunks = [chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema in leaves]
    assert sum(size for _, size in file._ranges([1], columns)) == sum(chunk.total_compressed_size for chunk in chunks)
    assert len(chunks) == len(leaves)


def test_what_is_read_is_what_plain_pyarrow_reads(file: StoredParquet) -> None:
    plain = pq.ParquetFile(file.file.url.removeprefix("file://"))
    for columns in (["ab", "s"], ["a.b"], ["c:x.1[0:64]", "last"], ["s.path"]):
        assert file.read([0, 2], columns).equals(plain.read_row_groups([0, 2], columns=columns))
