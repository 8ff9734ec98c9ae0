"""The kept codes of a finished run: some columns of all its rows, and the codes of one block of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pcace_dist.artifacts.attempt import ChannelBlock
from pcace_dist.artifacts.codes.columns import block_columns, codes_of_block
from pcace_dist.artifacts.codes.index import INDEX, CodesIndex, CodesPart, check_index
from pcace_dist.artifacts.plan_store import read_plan
from pcace_dist.datasets.stored_parquet import StoredParquet, WrongBytes
from pcace_dist.errors import DatasetError
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.storage.files import Changed, Storage, first_line
from pcace_dist.storage.store import open_store

BATCH_ROWS = 16384  # read at a time
FOOTER_BYTES = 64 << 20  # of all files: a footer larger than a file's share of these is read again for each block


@dataclass(frozen=True)
class StoredCodes:
    """The kept codes of a finished run. `url` is the run's output, local or s3://."""

    url: str
    storage: Storage
    index: CodesIndex
    plan: Plan
    schema: pa.Schema
    _files: dict[str, StoredParquet] = field(default_factory=dict, repr=False, compare=False)  # whose footers are held

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Kept columns of the data set by name."""
        return {f.name.removeprefix("column:"): f.type for f in self.schema if f.name.startswith("column:")}

    @property
    def targets(self) -> list[str]:
        return [f.name.removeprefix("target:") for f in self.schema if f.name.startswith("target:")]

    def read_rows(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, part by part."""
        tables = []
        for part in self.index.parts:
            with self._readable(part):
                file = self._open(part)
                tables.append(file.read(range(file.metadata.num_row_groups), columns))
        return pa.concat_tables(tables) if tables else self.schema.empty_table().select(columns)

    def read_block(self, block: ChannelBlock) -> Iterator[LayerCodes]:
        """The codes of one block of channels, a part of the rows after the other, in the order of `read_rows`."""
        names = block_columns(block, self.plan)
        for part in self.index.parts:
            file = self._open(part)
            for groups in _of_rows(file, BATCH_ROWS):
                with self._readable(part):
                    table = file.read(groups, names).combine_chunks()
                yield codes_of_block(table, block, self.plan)

    def _open(self, part: CodesPart) -> StoredParquet:
        """The part's file. Its footer is read once, unless those of all parts would take too much memory: with all
        layers of a large network there are thousands of columns, and hundreds of blocks that ask."""
        file = self._files.get(part.file)
        if file is None:
            file = self._read_footer(part)
            if file.metadata.serialized_size * len(self.index.parts) <= FOOTER_BYTES:
                self._files[part.file] = file
        return file

    def _read_footer(self, part: CodesPart) -> StoredParquet:
        url = f"{self.url}/{part.file}"
        with self._readable(part):
            stored = self.storage.stat(url)
            if stored is None:
                raise FileNotFoundError(f"{url}: no such file")
            if stored.size != part.size:
                raise DatasetError(f"{url}: has {stored.size} bytes, its index says {part.size}")
            file = StoredParquet(stored, self.storage)
            if file.metadata.num_rows != part.rows:
                raise DatasetError(f"{url}: has {file.metadata.num_rows} rows, its index says {part.rows}")
            return file

    @contextmanager
    def _readable(self, part: CodesPart) -> Iterator[None]:
        """An error while a part is read names the part's file."""
        try:
            yield
        except (OSError, WrongBytes, Changed) as error:
            url = f"{self.url}/{part.file}"
            raise DatasetError(f"{url}: the kept codes cannot be read ({first_line(error)})") from error


def open_codes(url: str, storage: Storage) -> StoredCodes | None:
    """The kept codes of the run at `url`; None when there are none."""
    index_url = f"{url.rstrip('/')}/{INDEX}"
    try:
        data = storage.read_bytes(index_url)
    except OSError:
        return None
    index = CodesIndex.from_bytes(data, url=url)
    store = open_store(url, storage)
    check_index(index, data, Ledger(store).load(), index_url)
    plan = read_plan(store, index.plan)
    if not index.parts:
        raise DatasetError(f"{url}: its kept codes hold no rows")
    stored = StoredCodes(url.rstrip("/"), storage, index, plan, pa.schema([]))
    return replace(stored, schema=stored._open(index.parts[0]).schema)


def _of_rows(file: StoredParquet, rows: int) -> Iterator[list[int]]:
    """Row groups of a codes file, about `rows` rows at a time."""
    groups: list[int] = []
    count = 0
    for index in range(file.metadata.num_row_groups):
        groups.append(index)
        count += file.metadata.row_group(index).num_rows
        if count >= rows:
            yield groups
            groups, count = [], 0
    if groups:
        yield groups
