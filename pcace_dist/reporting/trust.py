"""How far a ranking is to be trusted, by what lies in the run: who is in its true top, its expected stability, and
what `pcace evaluate` and `pcace select` have written beside it. Plain JSON comes out; the model and the images are not
needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.columns import EVALUATION
from pcace_dist.analysis.curves import BAND, RANDOM
from pcace_dist.analysis.stability import ENOUGH, RELIABLE, Stability, stability_of
from pcace_dist.artifacts.checked import parse_json, parsing, read_checked, read_parquet
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.reporting.source import Ranking, ReportSource
from pcace_dist.statistics.order.membership import InTop
from pcace_dist.statistics.score import OK, required_images

Floats: TypeAlias = npt.NDArray[np.float64]
TOP = 10
LIKELIEST = 30  # channels that are named
ANEW = "remove it, or let the verb that wrote it write it anew"
EXPECTED = ("images", "spearman_expected", "overlap_expected", "spearman_another_pilot", "overlap_another_pilot")
MOST_CHANNELS = 20_000  # of all rankings whose stability is worked out; `pcace stability` has no such limit


def trust_of(source: ReportSource, groups: Sequence[int]) -> dict[str, Any]:
    """top, stability, evaluation and sets of the groups that are shown; None where the run has nothing of the kind."""
    return {
        "top": list(_tops(source, groups)) or None,
        "stability": list(_stabilities(source, groups)) or None,
        "evaluation": _evaluation(source, groups),
        "sets": _sets(source, groups),
    }


# -- the true top


def _tops(source: ReportSource, groups: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Of all layers, those that the page leaves out among them. channels: the likeliest."""
    if source.job.statistics.estimator != "gram" or source.run.ranking().num_rows > MOST_CHANNELS:
        return
    rankings: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in source.run.membership(TOP).to_pylist():
        if row["in_top"] is not None:
            rankings.setdefault((row["target"], row["group"]), []).append(row)
    for (target, group), rows in rankings.items():
        place = _place(source.ranking, groups, target, group)
        if place is not None:
            yield {**place, **_top(rows)}


def _top(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    likeliest = sorted(rows, key=lambda row: (-row["in_top_probability"], row["rank"]))[:LIKELIEST]
    return {
        "top": min(TOP, len(rows)),
        "of": len(rows),
        "surely": sum(row["in_top"] == InTop.SURELY for row in rows),
        "possibly": sum(row["in_top"] != InTop.NO for row in rows),
        "expected": sum(row["in_top_probability"] for row in rows if row["rank"] <= TOP),
        "channels": [
            {name: row[name] for name in ("layer", "channel", "in_top", "in_top_probability")}
            for row in likeliest
            if row["in_top"] != InTop.NO
        ],
    }


# -- stability: expected from the jackknife alone


def _stabilities(source: ReportSource, groups: Sequence[int]) -> Iterator[dict[str, Any]]:
    ranking = source.ranking
    blocks = [(target, group) for target in range(len(ranking.targets)) for group in groups]
    if source.job.statistics.estimator != "gram" or len(blocks) * ranking.channels > MOST_CHANNELS:
        return
    names = [name for name, _ in ranking.layers]
    jackknife = source.run.table("jackknife.parquet", filters=[("layer", "in", names)])
    for target, group in blocks:
        found = _stability(source, target, group, jackknife)
        if found is not None:
            yield {"target": target, "group": list(groups).index(group), **_shown(found)}


def _stability(source: ReportSource, target: int, group: int, jackknife: pa.Table) -> Stability | None:
    """None where no channel is ranked."""
    ranking = source.ranking
    block = ranking.block(target, group)
    ok = np.flatnonzero(np.array(block["status"].to_pylist()) == OK)
    if len(ok) < 2:
        return None
    first = (target * len(ranking.groups) + group) * ranking.channels
    rows = jackknife.slice(first, ranking.channels).take(pa.array(ok))
    return stability_of(
        ranking.targets[target],
        ranking.groups[group],
        int(block["images"][int(ok[0])].as_py()),
        ranking.numbers(target, group, "score_squared")[ok],
        by_fold(rows, "pseudo_values"),
        by_fold(rows, "plan_noise"),
        {},
        source.plan.folds,
        top=TOP,
        least=RELIABLE * required_images(source.plan.components, source.plan.knots),
        seed=source.job.compute.seed,
    )


def _shown(found: Stability) -> dict[str, Any]:
    levels = [asdict(level) for level in found.levels if np.isfinite(level.spearman_expected)]
    kept = [name for name in EXPECTED if all(np.isfinite(level[name]) for level in levels)]
    return {
        "images": found.images,
        "top": found.top,
        "share": ENOUGH,
        "enough": found.enough,
        "levels": [{name: level[name] for name in kept} for level in levels],
    }


# -- what other verbs have written


def _evaluation(source: ReportSource, groups: Sequence[int]) -> dict[str, Any] | None:
    url = f"{source.run.path}/evaluation.json"
    if source.run.storage.stat(url) is None:
        return None
    written = parse_json(read_checked(source.run.storage, url, None), url, ANEW)
    table = read_parquet(source.run.storage, f"{source.run.path}/{EVALUATION.file}", None)
    with parsing(url, ANEW):
        return {"verdict": written["verdict"], "curves": list(_curves(source.ranking, groups, table))}


def _curves(ranking: Ranking, groups: Sequence[int], table: pa.Table) -> Iterator[dict[str, Any]]:
    keys: dict[tuple[Any, ...], dict[str, dict[int, list[tuple[int, float]]]]] = {}
    names = ("target", "group", "layer", "replacement", "order", "draw", "k", "lost")
    for *key, order, draw, k, lost in zip(*(table[name].to_pylist() for name in names), strict=True):
        keys.setdefault(tuple(key), {}).setdefault(order, {}).setdefault(draw, []).append((k, lost))
    for (target, group, layer, replacement), orders in keys.items():
        place = _place(ranking, groups, target, group)
        if place is not None:
            drawn = np.array([[lost for _, lost in curve] for curve in orders.pop(RANDOM, {}).values()])
            band = np.percentile(drawn, BAND, axis=0).tolist() if len(drawn) else None
            curves = {name: [lost for _, lost in draws[0]] for name, draws in orders.items()}
            sizes = [k for k, _ in next(iter(orders.values()))[0]]
            yield {**place, "layer": layer, "replacement": replacement, "k": sizes, "orders": curves, "band": band}


def _sets(source: ReportSource, groups: Sequence[int]) -> dict[str, Any] | None:
    url = f"{source.run.path}/select.json"
    if source.run.storage.stat(url) is None:
        return None
    written = parse_json(read_checked(source.run.storage, url, None), url, ANEW)
    with parsing(url, ANEW):
        return {
            "by": written["by"],
            "share": written["share"],
            "duplicates": written["duplicates"],
            "sets": list(_placed(source.ranking, groups, written["sets"])),
        }


def _placed(ranking: Ranking, groups: Sequence[int], sets: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for found in sets:
        place = _place(ranking, groups, found["target"], found["group"])
        if place is not None:
            yield {**found, **place}


def _place(ranking: Ranking, groups: Sequence[int], target: str, value: Any) -> dict[str, int] | None:
    """Numbers of a target and a group on the page; None for what is not shown. JSON has groups as text or numbers."""
    group = next((i for i, g in enumerate(groups) if value in (ranking.groups[g], str(ranking.groups[g]))), None)
    if group is None or target not in ranking.targets:
        return None
    return {"target": ranking.targets.index(target), "group": group}
