"""Reduce and solve for very many channels: 10,000 in 16 folds (goal: about 10 s on 2 cores, read at disk speed).

Attempts are written once, with Grams of ten blocks of 64 channels; then processes like workers reduce 157 blocks, the
ten again and again: every one is read, checked, added up over the attempts and solved as in a run. `of a plain read`
is how fast blocks are read and added up, against reading the same files and hashing them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import torch

from pcace_dist.artifacts.attempt import ChannelBlock, attempt_key, blocks_of, write_attempt
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.statistics.basis import top_code
from pcace_dist.statistics.effects.grid import GRID
from pcace_dist.statistics.group_accumulator import GroupAccumulator
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.allocator import keep_memory
from pcace_dist.worker.reduce import reduce_block
from tests.benchmarks.codes_scale import FOLDS, KNOTS, synthetic_plan
from tests.benchmarks.harness import Answer, Settings, Spread, Value, take_turns, timed

TITLE = "reduce and solve many channels in 16 folds"
ATTEMPTS = 3
WRITTEN = 640  # channels that the attempts hold
ROWS = 12_288  # so many that an attempt is a Gram


def ask(settings: Settings) -> Answer:
    """Seconds with one and two processes, and where they went."""
    channels = settings.pick(1_280, 10_000)
    plan = synthetic_plan(WRITTEN)
    receipts = write(settings.scratch, plan)
    blocks = list(islice(cycle(blocks_of(plan)), -(-channels // 64)))
    size = sum(receipt.files[block.file].size for receipt in receipts for block in blocks)
    counts = [count for count in (1, 2) if count <= (os.cpu_count() or 1)]
    with workers(counts[-1], settings.scratch, plan, receipts) as pool:
        list(pool.map(one, blocks[:4]))  # started, and warm
        works = {f"{counts[-1]} processes": timed(lambda: list(pool.map(one, blocks)))}
        begin(settings.scratch, plan.to_bytes(), receipts)
        stages: list[tuple[float, float]] = []  # of the last round

        def alone() -> None:
            stages[:] = [one(block) for block in blocks]

        works |= {"1 process": timed(alone)}
        works |= {"plain read": timed(lambda: [read(settings.scratch, receipts, block) for block in blocks])}
        samples = take_turns(works, max(1, settings.repeats - 1), warm=0)
    sums, solving = (sum(entry[index] for entry in stages) for index in (0, 1))
    lines: dict[str, dict[str, Value]] = {
        name: {"channels": 64 * len(blocks), "seconds": Spread.of(samples.seconds[name])} for name in samples.seconds
    }
    lines["1 process"] |= {"read and add up, s": sums, "solve, s": solving}
    lines["plain read"] |= {"MB": size / 1e6, "MB/s": size / 1e6 / samples.each("plain read").median}
    lines["1 process"] |= {"MB/s": size / 1e6 / sums, "of a plain read": samples.each("plain read").median / sums}
    return Answer(lines, notes=(f"{ATTEMPTS} attempts; files come from the system's cache where it holds them",))


def write(folder: Path, plan: Plan) -> list[Receipt]:
    """Attempts of random rows that share nothing with each other."""
    store, receipts = LocalStore(str(folder)), []
    layer = plan.layers[0]
    for number in range(ATTEMPTS):
        random = torch.Generator().manual_seed(number)
        segment = GroupAccumulator(plan)
        for _ in range(3):
            rows = ROWS // 3
            shape = (rows, layer.channels, plan.components)
            codes = torch.randint(0, top_code(KNOTS) + 1, shape, generator=random).to(torch.uint8)
            means = torch.randint(-GRID, GRID, shape[:2], generator=random).to(torch.int16)
            target_codes = (codes[:, :1, 0] // 2 + codes[:, 1:2, 0] // 2).clamp(max=top_code(KNOTS))
            folds = torch.randint(0, FOLDS, (rows,), generator=random)
            segment.append({layer.name: LayerCodes(codes, means)}, target_codes, means[:, :1].clone(), folds.numpy())
        assert segment.gram(layer.name) is not None
        name = f"e00001-a{number:04d}-f00001"
        files = write_attempt(store, name, plan, {None: segment}, (), {})
        receipts.append(Receipt(name, 1, f"a{number:04d}", plan.digest, "synthetic", {}, files))
    return receipts


@contextmanager
def workers(count: int, folder: Path, plan: Plan, receipts: list[Receipt]) -> Iterator[ProcessPoolExecutor]:
    """Processes with the plan, as workers have it."""
    fresh = multiprocessing.get_context("spawn")
    arguments = (folder, plan.to_bytes(), receipts)
    with ProcessPoolExecutor(count, mp_context=fresh, initializer=begin, initargs=arguments) as pool:
        yield pool


_held: tuple[LocalStore, Plan, list[Receipt]]


def begin(folder: Path, plan: bytes, receipts: list[Receipt]) -> None:
    """What a worker has at hand before its first task."""
    global _held
    torch.set_num_threads(1)
    keep_memory()
    _held = LocalStore(str(folder)), Plan.from_bytes(plan), receipts


def one(block: ChannelBlock) -> tuple[float, float]:
    """A reduce task: seconds of reading and adding up, and of solving."""
    store, plan, receipts = _held
    found = reduce_block(store, plan, block, receipts, penalty=0.3, memory=1 << 30)
    assert found.scores[None][0].status[0] == "ok"
    return found.seconds["sums"], found.seconds["solve"]


def read(folder: Path, receipts: list[Receipt], block: ChannelBlock) -> str:
    """The same files as they are."""
    digest = hashlib.sha256()
    for receipt in receipts:
        digest.update((folder / attempt_key(receipt.attempt, block.file)).read_bytes())
    return digest.hexdigest()
