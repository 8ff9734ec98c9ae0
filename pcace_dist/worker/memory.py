"""How much memory sums may take: those of a worker's next attempt, and those of a reduce task. Arithmetic only; no Ray.

How much is held, and when it is written, never changes a result: sums are integers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from pcace_dist.datasets.units import Unit
from pcace_dist.errors import JobError
from pcace_dist.statistics.group_accumulator import row_bytes
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.spec import CodesSpec, WorkSpec


def memory_of(spec: WorkSpec | CodesSpec) -> int:
    """Bytes that a worker's attempt buffer, or one of its reduce tasks, may hold."""
    return spec.statistics.memory or default_memory(spec.threads)


def default_memory(threads: int) -> int:
    """Bytes where statistics.memory does not say: half of a worker's share of what the node has free.

    A worker's share is by its threads of the node's cores.
    """
    share = threads / max(threads, os.cpu_count() or 1)
    return int(psutil.virtual_memory().available * share / 2)


def check_fits(plan: Plan, units: Iterable[Unit], memory: int | None) -> None:
    """Raises JobError when not even one unit's rows fit into statistics.memory as codes, naming what would."""
    if memory is None:
        return
    rows = max((unit.rows for unit in units), default=0)
    needed = rows * row_bytes(plan)
    if needed <= memory:
        return
    largest = sorted(plan.layers, key=lambda layer: -layer.channels)
    by_layer = ", ".join(
        f"{layer.name} {size_text(rows * layer.channels * (plan.components + 2))}" for layer in largest[:3]
    ) + (", ..." if len(largest) > 3 else "")
    raise JobError(
        f"statistics.memory {size_text(memory)}: one unit of {rows:,} rows takes {size_text(needed)} ({by_layer}); use "
        f"statistics.memory: {size_text(needed)} or more, fewer layers, or fewer statistics.components"
    )


def size_text(count: int) -> str:
    """Bytes for people and for the job file: 3MiB, 1.5GiB; rounded up, so that it is enough when written there."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            tenths = -(-count * 10 // unit)
            return f"{tenths // 10}{name}" if tenths % 10 == 0 else f"{tenths / 10:g}{name}"
    return f"{count}B"
