"""Comparing two runs with the later one's channels put in the order of the earlier one's: `pcace compare --match`.

So a permuted network is recognised. Codes of the same images come from both runs' sample.parquet; the arithmetic is
in `matching`. Reads runs, writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.compare import MATCHED, Comparison, compare_tables, selected
from pcace_dist.analysis.matching import LIKE, Codes, Matching, match_channels
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import UserError

Keys: TypeAlias = npt.NDArray[np.int64]

SAMPLE = "sample.parquet"
MIN_IMAGES = 64  # in common; with fewer, chance is as like as anything


@dataclass(frozen=True, eq=False)
class Matched:
    """Matchings by layer, the number of images they rest on, and the comparison after the matching."""

    layers: Mapping[str, Matching]
    images: int
    comparison: Comparison

    @property
    def counts(self) -> dict[str, int]:
        """Channels in all, those found again in the other network, and those of them in another place."""
        held = self.layers.values()
        return {
            "channels": sum(len(one.permutation) for one in held),
            "found": sum(one.found for one in held),
            "elsewhere": sum(one.moved for one in held),
        }

    @property
    def lost(self) -> list[tuple[str, int]]:
        """Layer and channel of those without a counterpart: what they see, no channel of the other network sees."""
        return [
            (name, int(channel))
            for name, found in self.layers.items()
            for channel in np.flatnonzero(found.likeness < LIKE)
        ]

    def to_json(self) -> dict[str, Any]:
        """The section `matching` of comparison.json."""
        after = self.comparison.to_json()
        kept = ("verdict", "overall", "counts", "agreement")
        return {
            "images": self.images,
            "least_likeness": LIKE,
            **self.counts,
            "lost": [list(one) for one in self.lost],
            "after": {name: after[name] for name in kept},
        }

    def table(self) -> pa.Table:
        """matching.parquet: layer, channel (of the first run), channel_b, likeness, own (with the same number)."""
        parts = [
            pa.table(
                {
                    "layer": pa.array([name] * len(found.permutation), pa.string()),
                    "channel": pa.array(np.arange(len(found.permutation)), pa.int32()),
                    "channel_b": pa.array(found.permutation, pa.int32()),
                    "likeness": pa.array(found.likeness),
                    "own": pa.array(found.own),
                }
            )
            for name, found in self.layers.items()
        ]
        return pa.concat_tables(parts)


def compare_matched(one: Run, other: Run, found: Comparison) -> Matched:
    """Match the channels of two comparable runs and compare again. Raises UserError where the runs share no sample."""
    first, second = sampled_codes(one), sampled_codes(other)
    _, rows, others = np.intersect1d(first[0], second[0], assume_unique=True, return_indices=True)
    if len(rows) < MIN_IMAGES:
        raise UserError(
            f"--match: {one.path} and {other.path} have {len(rows)} sampled images in common, fewer than {MIN_IMAGES}; "
            "it needs runs over the same data"
        )
    tables = [selected(run, found.settings) for run in (one, other)]
    layers = {
        name: match_channels(first[1][name][rows], second[1][name][others])
        for name in dict.fromkeys(tables[0]["layer"].to_pylist())
    }
    second = reordered(tables[1], layers)
    again = compare_tables(found.one, found.other, tables[0], second, found.noise, found.settings, found.names)
    return Matched(layers, len(rows), again)


def sampled_codes(run: Run) -> tuple[Keys, dict[str, Codes]]:
    """Keys (n,) of a run's sampled rows, and by layer their codes (n, C, p). Raises UserError if there are none."""
    table = run.sample()
    if table is None:
        raise UserError(f"--match: {run.path} holds no {SAMPLE}, the codes of a sample of its images")
    components = run.job.statistics.components
    codes = {
        name.removeprefix("codes/"): _codes(table[name], components)
        for name in table.column_names
        if name.startswith("codes/")
    }
    return table["key"].to_numpy(), codes


def reordered(table: pa.Table, layers: Mapping[str, Matching]) -> pa.Table:
    """A ranking with the channels of every layer in the other network's order.

    `channel` is then the other network's number, `channel_b` its own; `matched` whether the two are alike.
    """
    names = np.array(table["layer"].to_pylist(), dtype=object)
    channels = table["channel"].to_numpy()
    order = np.arange(len(table))
    likeness = np.zeros(len(table))
    for name, found in layers.items():
        places = np.flatnonzero(names == name).reshape(-1, len(found.permutation))  # a row per target and group
        order[places] = places[:, found.permutation]
        likeness[places] = found.likeness
    moved = table.take(order)
    moved = moved.append_column("channel_b", moved["channel"])
    moved = moved.set_column(moved.column_names.index("channel"), "channel", pa.array(channels, pa.int32()))
    return moved.append_column("likeness", pa.array(likeness)).append_column(MATCHED, pa.array(likeness >= LIKE))


def _codes(column: pa.ChunkedArray, components: int) -> Codes:
    held = column.combine_chunks()
    values = held.flatten().to_numpy(zero_copy_only=False).astype(np.uint8)
    return np.asarray(values.reshape(len(held), -1, components))
