"""Exemplars and the sample: what is kept depends on the set of rows alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.exemplars import RowRefs, RowSample, SampledRows, TopRows
from pcace_dist.statistics.group_accumulator import RowCodes
from pcace_dist.statistics.plan import LayerCodes
from tests.statistics.conformance import AccumulatorConformance

LAYERS = {"early": 3, "late": 5}
COMPONENTS, TARGETS, TOP = 2, 1, 4


def rows_of(numbers: Sequence[int]) -> SampledRows:
    """Rows by number: a row's means, codes and place are a function of its number alone. Every second channel ties."""
    refs = RowRefs.of(
        [f"part-{number % 3}.parquet" for number in numbers],
        [number // 50 for number in numbers],
        list(numbers),
    )
    random = [np.random.default_rng(number) for number in numbers]
    codes = {}
    for name, channels in LAYERS.items():
        means = np.array([r.integers(-16384, 16385, channels) for r in random], np.int16).reshape(-1, channels)
        means[:, ::2] //= 4000
        layer_codes = np.array([r.integers(0, 256, (channels, COMPONENTS)) for r in random], np.uint8)
        codes[name] = LayerCodes(
            torch.from_numpy(layer_codes.reshape(-1, channels, COMPONENTS)), torch.from_numpy(means)
        )
    number = torch.tensor(list(numbers), dtype=torch.int64)
    shared = RowCodes(
        (number % 16).to(torch.uint8), (number % 256).to(torch.uint8)[:, None], (number % 999).to(torch.int16)[:, None]
    )
    groups = tuple(None if n % 7 == 0 else f"group {n % 3}" for n in numbers)
    return SampledRows(refs, codes, shared, groups, tuple(None if n % 5 == 0 else n for n in numbers))


def means_of(rows: SampledRows) -> dict[str, torch.Tensor]:
    return {name: layer_codes.means for name, layer_codes in rows.codes.items()}


PARTS = [range(0, 40), range(40, 43), range(43, 1600), range(1600, 1601), range(1601, 1700)]


class TestTopRows(AccumulatorConformance):
    def empty(self) -> TopRows:
        return TopRows(LAYERS, TOP)

    def parts(self) -> list[Any]:
        return [rows_of(part) for part in PARTS]

    def update(self, accumulator: TopRows, part: Any) -> TopRows:
        return accumulator.update(means_of(part), part.refs)

    def test_the_rows_are_those_of_a_plain_sort(self) -> None:
        top_rows = self.of(*self.parts())
        rows = rows_of(range(1700))
        for name in LAYERS:
            means, index = top_rows.layer(name)
            for channel in range(LAYERS[name]):
                expected = sorted(
                    range(1700),
                    key=lambda i, c=channel, n=name: (-int(rows.codes[n].means[i, c]), int(rows.refs.key[i])),  # type: ignore[misc]
                )[:TOP]
                assert top_rows.refs.row[index[:, channel].numpy()].tolist() == expected
                assert means[:, channel].tolist() == rows.codes[name].means[expected, channel].tolist()

    def test_references_lead_back_to_file_and_row_group(self) -> None:
        refs = self.of(*self.parts()).refs
        for file, row_group, row in zip(refs.file, refs.row_group, refs.row, strict=True):
            assert (refs.files[file], row_group) == (f"part-{row % 3}.parquet", row // 50)

    def test_fewer_rows_than_asked_for_are_all_kept(self) -> None:
        top_rows = self.of(rows_of(range(2)))
        assert sorted(top_rows.refs.row.tolist()) == [0, 1]
        assert top_rows.layer("late")[0].shape == (2, 5)

    def test_what_is_held_does_not_grow_with_the_rows(self) -> None:
        def held(rows: int) -> int:
            accumulator = self.empty()
            for start in range(0, rows, 100):
                self.update(accumulator, rows_of(range(start, start + 100)))
            return int(accumulator.nbytes)

        assert held(4000) <= 1.05 * held(2000)

    def test_parts_of_another_shape_are_refused(self) -> None:
        with pytest.raises(StatisticsError, match="other layers"):
            self.empty().merge([TopRows({"early": 3}, TOP)])
        with pytest.raises(StatisticsError, match="means"):
            self.empty().update(means_of(rows_of(range(3))), rows_of(range(2)).refs)


class TestRowSample(AccumulatorConformance):
    def empty(self) -> RowSample:
        return RowSample(64)

    def parts(self) -> list[Any]:
        return [rows_of(part) for part in PARTS]

    def update(self, accumulator: RowSample, part: Any) -> RowSample:
        return accumulator.update(part)

    def state(self, accumulator: RowSample) -> bytes:
        rows = accumulator.rows()
        if rows is None:
            return b""
        digest = hashlib.sha256(repr((rows.refs.files, rows.groups, rows.labels)).encode())
        arrays = [rows.refs.file, rows.refs.row_group, rows.refs.row, rows.refs.key]
        shared = [rows.shared.folds, rows.shared.target_codes, rows.shared.target_fixed]
        tensors = shared + [
            part for layer_codes in rows.codes.values() for part in (layer_codes.codes, layer_codes.means)
        ]
        for array in arrays + [tensor.numpy() for tensor in tensors]:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    # how it is stored needs Arrow, for groups of any type: tests/artifacts/test_examples.py
    test_save_and_load_give_the_same_state = None  # type: ignore[assignment]
    test_updatable_after_load = None  # type: ignore[assignment]

    def test_the_rows_are_those_with_the_smallest_keys(self) -> None:
        rows = self.of(*self.parts()).rows()
        everything = rows_of(range(1700))
        assert rows.refs.row.tolist() == np.argsort(everything.refs.key)[:64].tolist()
        assert rows.groups[0] == everything.groups[rows.refs.row[0]]
        for name in LAYERS:
            assert torch.equal(rows.codes[name].codes, everything.codes[name].codes[rows.refs.row])

    def test_every_row_is_as_likely_as_any_other(self) -> None:
        rows = self.of(rows_of(range(6400))).rows().refs.row
        assert abs(rows.mean() - 3200) < 4 * 6400 / np.sqrt(12 * 64)
