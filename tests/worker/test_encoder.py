"""Batches become codes, row by row: neither padding nor a bad row changes the codes of another row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.errors import JobError
from pcace_dist.statistics.plan import Plan
from pcace_dist.statistics.samples import row_key
from pcace_dist.worker.encoder import EncodedBatch, ForwardedBatch, _zero_if_finite
from pcace_dist.worker.stage_seconds import StageSeconds
from tests.worker.tiny import BATCH, FOLDS, TARGET, TableForward, batch_of, maps_of, outputs_of, tiny_encoder, tiny_plan

NUMBERS = list(range(20))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return tiny_plan()


def encoded(plan: Plan, forward: TableForward, numbers: list[int], **options: Any) -> list[EncodedBatch]:
    """The rows in batches of BATCH, the last of which may not be full."""
    batches = (batch_of(numbers[at : at + BATCH], kept=True) for at in range(0, len(numbers), BATCH))
    passes = ((batch, forward) for batch in batches)
    return list(tiny_encoder(plan, **options).encode(passes, StageSeconds()))


def test_codes_are_those_of_the_plan_and_padding_leaves_no_trace(plan: Plan) -> None:
    maps = maps_of(20)
    batches = encoded(plan, TableForward(maps), NUMBERS)
    assert [len(batch.refs) for batch in batches] == [8, 8, 4]
    for layer in plan.layers:
        expected = layer.encode(*layer.project(maps[layer.name]))
        assert torch.equal(torch.cat([b.codes[layer.name].codes for b in batches]), expected.codes)
        assert torch.equal(torch.cat([b.codes[layer.name].means for b in batches]), expected.means)
    target_codes, target_fixed = plan.encode_targets(outputs_of(maps)[:, :1])
    assert torch.equal(torch.cat([b.rows.target_codes for b in batches]), target_codes)
    assert torch.equal(torch.cat([b.rows.target_fixed for b in batches]), target_fixed)
    assert torch.cat([b.rows.folds for b in batches]).tolist() == [row % FOLDS for row in NUMBERS]
    assert [label for b in batches for label in b.labels] == [None if r % 3 == 0 else r % 3 - 1 for r in NUMBERS]


@pytest.mark.parametrize("layer, position", [("small", 0), ("large", 8)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_set_aside_and_changes_no_other(
    plan: Plan, layer: str, position: int, value: float
) -> None:
    maps = maps_of(20)
    forward = TableForward(maps)
    good = encoded(plan, forward, [n for n in NUMBERS[:BATCH] if n != 3])
    spoiled = {name: table.clone() for name, table in maps.items()}
    spoiled[layer][3, 1, position] = value
    forward.maps = spoiled
    (batch,) = encoded(plan, forward, NUMBERS[:BATCH])
    assert [(bad.row, bad.stage, bad.reason) for bad in batch.bad] == [(3, "model", "an activation is NaN or infinite")]
    assert [ref.row for ref in batch.refs] == [0, 1, 2, 4, 5, 6, 7]
    assert batch.kept is not None and [row["number"] for row in batch.kept.columns] == [0, 1, 2, 4, 5, 6, 7]
    for name in maps:
        assert torch.equal(batch.codes[name].codes, good[0].codes[name].codes)
        assert torch.equal(batch.codes[name].means, good[0].codes[name].means)
    assert torch.equal(batch.rows.target_fixed, good[0].rows.target_fixed)


def test_values_are_finite_whatever_their_sum() -> None:
    largest = torch.finfo(torch.float32).max
    values = torch.full((5, 4, 3), largest)
    values[1, 2, 0], values[2, 0, 2], values[3, 3, 1], values[4, 0, 0] = torch.inf, -torch.inf, torch.nan, -largest
    assert (_zero_if_finite(values) == 0).tolist() == [True, False, False, False, True]


def test_a_row_without_a_target_has_its_reason(plan: Plan) -> None:
    forward = TableForward(maps_of(20))
    forward.outputs = forward.outputs.clone()
    forward.outputs[5, 0] = float("nan")
    (batch,) = encoded(plan, forward, NUMBERS[:BATCH])
    ((row, stage, reason),) = [(bad.row, bad.stage, bad.reason) for bad in batch.bad]
    assert (row, stage) == (5, "target") and "NaN" in reason


def test_samples_hold_the_components_of_the_usable_rows_also_where_a_batch_has_none(plan: Plan) -> None:
    maps = maps_of(20)
    forward = TableForward(maps)
    forward.outputs = forward.outputs.clone()
    forward.outputs[:BATCH] = float("nan")
    first, second, _ = encoded(plan, forward, NUMBERS, keep_samples=True)
    assert first.samples is not None and second.samples is not None
    assert (len(first.samples.keys), first.samples.keys.dtype) == (0, torch.int64)
    assert second.samples.keys.tolist() == [row_key(f"file#{row}") for row in range(8, 16)]
    for layer in plan.layers:
        expected = layer.project(maps[layer.name][8:16])[0]
        assert torch.equal(second.samples.components[layer.name], expected)
    assert np.array_equal(second.samples.targets[:, 0].numpy(), outputs_of(maps)[8:16, 0].double().numpy())


def test_the_check_comes_before_every_batch_and_ends_the_unit(plan: Plan) -> None:
    forward = TableForward(maps_of(20))

    def stop_at_the_third() -> Iterator[None]:
        yield None
        yield None
        raise InterruptedError

    checks = stop_at_the_third()
    with pytest.raises(InterruptedError):
        encoded(plan, forward, NUMBERS, check=lambda: next(checks))
    assert forward.calls == 2


def test_memory_that_runs_out_once_is_no_matter_and_twice_names_the_key(plan: Plan) -> None:
    class Full(TableForward):
        failures = 1

        def __call__(self, *arguments: Any) -> torch.Tensor:
            if self.calls == 1 and self.failures:
                self.failures -= 1
                raise torch.OutOfMemoryError
            return super().__call__(*arguments)

    forward = Full(maps_of(20))
    again = encoded(plan, forward, NUMBERS)
    expected = encoded(plan, TableForward(maps_of(20)), NUMBERS)
    for one, other in zip(again, expected, strict=True):
        assert all(torch.equal(one.codes[name].codes, other.codes[name].codes) for name in one.codes)
    forward = Full(maps_of(20))
    forward.failures = 2
    with pytest.raises(JobError, match=r"^compute\.batch 8: memory of this machine runs out"):
        encoded(plan, forward, NUMBERS)


@pytest.mark.parametrize("full_at", [None, 2])
def test_on_a_device_that_works_beside_the_host_a_batch_is_encoded_after_the_next_was_begun(
    plan: Plan, full_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before it where memory runs out: its tensors take room on the device."""
    events: list[str] = []

    class Noting(TableForward):
        def __call__(self, images: torch.Tensor, *rest: Any) -> torch.Tensor:
            events.append(f"forward {int(images.flatten()[0])}")
            if len(events) == full_at:
                raise torch.OutOfMemoryError
            return super().__call__(images, *rest)

    encoder = tiny_encoder(plan)
    encode = encoder._encode

    def noting(forwarded: ForwardedBatch, seconds: StageSeconds) -> EncodedBatch:
        events.append(f"encode {forwarded.batch.refs[0].row}")
        return encode(forwarded, seconds)

    monkeypatch.setattr(encoder, "_encode", noting)
    monkeypatch.setattr(encoder, "_overlaps", True)
    forward = Noting(maps_of(20))
    passes = ((batch_of(NUMBERS[at : at + BATCH]), forward) for at in range(0, 20, BATCH))
    batches = list(encoder.encode(passes, StageSeconds()))
    assert [ref.row for batch in batches for ref in batch.refs] == NUMBERS
    expected = encoded(plan, TableForward(maps_of(20)), NUMBERS)
    assert all(
        torch.equal(a.codes["large"].codes, b.codes["large"].codes) for a, b in zip(batches, expected, strict=True)
    )
    second = ["forward 8", "encode 0"] if full_at is None else ["forward 8", "encode 0", "forward 8"]
    assert events == ["forward 0", *second, "forward 16", "encode 8", "encode 16"]


def test_rows_are_in_the_order_of_their_batches(plan: Plan) -> None:
    encoder = tiny_encoder(plan)
    rows = encoder.no_rows()
    passes = ((batch_of(numbers), TableForward(maps_of(20))) for numbers in ([4, 2], [9], [0, 1, 3]))
    for batch in encoder.encode(passes, StageSeconds()):
        rows.append(batch)
    assert len(rows) == 6 and [ref.row for ref in rows.refs] == [4, 2, 9, 0, 1, 3]
    codes = rows.codes.codes("small")
    assert codes is not None and codes.rows == 6
    assert plan.targets[0].name == TARGET.name
