"""Answers the paper's questions from the codes that one run has kept, so that no image goes through the model again.

    python -m examples.mnist.questions RUN OUT

RUN: a finished run of job.yaml with `statistics: {keep_codes: true, components: 10}`. OUT gets a run for each number of
components and of images (`p5-all`, `p5-300`, ...), and samples.parquet with the images of the smaller runs. For each
number n of images, two samples `a` and `b` without a common image are drawn from every digit; their groups are named
`3 a` and `3 b`. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pcace_dist
from pcace_dist.errors import PcaceError

COMPONENTS = (1, 2, 5, 10)
SIZES = (300, 1000, 3000)  # images of each digit; the paper took 300
ALL = "all"
SEED = 0


def sizes_for(labels: np.ndarray) -> list[int]:
    """The SIZES for which every digit has enough images for two samples; else half of the rarest digit."""
    rarest = int(np.unique(labels, return_counts=True)[1].min())
    return [size for size in SIZES if 2 * size <= rarest] or [rarest // 2]


def samples(ids: pa.Array, labels: np.ndarray, sizes: Sequence[int]) -> pa.Table:
    """For every id and size, its sample, such as `3 a`; null for most. One random order is used for all sizes."""
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    columns: dict[str, np.ndarray] = {f"n{size}": np.full(len(labels), None, object) for size in sizes}
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        for size in sizes:
            columns[f"n{size}"][rows[:size]] = f"{label} a"
            columns[f"n{size}"][rows[-size:]] = f"{label} b"
    return pa.table({"id": ids} | {name: pa.array(values, pa.string()) for name, values in columns.items()})


def kept_rows(run: Path) -> tuple[pa.Array, np.ndarray]:
    """Id and label of every image whose codes were kept, sorted by id, because the order of the files depends on the
    workers (docs/codes.md describes the files)."""
    index = run / "codes" / "index.json"
    if not index.exists():
        raise SystemExit(f"{run}: has no kept codes; rank with --set statistics.keep_codes=true")
    parts = [run / part["file"] for part in json.loads(index.read_text())["parts"]]
    table = pa.concat_tables([pq.read_table(part, columns=["id", "column:label"]) for part in parts]).sort_by("id")
    table = table.combine_chunks()
    return table["id"].chunk(0), table["column:label"].to_numpy()


def questions(run: Path, out: Path, samples_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and settings of each question, as for `pcace rank RUN/job.yaml --from-codes RUN --set ...`."""
    table = pq.read_table(samples_path)
    for components in COMPONENTS:
        for column in [ALL, *(name for name in table.column_names if name != "id")]:
            name = f"p{components}-{column.removeprefix('n')}"
            settings = [
                f"dataset.path={json.dumps(str(run))}",
                "statistics.keep_codes=false",
                f"statistics.components={components}",
                f"output={json.dumps(str(out / name))}",
            ]
            if column != ALL:
                sample_names = sorted(set(table[column].drop_null().to_pylist()))
                settings += [f"dataset.join={json.dumps(str(samples_path))}", f"group_by={column}"]
                settings += [f"dataset.filter={json.dumps({column: sample_names})}"]
            yield name, settings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    ids, labels = kept_rows(args.run)
    args.out.mkdir(parents=True, exist_ok=True)
    samples_path = args.out / "samples.parquet"
    pq.write_table(samples(ids, labels, sizes_for(labels)), samples_path)
    for name, settings in questions(args.run, args.out, samples_path):
        try:
            run = pcace_dist.rank(args.run / "job.yaml", overrides=settings)
        except PcaceError as error:
            raise SystemExit(f"{args.out / name}: {error}") from None
        print(f"{run.path}: {run.summary['images']:,} images in {run.summary['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
