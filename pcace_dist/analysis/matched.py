"""Compares two runs after reordering the later one's channels to match the earlier one's: `pcace compare --match`.

So a network with permuted channels is recognised. The codes of the same images come from both runs' sample.parquet; the
arithmetic is in `matching`. Reads runs, writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.compare import MATCHED, Comparison, compare_tables
from pcace_dist.analysis.matching import LIKE, Codes, Matching, match_channels
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import UserError

Keys: TypeAlias = npt.NDArray[np.int64]

SAMPLE = "sample.parquet"
MIN_IMAGES = 64  # in common; with fewer, channels are alike by chance


@dataclass(frozen=True, eq=False)
class Matched:
    """Matchings by layer, the number of images that they use, and the comparison after the matching."""

    layers: Mapping[str, Matching]
    images: int
    comparison: Comparison

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of channels: all, those found in the other network, and those found in another place."""
        matchings = self.layers.values()
        return {
            "channels": sum(len(matching.permutation) for matching in matchings),
            "found": sum(matching.found for matching in matchings),
            "elsewhere": sum(matching.moved for matching in matchings),
        }

    @property
    def lost(self) -> list[tuple[str, int]]:
        """(layer, channel) of the channels without a counterpart in the other network."""
        return [
            (name, int(channel))
            for name, matching in self.layers.items()
            for channel in np.flatnonzero(matching.likeness < LIKE)
        ]

    def to_json(self) -> dict[str, Any]:
        """The section `matching` of comparison.json."""
        after_matching = self.comparison.to_json()
        names = ("verdict", "overall", "counts", "agreement")
        return {
            "images": self.images,
            "least_likeness": LIKE,
            **self.counts,
            "lost": [list(entry) for entry in self.lost],
            "after": {name: after_matching[name] for name in names},
        }

    def table(self) -> pa.Table:
        """matching.parquet: layer, channel (of the first run), channel_b, likeness, own (with the same number)."""
        parts = [
            pa.table(
                {
                    "layer": pa.array([name] * len(matching.permutation), pa.string()),
                    "channel": pa.array(np.arange(len(matching.permutation)), pa.int32()),
                    "channel_b": pa.array(matching.permutation, pa.int32()),
                    "likeness": pa.array(matching.likeness),
                    "own": pa.array(matching.own),
                }
            )
            for name, matching in self.layers.items()
        ]
        return pa.concat_tables(parts)


def compare_matched(run_a: Run, run_b: Run, comparison: Comparison) -> Matched:
    """Match the channels of two comparable runs and compare again. Raises UserError where the runs share no sample."""
    sample_a, sample_b = sampled_codes(run_a), sampled_codes(run_b)
    _, rows_a, rows_b = np.intersect1d(sample_a[0], sample_b[0], assume_unique=True, return_indices=True)
    if len(rows_a) < MIN_IMAGES:
        raise UserError(
            f"--match: {run_a.path} and {run_b.path} have {len(rows_a)} sampled images in common, fewer than "
            f"{MIN_IMAGES}; it needs runs over the same data"
        )
    tables = [run.with_jackknife(**comparison.settings.chosen) for run in (run_a, run_b)]
    layers = {
        name: match_channels(sample_a[1][name][rows_a], sample_b[1][name][rows_b])
        for name in dict.fromkeys(tables[0]["layer"].to_pylist())
    }
    after_matching = compare_tables(
        comparison.run_a,
        comparison.run_b,
        tables[0],
        reordered(tables[1], layers),
        comparison.noise,
        comparison.settings,
        comparison.names,
    )
    return Matched(layers, len(rows_a), after_matching)


def sampled_codes(run: Run) -> tuple[Keys, dict[str, Codes]]:
    """Keys (n,) of a run's sampled rows, and by layer their codes (n, C, p). Raises UserError if there are none."""
    table = run.sample()
    if table is None:
        raise UserError(f"--match: {run.path} holds no {SAMPLE}, the codes of a sample of its images")
    return table["key"].to_numpy(), codes_of_sample(table, run.job.statistics.components)


def codes_of_sample(table: pa.Table, components: int) -> dict[str, Codes]:
    """By layer the codes (n, C, p) of a run's sampled rows."""
    return {
        name.removeprefix("codes/"): _codes(table[name], components)
        for name in table.column_names
        if name.startswith("codes/")
    }


def reordered(table: pa.Table, layers: Mapping[str, Matching]) -> pa.Table:
    """A ranking with the channels of every layer in the other network's order.

    `channel` is then the other network's number, `channel_b` its own; `matched`: whether the two are alike.
    """
    names = np.array(table["layer"].to_pylist(), dtype=object)
    channels = table["channel"].to_numpy()
    order = np.arange(len(table))
    likeness = np.zeros(len(table))
    for name, matching in layers.items():
        places = np.flatnonzero(names == name).reshape(-1, len(matching.permutation))  # a row per target and group
        order[places] = places[:, matching.permutation]
        likeness[places] = matching.likeness
    moved = table.take(order)
    moved = moved.append_column("channel_b", moved["channel"])
    moved = moved.set_column(moved.column_names.index("channel"), "channel", pa.array(channels, pa.int32()))
    return moved.append_column("likeness", pa.array(likeness)).append_column(MATCHED, pa.array(likeness >= LIKE))


def _codes(column: pa.ChunkedArray, components: int) -> Codes:
    array = column.combine_chunks()
    values = array.flatten().to_numpy(zero_copy_only=False).astype(np.uint8)
    return np.asarray(values.reshape(len(array), -1, components))
