"""`pcace select`: the smallest sets of channels found that carry or tell a share of the output, ranking by ranking.

    run, kept codes -> series of each target, group and layer -> second moments by fold -> orders and curves -> sets

By effect a set is one to keep, with all other channels of the layer held at their mean maps (statistics/sets).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.matched import codes_of_sample
from pcace_dist.analysis.matching import likeness
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.commands.select.one_more_pass import rows_by_a_pass
from pcace_dist.commands.select.rows import KeptRows, from_codes, open_rows
from pcace_dist.commands.select.series import Effects, Series, Transforms, moments_bytes
from pcace_dist.commands.select.sets import By, Case, ChannelSet, Selected, SelectSettings
from pcace_dist.errors import JobError
from pcace_dist.statistics.score import OK
from pcace_dist.statistics.sets.carried import Kept, Removed, layer_loss
from pcace_dist.statistics.sets.curves import Curve, curve_of
from pcace_dist.statistics.sets.moments import Moments
from pcace_dist.statistics.sets.told import Told
from pcace_dist.worker.memory import default_memory

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

LIKENESS_DIGITS = 6  # the rest is rounding, another one for another number of threads
MOST_TOLD = 64  # channels of a set that is chosen by what it tells


def select(run: Run, settings: SelectSettings, *, folder: str) -> Selected:
    """The sets of a finished run, from its kept codes; without these from one more pass, whose codes are kept in
    `folder`. Raises UserError, Stopped."""
    ranking = run.ranking(layer=settings.layers, group=settings.group, target=settings.target)
    cases, left_out = _cases(run, ranking, settings.by)
    if not cases:
        instead = "; --by score needs no effects" if settings.by == "effect" else ""
        raise JobError(f"{run.path}: has nothing to select by {settings.by}: {'; '.join(left_out)}{instead}")
    rows = open_rows(run) or rows_by_a_pass(run, folder)
    series = _series(run, rows, cases, settings.by)
    sets = {case: found for some in _at_a_time(rows, series) for case, found in _sets(rows, some)}
    left_out += [f"{_shown(run, case)}: its channels carry nothing" for case in cases if case not in sets]
    ordered = tuple(sets[case] for case in cases if case in sets)
    alike = _alike(run, dict.fromkeys(found.case.layer for found in ordered))
    return Selected(run.path, settings, ranking["group"].type, ordered, tuple(left_out), alike)


# -- what is asked


def _cases(run: Run, table: pa.Table, by: By) -> tuple[list[Case], list[str]]:
    """Cases in the order of the rankings, and those without channels that count, with the reason."""
    name = "effect_status" if by == "effect" else "status"
    status = table[name].to_pylist() if name in table.column_names else ["off"] * len(table)
    columns = (table[column].to_pylist() for column in ("target", "group", "layer", "channel"))
    found: dict[tuple[str, Any, str], list[tuple[int, str]]] = {}
    for *key, channel, own in zip(*columns, status, strict=True):
        found.setdefault((key[0], key[1], key[2]), []).append((channel, own))
    cases: list[Case] = []
    left_out: dict[str, list[Case]] = {}
    for (target, group, layer), channels in found.items():
        case = Case(target, group, layer, len(channels), tuple(channel for channel, own in channels if own == OK))
        if case.channels:
            cases.append(case)
        else:
            left_out.setdefault(f"{name} {channels[0][1]}", []).append(case)
    return cases, [_reason(run, why, without) for why, without in left_out.items()]


def _reason(run: Run, why: str, cases: Sequence[Case]) -> str:
    more = f" and {len(cases) - 1:,} more" if len(cases) > 1 else ""
    return f"{_shown(run, cases[0])}{more}: {why}"


def _shown(run: Run, case: Case) -> str:
    ranking = run.names.ranking(case.target, case.group, grouped=run.job.group_by is not None)
    return f"{ranking}, {case.layer}"


# -- the rows


def _series(run: Run, rows: KeptRows, cases: Sequence[Case], by: By) -> dict[Case, Series]:
    if by == "score":
        return _transforms(run, rows, cases)
    effects = rows.plan.effects
    assert effects is not None  # or no channel would be ok
    numbers = {case.target: effects.index(case.target) for case in cases}
    return {
        case: Effects(rows, case.layer, number, np.array(case.channels, np.int64))
        for case in cases
        if (number := numbers[case.target]) is not None
    }


def _transforms(run: Run, rows: KeptRows, cases: Sequence[Case]) -> dict[Case, Series]:
    """Of channels with published transforms: all but the middle ones of a large run."""
    table = run.transforms()
    if table is None or not len(table):
        raise JobError(f"{run.path}: has no transforms.parquet, which --by score needs; use --by effect")
    found: dict[tuple[str, Any, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault((row["target"], row["group"], row["layer"]), []).append(row)
    targets = [target.name for target in rows.plan.targets]
    series: dict[Case, Series] = {}
    for case in cases:
        own = found.get((case.target, case.group, case.layer), [])
        if own:
            series[case] = Transforms.of(rows, case.layer, targets.index(case.target), own)
    return series


# -- sets


def _at_a_time(rows: KeptRows, series: Mapping[Case, Series]) -> Iterator[dict[Case, Series]]:
    """Cases of one layer whose sums fit into memory together: a pass over the layer's codes each."""
    memory = default_memory(1)
    some: dict[Case, Series] = {}
    held = 0
    for case, own in sorted(series.items(), key=lambda item: item[0].layer):
        size = moments_bytes(own, rows.plan.folds)
        if some and (held + size > memory or case.layer != next(iter(some)).layer):
            yield some
            some, held = {}, 0
        some[case] = own
        held += size
    if some:
        yield some


def _sets(rows: KeptRows, series: Mapping[Case, Series]) -> Iterator[tuple[Case, ChannelSet]]:
    """The sets of cases of one layer. Those that carry nothing are left out."""
    sums = {case: Moments(len(own.units), rows.plan.folds, own.units) for case, own in series.items()}
    for part in rows.parts(next(iter(series)).layer):
        for case, own in series.items():
            if case.group == part.group:
                sums[case].update(*own.values(part))
    for case, own in series.items():
        found = _set(case, own, sums.pop(case))
        if found is not None:
            yield case, found


def _set(case: Case, series: Series, moments: Moments) -> ChannelSet | None:
    images = int(moments.rows.sum())
    if isinstance(series, Transforms):
        curve = curve_of(moments, Told(series.first, MOST_TOLD))
        whole = float(curve.share.max(initial=0.0))
        if whole <= 0:
            return None
        told = Curve(curve.order, curve.share / whole, curve.low / whole, curve.high / whole)
        return ChannelSet(case, images, whole, series.channels[curve.order], told, None, None)
    whole = layer_loss(moments.covariance())
    if np.isnan(whole):
        return None
    kept, removed = curve_of(moments, Kept()), curve_of(moments, Removed())
    order, removal = (series.channels[curve.order] for curve in (kept, removed))
    return ChannelSet(case, images, whole, order, kept, removal, removed)


# -- duplicates


def _alike(run: Run, layers: Collection[str]) -> dict[str, Floats] | None:
    """By layer the likeness (C, C) of its channels, from the run's sample; None where there is none."""
    source = from_codes(run)
    sampled = run if source is None else open_run(source, storage=run.storage)
    table = sampled.sample()
    if table is None:
        return None
    codes = codes_of_sample(table, sampled.job.statistics.components)
    return {layer: np.round(likeness(codes[layer], codes[layer]), LIKENESS_DIGITS) for layer in layers}
