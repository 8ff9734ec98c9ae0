"""Details of single channels: transforms with the data's density, extreme rows, score by number of images. Pure.

Everything comes from transforms.parquet and sample.parquet; no image is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pcace_dist.reporting.source import Ranking, ReportSource, SampleTable
from pcace_dist.statistics import basis
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.group_accumulator import add_codes
from pcace_dist.statistics.plan import LayerCodes, LayerPlan
from pcace_dist.statistics.score import score_channels

Floats: TypeAlias = npt.NDArray[np.float64]

BINS = 4  # of a density, between two knots
POINTS = 160  # of a scatter plot
LAYER_TENSORS = ("weights", "offsets", "knots", "spread", "live", "explained", "mean_centre", "mean_unit")
FIRST_STEP = 128  # rows of the first point of the score by images; each further point has twice as many


@dataclass(frozen=True, eq=False)
class Transform:
    """theta (K,) on target_knots (K,) and phi (p, K) on knots (p, K); theta increases overall."""

    target_knots: Floats
    theta: Floats
    knots: Floats
    phi: Floats


class Transforms:
    """transforms.parquet by target, group, layer and channel."""

    def __init__(self, table: pa.Table, ranking: Ranking, components: int) -> None:
        self._components = components
        self._flat = {
            name: np.asarray(table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False), np.float64).reshape(
                len(table), -1 if len(table) else 0
            )
            for name in ("target_knots", "theta", "knots", "phi")
        }
        target = {name: index for index, name in enumerate(ranking.targets)}
        group = {value: index for index, value in enumerate(ranking.groups)}
        keys = zip(*(table[name].to_pylist() for name in ("target", "group", "layer", "channel")), strict=True)
        self._row = {(target[t], group[g], layer, channel): row for row, (t, g, layer, channel) in enumerate(keys)}

    def get(self, target: int, group: int, layer: str, channel: int) -> Transform | None:
        """The transforms of one channel, with signs so that theta increases with the target; None if there are none."""
        row = self._row.get((target, group, layer, channel))
        if row is None:
            return None
        y, theta, x, phi = (self._flat[name][row] for name in ("target_knots", "theta", "knots", "phi"))
        sign = -1.0 if np.dot(theta - theta.mean(), y - y.mean()) < 0 else 1.0
        shape = (self._components, -1)
        return Transform(y, sign * theta, x.reshape(shape), sign * phi.reshape(shape))


def interpolate(codes: npt.NDArray[np.uint8], values: Floats) -> Floats:
    """Values on the knots (..., K) at codes (n, ...), linear between knots: float64 (n, ...)."""
    knots = values.shape[-1]
    position = codes.astype(np.float64) / basis.unit_scale(knots)
    lower = np.minimum(position.astype(np.int64), knots - 2)
    share = position - lower
    spread = np.broadcast_to(values, (*codes.shape, knots))
    left = np.take_along_axis(spread, lower[..., None], -1)[..., 0]
    right = np.take_along_axis(spread, lower[..., None] + 1, -1)[..., 0]
    return np.asarray(left + share * (right - left), np.float64)


def summed(codes: npt.NDArray[np.uint8], transform: Transform) -> Floats:
    """The sum of phi_j(x_j) of every row: codes (n, p) to (n,)."""
    return np.asarray(interpolate(codes, transform.phi).sum(1), np.float64)


def density(codes: npt.NDArray[np.uint8], knots: int) -> npt.NDArray[np.int64]:
    """The number of rows in each bin: (bins,), with BINS bins between two knots."""
    bins = BINS * (knots - 1)
    position = codes.astype(np.float64) / (basis.unit_scale(knots) * (knots - 1))
    counts, _ = np.histogram(position, bins, (0.0, 1.0))
    return np.asarray(counts, np.int64)


def extreme_rows(
    codes: npt.NDArray[np.uint8], transform: Transform, rows: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Those of `rows` of the sample with the largest and the smallest transform; ties in the sample's order."""
    values = summed(codes[rows], transform)
    order = np.argsort(-values, kind="stable")
    return rows[order[:count]], rows[order[::-1][:count]]


@dataclass(frozen=True, eq=False)
class Growth:
    """Scores of some channels by number of images: images (s,); score, low, high (s, c), NaN where there is none."""

    images: npt.NDArray[np.int64]
    score: Floats
    low: Floats
    high: Floats


def growth(source: ReportSource, layer: LayerPlan, channels: npt.NDArray[np.int64], group: int) -> list[Growth]:
    """Scores of channels from the first 128, 256, ... rows of the sample, a Growth for each target.

    The sample is uniform and its order random: its first n rows give the scores of a run over n random images with the
    same plan.
    """
    sample = source.sample
    assert sample is not None
    plan = source.plan
    rows = np.flatnonzero(sample.group == group).astype(np.int64)
    sizes = [FIRST_STEP * 2**k for k in range(12) if FIRST_STEP * 2**k < len(rows)]
    sizes += [len(rows)] if len(rows) >= FIRST_STEP else []
    layer_codes = LayerCodes(*_tensors(sample, layer.name, plan.components, channels))
    part = _some_channels(layer, channels)
    gram = Gram(len(channels), plan.components, len(plan.targets), plan.knots, plan.folds)
    scores: list[list[Any]] = []
    rows_before = 0
    for size in sizes:
        added = _index(rows[rows_before:size])
        gram = add_codes(gram, layer_codes.take(added), sample.shared.take(added))
        scores.append(list(score_channels(gram, part, plan.targets, penalty=source.job.statistics.penalty)))
        rows_before = size
    return [
        Growth(
            np.array(sizes, np.int64),
            *(
                np.array([getattr(step[target], name) for step in scores]).reshape(len(sizes), len(channels))
                for name in ("score", "score_low", "score_high")
            ),
        )
        for target in range(len(plan.targets))
    ]


def _tensors(sample: SampleTable, layer: str, components: int, channels: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    codes = torch.from_numpy(np.ascontiguousarray(sample.codes(layer, components)[:, channels]))
    return codes, torch.from_numpy(np.ascontiguousarray(sample.means(layer)[:, channels]))


def _index(rows: npt.NDArray[np.int64]) -> Any:
    return torch.from_numpy(np.ascontiguousarray(rows))


def _some_channels(layer: LayerPlan, channels: npt.NDArray[np.int64]) -> LayerPlan:
    index = _index(channels)
    parts = {name: getattr(layer, name)[index] for name in LAYER_TENSORS}
    return replace(layer, channels=len(channels), **parts)


def scatter(
    sample: SampleTable, codes: npt.NDArray[np.uint8], transform: Transform, target: int, rows: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """(sum of phi, theta) of at most POINTS rows, both with mean 0 and deviation 1 over these rows."""
    shown_rows = rows[:POINTS]
    x = summed(codes[shown_rows], transform)
    y = interpolate(sample.shared.target_codes.numpy()[shown_rows, target], transform.theta)
    return _standard(x), _standard(y)


def _standard(values: Floats) -> Floats:
    spread = float(values.std()) or 1.0
    return np.asarray((values - values.mean()) / spread, np.float64)
