"""Takes the example's images from the full MNIST test set: every second row, as small Parquet shards.

    python -m examples.mnist.make_data TEST [--out examples/mnist/data]

TEST: a folder with the MNIST test set as Parquet shards (columns image struct<bytes, path> and label). The images are
copied as they are, byte for byte. The test set's first half is cleaner than its second; every second row takes of both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

EVERY = 2
SHARDS = 5
ROW_GROUP = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    args = parser.parse_args()
    shards = sorted(args.test.glob("*.parquet"))
    if not shards:
        raise SystemExit(f"{args.test}: holds no Parquet files")
    rows = pa.concat_tables([pq.read_table(path, columns=["image", "label"]) for path in shards])
    rows_taken = rows.take(list(range(0, len(rows), EVERY)))
    args.out.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows_taken) // SHARDS)
    for number in range(SHARDS):
        path = args.out / f"part-{number:05d}.parquet"
        # PNG bytes do not shrink any further: plain pages, statistics of the label only
        pq.write_table(
            rows_taken.slice(number * size, size),
            path,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=["label"],
            write_statistics=["label"],
        )
        print(f"{path}: {pq.read_metadata(path).num_rows} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
