"""What is added up for an attempt: counts, groups, when it is due, and that the order of units changes no sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pcace_dist.artifacts.attempt import ChannelBlock, blocks_of, read_attempt_file, read_block, read_rows
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import RowGroupRef, Unit
from pcace_dist.ledger.ledger import UnitCount
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import add_codes, row_bytes
from pcace_dist.statistics.plan import Plan
from pcace_dist.worker.attempt_buffer import FLUSH_PAUSE, FLUSH_SHARE, AttemptBuffer
from pcace_dist.worker.encoder import UnitRows
from pcace_dist.worker.stage_seconds import StageSeconds
from tests.memory_store import MemoryStore
from tests.worker.tiny import BATCH, CPU, ROWS, TableForward, batch_of, maps_of, tiny_encoder, tiny_plan

MAPS = maps_of(ROWS)
HUGE = 1 << 40


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan()


def unit_of(number: int, rows: int) -> Unit:
    return Unit.of([RowGroupRef("url", f"file-{number}", 1, "v", 0, 0, rows)])


def rows_of(plan: Plan, numbers: Sequence[int], *, groups: bool = False, **options: Any) -> UnitRows:
    """A finished unit of these rows; `groups`: by the last bit of their numbers, null for those from 80 on."""
    encoder = tiny_encoder(plan, **options)
    rows = encoder.no_rows()
    parts = [list(numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)]
    group_names = [[None if n >= 80 else n % 2 for n in part] if groups else None for part in parts]
    passes = ((batch_of(p, groups=g), TableForward(MAPS)) for p, g in zip(parts, group_names, strict=True))
    for batch in encoder.encode(passes, StageSeconds()):
        rows.append(batch)
    return rows


def sums(plan: Plan, store: MemoryStore, attempt: str, files: dict[str, Any], block: ChannelBlock) -> dict[Any, bytes]:
    """Every group's Gram of a block of an attempt."""
    rows = read_rows(read_attempt_file(store, attempt, "rows.arrow", files["rows.arrow"]))
    found = {}
    data = read_attempt_file(store, attempt, block.file, files[block.file])
    for part in read_block(block, plan.components, data, *rows):
        gram = part.gram or Gram(block.stop - block.start, plan.components, 1, plan.knots, plan.folds)
        if part.codes is not None:
            gram = add_codes(gram, part.codes, part.rows)
        found[part.group] = gram.to_bytes()
    return found


def test_counts_are_the_rows_used_bad_and_filtered(plan: Plan) -> None:
    buffer = AttemptBuffer(plan, device=CPU)
    rows = rows_of(plan, range(20))
    rows.bad.append(BadRow("file", 0, 20, "row-20", "decode", "truncated"))
    unit = unit_of(0, 26)
    assert buffer.add(unit, rows, filtered=5) == UnitCount(rows=20, bad=1, filtered=5)
    assert buffer.counts == {unit.id: UnitCount(20, 1, 5)} and buffer.bad == rows.bad


def test_a_unit_of_bad_rows_alone_is_counted_and_its_attempt_holds_no_sums(plan: Plan) -> None:
    buffer = AttemptBuffer(plan, device=CPU)
    rows = rows_of(plan, [])
    rows.bad.append(BadRow("file", 0, None, None, "read", "gone", rows=7))
    assert buffer.add(unit_of(0, 7), rows) == UnitCount(0, 7, 0)
    assert buffer.accumulators == {} and set(buffer.write(MemoryStore(), "e00001-w-f00001")) == {"bad_rows.parquet"}


def test_groups_have_their_own_sums_and_null_is_one_of_them(plan: Plan) -> None:
    buffer = AttemptBuffer(plan, device=CPU)
    buffer.add(unit_of(0, 50), rows_of(plan, range(50), groups=True))
    buffer.add(unit_of(1, 40), rows_of(plan, range(50, 90), groups=True))
    assert {group: accumulator.images for group, accumulator in buffer.accumulators.items()} == {0: 40, 1: 40, None: 10}


def test_neither_the_order_of_units_nor_where_they_are_cut_changes_a_sum(plan: Plan) -> None:
    store, found = MemoryStore(), []
    for number, parts in enumerate([[range(90)], [range(40, 90), range(40)], [range(3), range(3, 90)]]):
        buffer = AttemptBuffer(plan, device=CPU)
        for at, numbers in enumerate(parts):
            buffer.add(unit_of(at, len(numbers)), rows_of(plan, numbers, groups=True))
        attempt = f"e00001-w-f{number:05d}"
        files = buffer.write(store, attempt)
        found.append([sums(plan, store, attempt, files, block) for block in blocks_of(plan)])
    assert found[0] == found[1] == found[2] and len(found[0][0]) == 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def due(buffer: AttemptBuffer, memory: int = HUGE, seconds: float = 600.0) -> bool:
    return buffer.is_due(memory=memory, seconds=seconds)


def test_an_empty_buffer_is_never_due(plan: Plan) -> None:
    clock = Clock()
    buffer = AttemptBuffer(plan, device=CPU, clock=clock)
    clock.now += 1e6
    assert not due(buffer, memory=0, seconds=0)


def test_it_is_due_when_another_unit_of_the_largest_size_may_not_fit(plan: Plan) -> None:
    buffer = AttemptBuffer(plan, device=CPU, clock=Clock())
    buffer.add(unit_of(0, 30), rows_of(plan, range(30)))
    buffer.add(unit_of(1, 5), rows_of(plan, range(30, 35)))
    full = buffer.nbytes + 30 * row_bytes(plan)
    assert due(buffer, memory=full) and not due(buffer, memory=full + 1)


def test_it_is_due_after_its_seconds_or_after_a_pause_when_it_is_small_against_what_was_read(plan: Plan) -> None:
    clock = Clock()
    buffer = AttemptBuffer(plan, device=CPU, clock=clock)
    buffer.add(unit_of(0, 30), rows_of(plan, range(30)), bytes_read=0)
    clock.now += 599.9
    assert not due(buffer)
    clock.now += 0.1
    assert due(buffer)
    clock.now = 100.0
    buffer.add(unit_of(1, 10), rows_of(plan, range(30, 40)), bytes_read=int(2 * buffer.nbytes / FLUSH_SHARE))
    clock.now += FLUSH_PAUSE - 0.1
    assert not due(buffer)
    clock.now += 0.1
    assert due(buffer)


def test_kept_codes_and_samples_are_files_of_their_own(plan: Plan) -> None:
    kept = pa.schema([("number", pa.int64())])
    buffer = AttemptBuffer(plan, device=CPU, kept_columns=kept)
    encoder = tiny_encoder(plan, keep_samples=True)
    rows = encoder.no_rows()
    for batch in encoder.encode([(batch_of([1, 2, 3], kept=True), TableForward(MAPS))], StageSeconds()):
        rows.append(batch)
    buffer.add(unit_of(0, 3), rows)
    before = buffer.nbytes
    assert before > AttemptBuffer(plan, device=CPU).nbytes
    names = set(buffer.write(MemoryStore(), "e00001-w-f00001"))
    assert {"codes.parquet", "samples.arrow", "samples-00000.arrow", "rows.arrow", "block-00001.arrow"} <= names
