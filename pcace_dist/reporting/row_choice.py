"""Which rows a report shows: exemplars, those of every group, those over the whole range, the ends of the transforms,
and rows for the class evidence. Fills the pool; reads no image."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.artifacts.reading.rows import Ref
from pcace_dist.reporting.evidence import Transforms, extreme_rows, summed
from pcace_dist.reporting.findings import Findings
from pcace_dist.reporting.selection import PageSelection
from pcace_dist.reporting.source import Floats, ReportSource, SampleTable

Rows: TypeAlias = npt.NDArray[np.int64]

EXEMPLARS = 8  # images of a channel
EXTREMES = 4  # images at each end of a channel's transform
OF_GROUP = 4  # images of a group that activate a channel most
WRONG = 4  # images of another class, or that the model gets wrong, that activate a channel most
SPREAD = 6  # images over the whole range of a channel's mean activation,
SPREAD_OF = 64  # chosen among so many of a group: all its channels share few images
MOST_EXTREMES = 1200  # so many combinations of channel, target and group get such images
CAM_IMAGES = 24


def choose_rows(source: ReportSource, selection: PageSelection, findings: Findings) -> Transforms | None:
    """Fill the pool of rows: exemplars, ends of the transforms, rows for the class evidence. The run's transforms."""
    if source.exemplars is not None and findings.shows_images:
        _choose_exemplars(source, selection, findings)
    if source.transforms is None or source.sample is None or not selection.channels:
        return None
    transforms = Transforms(source.transforms, source.ranking, source.plan.components)
    if not findings.shows_images:
        return transforms
    _choose_extremes(source, source.sample, selection, transforms, findings)
    _choose_of_groups(source, source.sample, selection, findings)
    _choose_cam_rows(source.sample, selection, findings)
    return transforms


def _choose_exemplars(source: ReportSource, selection: PageSelection, findings: Findings) -> None:
    assert source.exemplars is not None
    shown_channels = set(selection.channels)
    columns = [source.exemplars[name].to_pylist() for name in source.exemplars.column_names]
    for layer, channel, position, file, row_group, row, value in zip(*columns, strict=True):
        if position < EXEMPLARS and (layer, channel) in shown_channels:
            number = findings.pool.add((file, row_group, row))
            findings.exemplars.setdefault((layer, channel), []).append((number, value))


def _choose_extremes(
    source: ReportSource, sample: SampleTable, selection: PageSelection, transforms: Transforms, findings: Findings
) -> None:
    """Extremes for every target and group, up to MOST_EXTREMES in all; else for each channel's best one only."""
    ranking = source.ranking
    blocks = [(t, g) for t in range(len(ranking.targets)) for g in selection.groups]
    ranks = {block: ranking.numbers(*block, "rank") for block in blocks}
    for_every_block = len(blocks) * len(selection.channels) <= MOST_EXTREMES
    for layer, channels in selection.pages.items():
        codes = sample.codes(layer, source.plan.components)
        start = ranking.start(layer)
        for channel in channels:
            best = min(blocks, key=lambda b: (np.nan_to_num(ranks[b][start + channel], nan=np.inf), b))
            for block in blocks if for_every_block else [best]:
                transform = transforms.get(*block, layer, channel)
                rows = np.flatnonzero(sample.group == block[1]).astype(np.int64)
                if transform is None or not len(rows):
                    continue
                channel_codes = codes[:, channel]
                values = summed(channel_codes, transform)
                ends = extreme_rows(channel_codes, transform, rows, min(EXTREMES, len(rows) // 2))
                high, low = (_pooled(findings, sample, end, values) for end in ends)
                findings.extremes[(layer, channel), block] = high, low


def _choose_of_groups(source: ReportSource, sample: SampleTable, selection: PageSelection, findings: Findings) -> None:
    """Of every group's sampled images those with the largest mean activation, and some at equal steps of its order."""
    if len(selection.groups) * len(selection.channels) > MOST_EXTREMES:
        return
    members = {group: np.flatnonzero(sample.group == group).astype(np.int64) for group in selection.groups}
    others = {group: np.flatnonzero((sample.group != group) & (sample.label >= 0)) for group in selection.groups}
    for layer, channels in selection.pages.items():
        means, values = sample.means(layer), mean_activations(source, sample, layer)
        for group, rows in members.items():
            for channel in channels:
                order, few = (
                    some[np.argsort(-means[some, channel], kind="stable")] for some in (rows, rows[:SPREAD_OF])
                )
                key = (layer, channel), group
                if source.job.group_by is not None:
                    findings.of_group[key] = _pooled(findings, sample, order[:OF_GROUP], values[:, channel])
                findings.spread[key] = _pooled(findings, sample, _at_equal_steps(few), values[:, channel])
                if source.groups_are_labels:
                    findings.wrong[key] = _strongest(findings, sample, others[group], values[:, channel], WRONG)


def choose_errors(source: ReportSource, selection: PageSelection, findings: Findings, wrong: Rows) -> None:
    """Of every group's sampled images that the model gets wrong, those that activate a channel most. wrong: rows."""
    sample = source.sample
    if sample is None or len(selection.groups) * len(selection.channels) > MOST_EXTREMES:
        return
    for layer, channels in selection.pages.items():
        values = mean_activations(source, sample, layer)
        for group in selection.groups:
            rows = wrong[sample.group[wrong] == group]
            for channel in channels:
                active = rows[values[rows, channel] > values[:, channel].mean()]
                key = (layer, channel), group
                findings.wrong[key] = _strongest(findings, sample, active, values[:, channel], WRONG)


def mean_activations(source: ReportSource, sample: SampleTable, layer: str) -> Floats:
    """Means of the maps (n, C) of the sampled rows."""
    plan = source.plan.layer(layer)
    return np.asarray(
        plan.mean_centre.double().numpy() + plan.mean_unit.double().numpy() * sample.means(layer), np.float64
    )


def _strongest(
    findings: Findings, sample: SampleTable, rows: Rows, values: Floats, count: int
) -> list[tuple[int, float]]:
    """So many of the rows with the largest values; ties in the sample's order."""
    return _pooled(findings, sample, rows[np.argsort(-values[rows], kind="stable")[:count]], values)


def _at_equal_steps(rows: Rows) -> Rows:
    """SPREAD of the rows, with the first and the last; all of fewer."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, SPREAD).round().astype(np.int64))] if len(rows) else rows


def _pooled(findings: Findings, sample: SampleTable, rows: Rows, values: Floats) -> list[tuple[int, float]]:
    """Rows of the sample as numbers of the pool, each with its value."""
    return [(findings.pool.add(ref), float(values[row])) for ref, row in zip(sample.refs(rows), rows, strict=True)]


def _choose_cam_rows(sample: SampleTable, selection: PageSelection, findings: Findings) -> None:
    """A few rows of each group, spread over the values of the first target."""
    rows_per_group = max(1, CAM_IMAGES // len(selection.groups))
    for group in selection.groups[:CAM_IMAGES]:
        rows = np.flatnonzero(sample.group == group).astype(np.int64)
        if not len(rows):
            continue
        order = rows[np.argsort(sample.targets[rows, 0], kind="stable")]
        quantiles = np.unique(((np.arange(rows_per_group) + 0.5) / rows_per_group * len(order)).astype(np.int64))
        refs: list[Ref] = sample.refs(order[quantiles])
        findings.cam_rows[group] = [findings.pool.add(ref) for ref in refs]
