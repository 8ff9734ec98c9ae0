"""An engine on a few planted images: its three sources of batches give the same attempt; units enter whole or not."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.datasets.units import Unit, make_units, rows_per_unit
from pcace_dist.errors import ModelError
from pcace_dist.ledger.ledger import Receipt, UnitCount
from pcace_dist.run.prepare import Preparation, prepare
from pcace_dist.storage.store import open_store
from pcace_dist.worker.engine import Abandoned, Engine, UnitReport
from tests.planted import write_planted

ROWS, UNIT, BATCH = 240, 80, 32  # the last batch of a unit is not full
BROKEN, WITHOUT_TARGET = 107, 21


def write_images(folder: Path) -> None:
    """Three row groups of which two have a bad row in the middle; `part` is null in half of the rows."""
    write_planted(folder, ROWS, shards=1, row_group=UNIT)
    path = folder / "part-00000.parquet"
    table = pq.read_table(path)
    images, values = table["image"].to_pylist(), table["exponential"].to_pylist()
    images[BROKEN], values[WITHOUT_TARGET] = b"not an image", float("nan")
    table = table.set_column(0, "image", pa.array(images, pa.binary())).set_column(1, "exponential", pa.array(values))
    table = table.append_column("part", pa.array([[None, "a"][row // 5 % 2] for row in range(ROWS)]))
    pq.write_table(table, path, row_group_size=UNIT)


def job(data: Path, output: Path, **statistics: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(data), "label": "label"},
        "group_by": "part",
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": [{"column": "exponential"}, {"column": "square"}],
        "statistics": {"components": 1, "knots": 5, "pilot": 32, "keep_codes": True} | statistics,
        "compute": {"batch": BATCH, "precision": "float32"},
        "output": str(output),
    }


class Case:
    """A job, its units, and its plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_images(folder / "data")
        self.prepared = self.of_job("run")
        self.units = make_units(self.prepared.listing, rows_per_unit(self.prepared.listing))
        self.plan, self.check = self.engine().pilot(self.prepared.listing)

    def of_job(self, output: str, **statistics: Any) -> Preparation:
        return prepare(parse_job(job(self.folder / "data", self.folder / output, **statistics)))

    def engine(self, output: str = "run", **changes: Any) -> Engine:
        """Without a plan."""
        statistics = self.prepared.spec.statistics.model_copy(update=changes.pop("statistics", {}))
        spec = replace(self.prepared.spec, statistics=statistics, **changes)
        return Engine(spec, "w", open_store(str(self.folder / output), spec.storage))

    def begun(self, output: str = "run", **changes: Any) -> Engine:
        engine = self.engine(output, **changes)
        engine.begin(self.plan, self.check, 1)
        return engine


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("engine"))


def worked(engine: Engine, units: tuple[Unit, ...], codes_file: str | None = None) -> tuple[list[UnitReport], Receipt]:
    reports = [
        engine.process(unit, upcoming, codes_file) for unit, upcoming in zip(units, (*units[1:], None), strict=True)
    ]
    receipt = engine.flush()
    assert receipt is not None
    return reports, receipt


def test_images_the_pilots_cache_and_kept_codes_give_the_same_attempt(case: Case) -> None:
    whole = case.of_job("pilot", pilot=ROWS)
    pilot = Engine(whole.spec, "w", open_store(str(case.folder / "pilot"), whole.spec.storage))
    plan, check = pilot.pilot(whole.listing)
    units = case.units
    assert set(pilot.pilot_cache.units) == {unit.id for unit in units} and len(units) == 3
    images = case.engine("images")
    codes = case.engine("codes", base=str(case.folder / "pilot"))
    for engine in (pilot, images, codes):
        engine.begin(plan, check, 1)
    done = [
        worked(pilot, units),
        worked(images, units),
        worked(codes, units, "attempts/e00001-w-f00001/codes.parquet"),
    ]
    reports, receipts = [one for one, _ in done], [receipt for _, receipt in done]
    assert receipts[0].files == receipts[1].files == receipts[2].files
    assert {"codes.parquet", "bad_rows.parquet", "rows.arrow", "sample.arrow"} <= set(receipts[0].files)
    assert receipts[0].units == receipts[1].units == receipts[2].units
    assert [count.rows for count in receipts[0].units.values()] == [79, 79, 80]
    assert [[report.forwarded for report in each] for each in reports] == [[0, 0, 0], [80, 79, 80], [0, 0, 0]]
    assert [[report.of_pilot for report in each] for each in reports] == [[True] * 3, [False] * 3, [False] * 3]
    assert not pilot.pilot_cache.units


