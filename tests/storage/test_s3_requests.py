"""What reading costs on S3: which requests are made and how many bytes they bring, counted by a proxy in front of a
real server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import Listing, list_dataset
from pcace_dist.datasets.loader import LoaderOptions, pilot_rows
from pcace_dist.datasets.units import make_units
from pcace_dist.storage.files import Storage
from pcace_dist.storage.sections import Endpoint
from tests.datasets.helpers import png, reader_of, shard
from tests.faults.proxy import Mischief, Proxy, misbehaving
from tests.servers import moto_server

FILES, GROUPS, ROWS = 2, 3, 8  # row groups a file, rows a group
ROOT = "s3://counted/data"
FOOTER = 64 << 10  # what is read from a file's end
HOLE = 8 << 10  # columns not asked for that are read with their neighbours, where they are shorter


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of 1.2 MB; three quarters of it a column of notes that nobody asks for."""
    folder, random = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    rows = range(GROUPS * ROWS)
    return [
        shard(
            folder / f"part-{file}.parquet",
            [png(100 * file + row, 64, 64) for row in rows],
            row_group=ROWS,
            label=list(rows),
            note=[random.bytes(20_000).hex() for _ in rows],
            place=[row // ROWS for row in rows],
            half=[row % 2 for row in rows],
        )
        for file in range(FILES)
    ]


@pytest.fixture(scope="module")
def proxy(shards: list[Path]) -> Iterator[Proxy]:
    with (
        moto_server() as endpoint,
        misbehaving(endpoint, Mischief()) as (_, proxy),
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("AWS_ACCESS_KEY_ID", "test")
        env.setenv("AWS_SECRET_ACCESS_KEY", "test")
        direct = Storage({"s3://": Endpoint(endpoint, region="us-east-1")})
        direct.s3_client(ROOT).create_bucket(Bucket="counted")  # type: ignore[attr-defined]
        for file in shards:
            direct.put_bytes(file.read_bytes(), f"{ROOT}/{file.name}")
        yield proxy


@pytest.fixture
def storage(proxy: Proxy) -> Storage:
    return Storage({"s3://": Endpoint(f"http://127.0.0.1:{proxy.server_port}", "us-east-1")})


def listed(storage: Storage, proxy: Proxy, **changes: Any) -> tuple[DatasetSpec, Listing]:
    """The data set, and a proxy that has forgotten the listing."""
    spec = DatasetSpec([ROOT], **changes)
    listing = list_dataset(spec, storage)
    proxy.noted.clear()
    return spec, listing


def stored(shards: list[Path], *columns: str, groups: int = GROUPS) -> int:
    """Bytes of some columns in the first row groups of all files."""
    total = 0
    for file in shards:
        footer = pq.read_metadata(file)
        chunks = [footer.row_group(g).column(c) for g in range(groups) for c in range(footer.num_columns)]
        total += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in columns)
    return total


def per_file(proxy: Proxy) -> Mapping[str, tuple[int, list[str], int]]:
    """By file: heads, ranges read, bytes."""
    requests: dict[str, tuple[int, list[str], int]] = {}
    for request in proxy.noted:
        heads, ranges, size = requests.get(request.path, (0, [], 0))
        more = [request.range] if request.method == "GET" else []
        requests[request.path] = (heads + (request.method == "HEAD"), ranges + more, size + request.bytes)
    return requests


def read_all(spec: DatasetSpec, listing: Listing, storage: Storage, rows: int = GROUPS * ROWS) -> int:
    """Images of all units."""
    with reader_of(spec, storage, threads=2) as reader:
        return sum(len(batch) for unit in make_units(listing, rows) for batch in reader.batches(unit))


def test_listing_reads_one_end_of_each_file(storage: Storage, proxy: Proxy) -> None:
    proxy.noted.clear()
    list_dataset(DatasetSpec([ROOT], label="label"), storage)
    files = {path: request for path, request in per_file(proxy).items() if path.endswith(".parquet")}
    assert len(files) == FILES
    for heads, ranges, size in files.values():
        assert (heads, len(ranges)) == (0, 1) and size == FOOTER
    others = [request for request in proxy.noted if not request.path.endswith(".parquet")]
    assert [request.method for request in others] == ["HEAD", "GET"], "is it a file? what is in the folder?"


def test_a_row_group_is_one_range(storage: Storage, proxy: Proxy, shards: list[Path]) -> None:
    spec, listing = listed(storage, proxy, label="label")
    assert read_all(spec, listing, storage) == FILES * GROUPS * ROWS
    for heads, ranges, _ in per_file(proxy).values():
        assert heads == 0, "each answer says of which version of the file it is"
        assert len(ranges) == len(set(ranges)) == 1 + GROUPS
        assert all(ranges), "no file is read whole"
    needed = stored(shards, "image.bytes", "label")
    fetched = sum(size for _, _, size in per_file(proxy).values()) - FILES * FOOTER
    assert needed <= fetched <= needed + FILES * GROUPS * HOLE
    assert fetched < stored(shards, "note") / 2


def test_units_of_one_file_read_no_row_group_twice(storage: Storage, proxy: Proxy, shards: list[Path]) -> None:
    spec, listing = listed(storage, proxy)
    assert read_all(spec, listing, storage, rows=ROWS) == FILES * GROUPS * ROWS
    for _, ranges, size in per_file(proxy).values():
        assert len(set(ranges)) == 1 + GROUPS and len(ranges) == 2 * GROUPS, "a unit reads the end anew"
        assert size == GROUPS * FOOTER + stored(shards, "image.bytes") // FILES


def test_a_filter_costs_one_request_more_and_what_it_excludes_none(
    storage: Storage, proxy: Proxy, shards: list[Path]
) -> None:
    spec, listing = listed(storage, proxy, filter={"half": 1})
    assert read_all(spec, listing, storage) == FILES * GROUPS * ROWS // 2
    for _, ranges, _ in per_file(proxy).values():
        assert len(ranges) == len(set(ranges)) == 1 + 2 * GROUPS
    spec, listing = listed(storage, proxy, filter={"place": 0})
    assert read_all(spec, listing, storage) == FILES * ROWS
    fetched = sum(size for _, _, size in per_file(proxy).values()) - FILES * FOOTER
    assert fetched == stored(shards, "image.bytes", "place", groups=1)


def test_the_pilot_reads_only_row_groups_that_it_takes_rows_of(
    storage: Storage, proxy: Proxy, shards: list[Path]
) -> None:
    spec, listing = listed(storage, proxy)
    pilot = pilot_rows(
        listing,
        4,
        LoaderOptions(spec, ImageSpec(), storage, batch_size=4, fold_bytes=len, fold_value=int),
        max_row_groups=2,
        max_bytes=1,
    )
    assert sum(len(batch) for batch in pilot) == 4
    assert sum(len(ranges) - 1 for _, ranges, _ in per_file(proxy).values()) == 2
