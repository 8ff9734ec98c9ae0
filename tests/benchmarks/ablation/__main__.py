"""Follows protocol.yaml: trains, ranks, measures, and prints the tables of docs/comparison.md.

    PCACE_EXECUTOR=inline OMP_NUM_THREADS=1 python -m tests.benchmarks.ablation --mnist DIR --photos DIR \\
        [--work runs/ablation] [--only NETWORK ...] [--train-only] [--protocol FILE]

mnist: MNIST's training images as ten Parquet shards of 6,000 (`pcace pack DIR DEST --shard-rows 6000`). photos: Parquet
with photographs, columns image and photo. What was measured is kept in --work and not measured again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.ablation.study import Protocol, measured, read_protocol, seeds_of, trained
from tests.benchmarks.ablation.table import areas_table, claims, differences_table


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all was measured."""
    asked = _parser().parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    protocol = read_protocol(asked.protocol, mnist=asked.mnist, photos=asked.photos, work=asked.work)
    for network, seed in seeds_of(protocol, asked.only):
        start = time.monotonic()
        if network.train is not None:
            trained(protocol, network, seed)
        if not asked.train_only:
            measured(protocol, network, seed)
        print(f"{network.name}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    if not asked.train_only:
        print_tables(protocol, asked.only)
    return 0


def print_tables(protocol: Protocol, only: Sequence[str]) -> None:
    """All tables, and where the claim does not hold."""
    chosen = [own for own in protocol.networks if not only or own.name in only]
    found = {own.name: [measured(protocol, own, seed) for seed in own.seeds] for own in chosen}
    for measure in protocol.measures:
        print("", *areas_table(found, measure, protocol.orders), sep="\n")
    for measure in protocol.measures:
        print(
            "", *differences_table(found, measure, protocol.claimed, (*protocol.baselines, *protocol.beside)), sep="\n"
        )
    failed = list(claims(found, protocol.measures, protocol.claimed, protocol.baselines))
    print("", *(failed or ["the claim holds"]), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ablation", description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--only", nargs="+", default=[], metavar="NETWORK")
    parser.add_argument("--train-only", action="store_true", help="train and stop")
    parser.add_argument("--protocol", type=Path, default=Path(__file__).parent / "protocol.yaml")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