def test_a_unit_whose_kept_codes_are_gone_is_forwarded(case: Case) -> None:
    engine = case.begun(base=str(case.folder / "nowhere"))
    report = engine.process(case.units[0], None, "attempts/e00001-w-f00001/codes.parquet")
    assert (report.forwarded, report.count) == (80, UnitCount(79, 1, 0))


def test_bad_rows_in_the_middle_are_recorded_and_the_last_one_reported(case: Case) -> None:
    engine = case.begun()
    first, second, third = (engine.process(unit) for unit in case.units)
    assert [(bad.row, bad.stage) for bad in engine.buffer.bad] == [(WITHOUT_TARGET, "target"), (BROKEN, "decode")]
    assert first.last_fault is not None and first.last_fault.startswith("part-00000.parquet row 21: ")
    assert second.last_fault is not None and "row 107" in second.last_fault
    assert third.last_fault is None and third.count == UnitCount(80, 0, 0)
    images = {group: accumulator.images for group, accumulator in engine.buffer.accumulators.items()}
    assert images == {None: 119, "a": 119}


def test_every_second_of_a_unit_counts_for_one_stage(case: Case) -> None:
    report = case.begun().process(case.units[0])
    assert set(report.seconds) == {"read", "decode", "wait", "forward", "tap", "statistics"}
    assert all(seconds > 0 for seconds in report.seconds.values()) and report.bytes_read > 0


def test_attempts_are_numbered_and_begin_empty(case: Case) -> None:
    engine = case.begun()
    assert engine.flush() is None and not engine.should_flush
    names = []
    for unit in case.units[:2]:
        engine.process(unit)
        receipt = engine.flush()
        assert receipt is not None and set(receipt.units) == {unit.id}
        names.append(receipt.attempt)
        assert engine.flush() is None and engine.buffer.counts == {} and engine.buffer.accumulators == {}
    assert names == ["e00001-w-f00001", "e00001-w-f00002"]


@pytest.mark.parametrize("changes", [{"statistics": {"memory": 1}}, {"flush_seconds": 1e-9}])
def test_it_says_when_to_flush(case: Case, changes: dict[str, Any]) -> None:
    engine = case.begun(**changes)
    assert not engine.should_flush
    engine.process(case.units[0])
    assert engine.should_flush


def test_a_unit_that_is_given_up_leaves_the_buffer_as_it_was(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at its second batch; read again, it is whole."""
    engine = case.begun()
    engine.process(case.units[0])
    before = dict(engine.buffer.counts), list(engine.buffer.bad), engine.buffer.nbytes
    checks = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(engine._stop, "is_set", lambda: next(checks))
        with pytest.raises(Abandoned):
            engine.process(case.units[1], case.units[2])
    assert engine.images_seen == 80 + BATCH
    assert (engine.buffer.counts, engine.buffer.bad, engine.buffer.nbytes) == before
    assert engine.process(case.units[1]).count == UnitCount(79, 1, 0)


def test_stop_ends_the_unit_and_the_pilot(case: Case) -> None:
    engine = case.begun()
    engine.stop()
    with pytest.raises(Abandoned):
        engine.process(case.units[0])
    with pytest.raises(Abandoned):
        engine.pilot(case.prepared.listing)


def test_another_pass_and_the_end_leave_no_thread_of_the_reader(case: Case) -> None:
    others = set(threading.enumerate())  # whole jobs of other tests may have left some

    def own_threads() -> list[str]:
        new = set(threading.enumerate()) - others
        return [thread.name for thread in new if thread.name.startswith("pcace-")]

    engine = case.engine()
    engine.close()
    engine.begin(case.plan, case.check, 1)
    assert engine.process(case.units[0], case.units[1]).count.rows == 79
    assert own_threads()
    engine.begin(case.plan, case.check, 1)
    assert own_threads() == []
    assert engine.process(case.units[0], case.units[1]).count.rows == 79
    engine.close()
    assert own_threads() == []


def test_nothing_can_be_done_before_there_is_a_plan(case: Case) -> None:
    with pytest.raises(RuntimeError, match="begin comes first"):
        case.engine().process(case.units[0])


def test_other_weights_than_the_plans_are_refused(case: Case) -> None:
    engine = case.engine()
    facts = dict(case.plan.facts) | {"weights": "of another model"}
    with pytest.raises(ModelError, match=r"^model\.weights factory: this worker loaded other weights"):
        engine.begin(replace(case.plan, facts=facts), case.check, 1)


def test_what_is_read_ahead_and_does_not_follow_is_discarded(case: Case) -> None:
    engine = case.begun()
    first, second, third = case.units
    engine.process(first, second)
    ahead = engine.sources.reader.submit(second)
    closed = [ahead.closed]
    engine.process(third)
    assert [*closed, ahead.closed] == [False, True]
    assert engine.process(second).count.rows == 79
