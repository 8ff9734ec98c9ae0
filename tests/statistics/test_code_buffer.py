from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from pcace_dist.statistics import code_buffer
from pcace_dist.statistics.code_buffer import CodeBuffer
from pcace_dist.statistics.plan import LayerCodes, Plan
from tests.statistics.helpers import codes_of, plan_of

N = 300


@pytest.fixture(scope="module")
def rows() -> tuple[Plan, LayerCodes]:
    rng = np.random.default_rng(0)
    maps, y = rng.normal(size=(N, 5, 6)), rng.normal(size=N)
    plan = plan_of(maps, {"y": y}, components=2, folds=4)
    return plan, codes_of(plan, maps, {"y": y}, rng.integers(0, 4, N))[0]


@pytest.fixture(params=["as they come", "chunks of blocks", "chunks of layers"])
def held(request: pytest.FixtureRequest, rows: tuple[Plan, LayerCodes], monkeypatch: pytest.MonkeyPatch) -> CodeBuffer:
    monkeypatch.setattr(code_buffer, "CHUNKS_FROM", 1 << 30 if request.param == "as they come" else 7 * 5 * 4)
    monkeypatch.setattr(code_buffer, "CHUNK_ROWS", 50)
    monkeypatch.setattr(code_buffer, "BLOCK_CHANNELS", 2)
    filled = CodeBuffer(rows[0], whole_layers=request.param == "chunks of layers")
    for start, stop in ((0, 3), (3, 4), (4, 4), (4, 170), (170, 171), (171, N)):
        filled.append({"layer": rows[1].take(slice(start, stop))})
    return filled


@pytest.mark.parametrize("channels", [slice(None), slice(0, 2), slice(1, 4), slice(4, 5)])
def test_rows_come_out_as_they_were_appended(held: CodeBuffer, rows: tuple[Plan, LayerCodes], channels: slice) -> None:
    codes = held.codes("layer", channels)
    assert codes is not None and held.rows == N
    assert torch.equal(codes.codes, rows[1].codes[:, channels]) and torch.equal(codes.means, rows[1].means[:, channels])
    assert torch.equal(torch.cat([part["layer"].means for part in held.parts()]), rows[1].means)


def test_what_is_taken_out_is_every_row_of_every_channel_once(held: CodeBuffer, rows: tuple[Plan, LayerCodes]) -> None:
    seen = torch.zeros_like(rows[1].means)
    for layer, channels, place, codes in held.take_out():
        assert layer == "layer" and torch.equal(codes.codes, rows[1].codes[place, channels])
        assert torch.equal(codes.means, rows[1].means[place, channels])
        seen[place, channels] += 1
    assert (seen == 1).all() and held.rows == 0 and held.codes("layer") is None
    held.append({"layer": rows[1].take(slice(0, 7))})
    assert held.rows == 7


def test_a_block_of_a_chunk_is_gone_once_it_is_taken(
    rows: tuple[Plan, LayerCodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_buffer, "CHUNKS_FROM", 0)
    monkeypatch.setattr(code_buffer, "CHUNK_ROWS", 50)
    monkeypatch.setattr(code_buffer, "BLOCK_CHANNELS", 2)
    made: list[weakref.ref[LayerCodes]] = []
    empty = CodeBuffer._empty

    def counted(self: CodeBuffer, block: slice) -> LayerCodes:
        room = empty(self, block)
        made.append(weakref.ref(room))
        return room

    monkeypatch.setattr(CodeBuffer, "_empty", counted)
    filled = CodeBuffer(rows[0])
    filled.append({"layer": rows[1]})
    assert len(made) == 6 * 3  # chunks of 50 rows, blocks of 2, 2 and 1 channels
    left = [sum(room() is not None for room in made) for _ in filled.take_out()]
    assert left == list(range(17, -1, -1))


def test_what_comes_in_is_not_kept_by_a_chunk(rows: tuple[Plan, LayerCodes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_buffer, "CHUNKS_FROM", 0)
    filled = CodeBuffer(rows[0])
    own = LayerCodes(rows[1].codes.clone(), rows[1].means.clone())
    filled.append({"layer": own})
    own.codes.zero_()
    codes = filled.codes("layer")
    assert codes is not None and torch.equal(codes.codes, rows[1].codes)
