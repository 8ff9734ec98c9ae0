"""Which source a unit's batches come from, and what is read ahead."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from pcace_dist.artifacts.codes.columns import KeptRows
from pcace_dist.artifacts.codes.kept_unit import KeptUnit
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.loader import Batch, UnitReader
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.units import RowGroupRef, Unit
from pcace_dist.datasets.values.labels import Labelling
from pcace_dist.errors import DatasetError
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.worker import sources as sources_module
from pcace_dist.worker.pilot_cache import CachedUnit, PilotCache
from pcace_dist.worker.sources import CODES, IMAGES, PILOT, UnitSources
from pcace_dist.worker.spec import WorkSpec
from pcace_dist.worker.stage_seconds import StageSeconds
from tests.worker.tiny import TableForward, batch_of, maps_of, tiny_encoder, tiny_plan

A, B, C = (Unit.of([RowGroupRef("url", name, 1, "v", 0, 0, 8)]) for name in "abc")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan()


class Stream:
    bad: tuple[BadRow, ...] = ()
    filtered, bytes_read = 3, 100
    seconds = {"wait": 1.0}  # noqa: RUF012 (never changed)

    def __init__(self, reader: Reader, unit: Unit) -> None:
        self._reader, self._unit = reader, unit

    def batches(self) -> Iterator[Batch]:
        yield batch_of([0, 1, 2])
        yield batch_of([3, 4])

    def close(self) -> None:
        self._reader.discard(self._unit)


class Reader:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.reading: list[Unit] = []

    def submit(self, unit: Unit) -> Stream:
        if unit not in self.reading:
            self.reading.append(unit)
        return Stream(self, unit)

    def discard(self, unit: Unit) -> None:
        if unit in self.reading:
            self.reading.remove(unit)


def sources_of(
    plan: Plan, labelling: Labelling | None = None, **changes: Any
) -> tuple[UnitSources, Reader, PilotCache]:
    reader, cache = Reader(), PilotCache()
    dataset = DatasetSpec([], group_by="place", label="label", labelling=labelling or Labelling())
    spec = SimpleNamespace(base="runs/base", storage=None, dataset=dataset)
    forward = TableForward(maps_of(8))
    sources = UnitSources(cast(WorkSpec, spec), plan, cast(UnitReader, reader), lambda _: forward, cache, **changes)
    return sources, reader, cache


def test_kept_codes_come_first_then_the_pilots_cache_then_the_images(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, reader, cache = sources_of(plan)
    cache.units[A.id] = CachedUnit((), (), 2, 50)
    monkeypatch.setattr(sources_module, "read_unit", lambda *_: kept_unit(plan))
    assert sources.open(A, "attempts/x/codes.parquet", StageSeconds()).kind == CODES
    pilot = sources.open(A, None, StageSeconds())
    assert (pilot.kind, pilot.totals.filtered, pilot.totals.bytes_read) == (PILOT, 2, 50) and not reader.reading
    images = sources.open(A, None, StageSeconds())
    assert (images.kind, images.totals.filtered, images.totals.bytes_read) == (IMAGES, 3, 100) and reader.reading == [A]
    images.close()
    assert not reader.reading


def test_codes_that_cannot_be_read_are_made_again(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(url: str, *_: object) -> KeptUnit:
        raise DatasetError(f"extend: {url} cannot be read")

    sources, _, cache = sources_of(plan)
    cache.units[B.id] = CachedUnit((), (), 0, 0)
    monkeypatch.setattr(sources_module, "read_unit", gone)
    assert sources.open(A, "attempts/x/codes.parquet", StageSeconds()).kind == IMAGES
    assert sources.open(B, "attempts/x/codes.parquet", StageSeconds()).kind == PILOT
    assert f"runs/base/attempts/x/codes.parquet cannot be read: unit {A.id} is forwarded instead" in caplog.text


def test_images_are_counted_batch_by_batch_as_they_are_forwarded(plan: Plan) -> None:
    counted: list[int] = []
    sources, _, _ = sources_of(plan, on_forwarded=counted.append)
    encoded = sources.open(A, None, StageSeconds()).encoded(tiny_encoder(plan), StageSeconds())
    next(encoded)
    assert counted == []
    assert [len(batch.refs) for batch in encoded] == [2] and counted == [3, 2]


def kept_unit(plan: Plan) -> KeptUnit:
    """Six of the unit's eight rows; one was set aside."""
    maps = maps_of(6)
    codes: dict[str, LayerCodes] = {layer.name: layer.encode(*layer.project(maps[layer.name])) for layer in plan.layers}
    places = ["north", None, float("nan"), "south", "north", None]
    columns = [{"place": place, "label": label} for place, label in zip(places, [0, 1, None, -1, 4, 2], strict=True)]
    refs = [RowRef("a", 0, row, str(row)) for row in range(6)]
    rows = KeptRows(refs, np.arange(6, dtype=np.uint64), columns, np.linspace(-1, 1, 6)[:, None])
    return KeptUnit(rows, codes, [BadRow("a", 0, 7, "7", "decode", "truncated")], 1)


def test_kept_rows_are_one_batch_and_what_is_missing_was_filtered(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_unit(plan)
    monkeypatch.setattr(sources_module, "read_unit", lambda *_: kept)
    sources, _, _ = sources_of(plan)
    source = sources.open(A, "attempts/x/codes.parquet", StageSeconds())
    (batch,) = source.encoded(tiny_encoder(plan), StageSeconds())
    assert (source.totals.filtered, len(source.totals.bad), source.totals.bytes_read) == (1, 1, 0)
    assert batch.groups == ["north", None, None, "south", "north", None]
    assert batch.labels == [0, 1, None, None, 4, 2]
    assert batch.rows.folds.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(batch.rows.target_codes, plan.encode_targets(kept.rows.targets)[0])


def test_missing_kept_rows_are_unlabelled_where_no_filter_removed_them(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "read_unit", lambda *_: kept_unit(plan))
    sources, _, _ = sources_of(plan, Labelling(leave_out=True))
    totals = sources.open(A, "attempts/x/codes.parquet", StageSeconds()).totals
    assert (totals.filtered, totals.unlabelled) == (0, 1)


def test_the_next_unit_is_read_ahead_unless_it_is_cached_and_what_does_not_follow_is_discarded(plan: Plan) -> None:
    sources, reader, cache = sources_of(plan)
    cache.units[C.id] = CachedUnit((), (), 0, 0)
    sources.read_ahead(A, B)
    assert reader.reading == [B]
    sources.read_ahead(B, C)
    assert reader.reading == [B], "it is the unit in hand; the next one is cached"
    sources.read_ahead(B, A)
    sources.read_ahead(C, None)
    assert reader.reading == [B], "A was discarded"
