"""The simulated run makes the requests that a real one makes, and the driver counts only what is new."""

from __future__ import annotations

from collections import Counter

import pytest

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.ledger.ledger import FileRef, Receipt, RunState
from pcace_dist.worker.reduce import reduce_block
from tests.benchmarks.driver import attempt_files, network_plan, work_of, written
from tests.benchmarks.simulation import GETS, PUTS, Meter, Network, simulate
from tests.memory_store import MemoryStore

WORKERS, UNITS, UNIT_SECONDS = 4, 40, 2.0
QUICK = Network(latency=0.0, rate=1e12)


def test_a_meter_knows_the_busiest_second() -> None:
    meter = Meter()
    for at in (0.1, 0.9, 1.0, 1.2, 1.9, 2.0):
        meter.request(PUTS, at)
    assert (meter.total(PUTS), meter.busiest(PUTS), meter.busiest(GETS)) == (6, 3, 0)


def test_every_request_of_a_simulated_run_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = Counter[str]()
    is_settled = RunState.is_settled

    def counting(state: RunState, unit: str) -> bool:
        looked_at["units"] += 1
        return is_settled(state, unit)

    monkeypatch.setattr(RunState, "is_settled", counting)
    plan = network_plan((70,))  # blocks of 64 and 6 channels
    work = work_of(plan, 610 * UNITS, 110_000, rate=610 / UNIT_SECONDS)
    found = simulate(work, WORKERS, QUICK)

    assert list(work.files) == [
        "rows.arrow",
        "block-00000.arrow",
        "block-00001.arrow",
        "exemplars.safetensors",
        "sample.arrow",
    ]
    assert (found.rows, found.units, found.attempts) == (610 * UNITS, UNITS, WORKERS)  # each flushes at the end
    assert found.records == 2 + found.attempts  # open, manifest, and one for each receipt
    renewals = int(found.main_pass // 10)  # of the lease: a read and a put
    assert found.puts == found.records + found.attempts * len(work.files) + renewals
    opening, in_a_task = 2, 2 * found.attempts  # a list and a first record; rows and block of every attempt
    assert found.gets == opening + renewals + 2 * in_a_task
    assert found.busiest_gets >= found.attempts * 2 * 2
    assert looked_at["units"] <= UNITS * (found.records + 1)  # not at every turn of the loop


def test_the_size_of_an_attempt_is_that_of_one_with_many_rows() -> None:
    plan = network_plan((12,))
    real, assumed = written(plan, rows=12_288), attempt_files(plan)
    (block,) = blocks_of(plan)
    assert real.keys() == assumed.keys()
    assert assumed[block.file].size == pytest.approx(real[block.file].size, rel=0.1)


def test_a_reduce_task_reads_two_files_of_every_attempt() -> None:
    plan, store = network_plan((2,)), MemoryStore()
    receipts = [receipt(plan.digest, f"e00001-a{n:04d}-f00001", written(plan, 64, store, n)) for n in range(3)]
    store.operations.clear()
    (block,) = blocks_of(plan)
    reduce_block(store, plan, block, receipts, penalty=0.3, memory=1 << 30)
    assert [operation for operation, _ in store.operations] == ["get"] * 2 * len(receipts)


def receipt(plan: str, attempt: str, files: dict[str, FileRef]) -> Receipt:
    return Receipt(attempt, 1, attempt[7:12], plan, "w", {}, files)
