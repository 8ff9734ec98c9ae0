"""Makes runs-0.1.0.tgz: data and runs as version 0.1.0 wrote them. To be run by the code of that version, once:

    git worktree add ../as-0.1.0 0768e95
    PYTHONPATH=../as-0.1.0 python tests/golden/make.py tests/golden/runs-0.1.0.tgz

`finished` keeps codes; `extended` extends it by a second shard; `pooled` is answered from the codes of `extended`;
`killed` is `extended`'s job without a base, ended after its manifest.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

import pcace_dist

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mnist" / "data"
ROWS = 120  # of each shard

JOB = """
dataset: {path: data, label: label}
model: {factory: "examples.mnist.model:mnist_cnn", weights: random, input: {mode: L, mean: [0.1307], std: [0.3081]}}
layers: [conv1]
target: {logit: label}
statistics: {components: 2, knots: 5, folds: 4, pilot: 64, keep_codes: true}
compute: {batch: 16, precision: float32}
workers: {max: 1}
output: runs/finished
"""


def ranked(*overrides: str) -> None:
    from pcace_dist.config.job import read_job
    from pcace_dist.run.rank import run_job

    assert run_job(read_job(JOB, overrides=overrides)) == 0


def shard(number: int) -> None:
    source = sorted(EXAMPLE.glob("*.parquet"))[0]
    table = pq.read_table(source).slice(number * ROWS, ROWS)
    path = f"data/part-{number:05d}.parquet"
    pq.write_table(table, path, row_group_size=40)
    os.utime(path, (1_700_000_000, 1_700_000_000))  # whole seconds, which an archive keeps


def killed() -> None:
    """What is there once the manifest is recorded and nothing else."""
    ranked("output=runs/killed")
    shutil.copy("runs/killed/rankings.parquet", "killed-would-be.parquet")
    for path in sorted(Path("runs/killed/ledger").iterdir())[2:]:
        path.unlink()
    for name in ("attempts", "codes"):
        shutil.rmtree(f"runs/killed/{name}", ignore_errors=True)
    for path in Path("runs/killed").glob("*.parquet"):
        path.unlink()
    Path("runs/killed/summary.json").unlink()


def main(target: Path) -> None:
    assert pcace_dist.__version__ == "0.1.0"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("data").mkdir()
        shard(0)
        ranked()
        shard(1)
        ranked("output=runs/extended", "extend=runs/finished")
        ranked("output=runs/pooled", "dataset.path=runs/extended", "group_by=label", "statistics.keep_codes=false")
        killed()
        with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT) as archive:
            for name in ("data", "runs", "killed-would-be.parquet"):
                archive.add(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
