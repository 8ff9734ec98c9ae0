"""rankings.parquet: a row per target, group, layer and channel (docs/reference/outputs.md). Read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pcace_dist.artifacts.columns import KEYS, Column, Table
from pcace_dist.artifacts.encoding import parquet_bytes
from pcace_dist.config.choice import short

if TYPE_CHECKING:
    from pcace_dist.artifacts.block_scores import BlockScores, RankedResult
    from pcace_dist.artifacts.reading.class_names import ClassNames
    from pcace_dist.config.sections import Statistics
    from pcace_dist.statistics.effects.scores import EffectScores
    from pcace_dist.statistics.order.ranks import Ranks
    from pcace_dist.statistics.plan import Plan
    from pcace_dist.storage.store import Sink

RANKINGS = "rankings.parquet"
NAMED = 10  # groups that are named of those without a ranking
SMALL_SUPPORT = 0.05  # a score that rests on fewer of the images is the work of a few of them
TOO_FEW = "too_few_images"  # the status of a channel without a rank (statistics.score.TOO_FEW_IMAGES)
RANKED = "ok"  # the status of a channel with a rank (statistics.score.OK)

ROW_GROUP_ROWS = 8192

NUMBERS = (
    "score",
    "score_squared",
    "score_low",
    "score_high",
    "score_low_given_plan",
    "score_high_given_plan",
    "score_in_sample",
    "score_first_component",
    "pearson",
    "mean_activation",
    "activation_variance",
    "weight_norm",
    "clamped",
    "support",
)
EFFECTS = ("effect", "effect_low", "effect_high", "effect_sd")
EFFECT_STATUSES = ("ok", "off", "no_gradient", "not_of_the_model", "constant", "too_few_images")

TABLE = Table(
    RANKINGS,
    "A row per target, group, layer and channel, sorted so: layers and channels in the model's order.",
    (
        *KEYS,
        Column("images", "int64", "images that count for this channel"),
        Column("rank", "int32", "1 is the best, over all layers of this target and group; null unless status is ok"),
        Column("layer_rank", "int32", "1 is the best within the layer; null unless status is ok"),
        Column("rank_low", "int32", "lower end of the 95 % interval of `rank`; null without a jackknife"),
        Column("rank_high", "int32", "upper end of the 95 % interval of `rank`"),
        Column("rank_low_given_plan", "int32", "the same, given the plan: without what another pilot would change"),
        Column("rank_high_given_plan", "int32", "upper end"),
        Column("score", "float64", "maximal correlation of map and target, 0 to 1, corrected for its bias"),
        Column("score_squared", "float64", "its square, not clipped at 0: what ranks go by"),
        Column(
            "score_low", "float64", "lower end of the 95 % interval of `score`, which holds another pilot's as well"
        ),
        Column("score_high", "float64", "upper end of the 95 % interval of `score`"),
        Column("score_low_given_plan", "float64", "the same, given the plan: what more images alone would change"),
        Column("score_high_given_plan", "float64", "upper end"),
        Column("score_in_sample", "float64", "the score without the correction: too high for few images"),
        Column("score_first_component", "float64", "the published code's: correlation with the first component alone"),
        Column("pearson", "float64", "correlation of the map's mean with the target, -1 to 1"),
        Column("mean_activation", "float64", "mean of the map over pixels and images"),
        Column("activation_variance", "float64", "variance of the map's mean over images"),
        Column("weight_norm", "float64", "L2 norm of the channel's weights; null where the layer has none"),
        Column("clamped", "float64", "share of codes at the first or last knot: large where data lie beyond the pilot"),
        Column("support", "float64", "share of the images that the score rests on; below 0.05 it is the work of a few"),
        Column("effect", "float64", "share of the target's variance that goes through the channel; signed"),
        Column("effect_low", "float64", "lower end of the 95 % interval of `effect`"),
        Column("effect_high", "float64", "upper end of the 95 % interval of `effect`"),
        Column("effect_sd", "float64", "standard deviation of what goes through the channel, in the target's"),
        Column("effect_rank", "int32", "1 is the largest effect, over all layers of this target and group"),
        Column("effect_rank_low", "int32", "lower end of the 95 % interval of `effect_rank`"),
        Column("effect_rank_high", "int32", "upper end of the 95 % interval of `effect_rank`"),
        Column("effect_status", "string", ", ".join(f"`{status}`" for status in EFFECT_STATUSES)),
        Column("status", "string", "`ok`, `constant` or `too_few_images`"),
    ),
)


def rankings_table(
    plan: Plan,
    blocks: Sequence[BlockScores],
    ranks: Sequence[Ranks],
    weight_norms: Mapping[str, Sequence[float | None]],
    group_type: pa.DataType,
) -> pa.Table:
    """rankings.parquet: a row per target x group x layer x channel, sorted so (docs/reference/outputs.md).

    ranks: those of `rank_tasks`, in its order.
    """
    from pcace_dist.artifacts.block_scores import each_ranked  # with torch

    ordered = sorted(blocks, key=lambda b: b.block.index)
    layers = np.concatenate([np.repeat(b.block.layer, b.block.stop - b.block.start) for b in ordered])
    channels = np.concatenate([np.arange(b.block.start, b.block.stop, dtype=np.int32) for b in ordered])
    norms = np.concatenate([np.asarray(weight_norms[name], np.float64) for name in (y.name for y in plan.layers)])
    return pa.concat_tables(
        _with_effects(_ranking(ranked, group_type, layers, channels, norms), ranked.effects, ranked.by_effect)
        for ranked in each_ranked(plan, ordered, ranks)
    )


def _ranking(
    ranked: RankedResult, group_type: pa.DataType, layers: np.ndarray, channels: np.ndarray, norms: np.ndarray
) -> pa.Table:
    scores, ranks = ranked.scores, ranked.by_score
    ok = scores.status == RANKED
    sure = ok & np.isfinite(scores.pseudo).any(axis=1)  # sample-level ACE gives no intervals
    count = len(channels)
    numbers = {name: getattr(scores, name) for name in NUMBERS if name != "weight_norm"} | {"weight_norm": norms}
    return pa.table(
        {
            "target": pa.array([ranked.target] * count, pa.string()),
            "group": pa.array([ranked.group] * count, group_type),
            "layer": pa.array(layers.tolist(), pa.string()),
            "channel": pa.array(channels, pa.int32()),
            "images": pa.array(scores.images, pa.int64()),
            "rank": pa.array(ranks.rank, pa.int32(), mask=~ok),
            "layer_rank": pa.array(_layer_ranks(layers, ranks.rank, ok), pa.int32(), mask=~ok),
            "rank_low": pa.array(ranks.low, pa.int32(), mask=~sure),
            "rank_high": pa.array(ranks.high, pa.int32(), mask=~sure),
            "rank_low_given_plan": pa.array(ranked.given_plan.low, pa.int32(), mask=~sure),
            "rank_high_given_plan": pa.array(ranked.given_plan.high, pa.int32(), mask=~sure),
            **{name: pa.array(numbers[name], pa.float64(), mask=np.isnan(numbers[name])) for name in NUMBERS},
            "status": pa.array(scores.status.tolist(), pa.string()),
        }
    )


def _with_effects(table: pa.Table, effects: EffectScores, ranks: Ranks) -> pa.Table:
    """The ranking with the columns of effects before its status."""
    ok = effects.status == RANKED
    numbers = dict(zip(EFFECTS, (effects.effect, effects.low, effects.high, effects.sd), strict=True))
    columns = {name: pa.array(values, pa.float64(), mask=~ok) for name, values in numbers.items()}
    for name, values in (("rank", ranks.rank), ("rank_low", ranks.low), ("rank_high", ranks.high)):
        columns[f"effect_{name}"] = pa.array(values, pa.int32(), mask=~ok)
    columns["effect_status"] = pa.array(effects.status.tolist(), pa.string())
    for name, column in columns.items():
        table = table.add_column(table.num_columns - 1, name, column)
    return table


def _layer_ranks(layers: np.ndarray, rank: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Rank within the layer, from the rank over all layers."""
    result = np.zeros(len(rank), np.int32)
    for layer in np.unique(layers):
        rows = np.flatnonzero((layers == layer) & ok)
        result[rows[np.argsort(rank[rows])]] = np.arange(1, len(rows) + 1)
    return result


def publish_rankings(sink: Sink, rankings: pa.Table) -> None:
    """In row groups of some thousand rows, whose statistics let a reader skip other targets and groups."""
    sink.put(RANKINGS, parquet_bytes(rankings, row_group_rows=ROW_GROUP_ROWS))


def best_of(table: pa.Table, top: int | None, *, by: str = "rank") -> pa.Table:
    """The first `top` rows of every target and group, best first; the table itself where `top` is None.

    by: the column of ranks. Rows without a rank are left out.
    """
    if top is None:
        return table
    table = table.filter(pc.is_valid(pc.field(by)))
    block = ranking_numbers(table)
    order = np.lexsort((table[by].to_numpy(), block))
    place = np.arange(len(order)) - np.searchsorted(block[order], block[order])
    return table.take(pa.array(order[place < top]))


def ranking_numbers(table: pa.Table) -> np.ndarray:
    """The number of each row's target and group, in the order of their first rows."""
    targets, groups = (
        pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode").indices.to_numpy()
        for name in ("target", "group")
    )
    keys = targets.astype(np.int64) * (groups.max(initial=0) + 1) + groups
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def enough_for(images: int, components: int, knots: int) -> str:
    """What to do where so many images are too few for a score with these settings."""
    from pcace_dist.statistics.score import MIN_IMAGES, required_images, settings_for  # with torch

    fewer = settings_for(images, components, knots)
    if fewer is None:
        return f"take more images (no setting takes fewer than {MIN_IMAGES})"
    changes = [("statistics.components", fewer[0], components), ("statistics.knots", fewer[1], knots)]
    settings = " and ".join(f"{key}: {value}" for key, value, now in changes if value != now)
    return f"take more images, or {settings}, which takes {required_images(*fewer)}"


def unranked(table: pa.Table) -> pa.Table:
    """Rankings without a ranked channel: target, group, images (the most that a channel has) and statuses (those of its
    channels, each once). table: rows of rankings.parquet."""
    table = table.append_column("place", pa.array(range(len(table))))
    aggregates = [("rank", "count"), ("images", "max"), ("status", "distinct"), ("place", "min")]
    rankings = table.group_by(["target", "group"]).aggregate(aggregates).sort_by("place_min")
    rankings = rankings.filter(pc.equal(rankings["rank_count"], 0))
    rankings = rankings.select(["target", "group", "images_max", "status_distinct"])
    return rankings.rename_columns(["target", "group", "images", "statuses"])


def why_unranked(table: pa.Table, names: ClassNames, settings: Statistics, *, grouped: bool) -> list[str]:
    """Lines for people: which rankings have no ranked channel, why, and what to do. table: rows of rankings.parquet."""
    from pcace_dist.statistics.score import MIN_FOLDS, required_images  # with torch

    rows = unranked(table).to_pylist()
    lines = []
    for target in dict.fromkeys(row["target"] for row in rows):
        reasons = [_reason(row, names, grouped) for row in rows if row["target"] == target]
        more = f" and {len(reasons) - NAMED:,} more" if len(reasons) > NAMED else ""
        lines.append(f"{names.target(target)}: no channel is ranked: {'; '.join(reasons[:NAMED])}{more}")
    few = [row["images"] for row in rows if TOO_FEW in row["statuses"]]
    if few:
        components, knots = settings.components, settings.knots
        lines.append(
            f"a channel is ranked from {required_images(components, knots):,} images on (fewer where it varies in "
            f"fewer components), in at least {MIN_FOLDS} folds: {'make larger groups, ' if grouped else ''}"
            f"{enough_for(max(few), components, knots)}"
        )
    return lines


def _reason(row: dict[str, Any], names: ClassNames, grouped: bool) -> str:
    reason = "too few images" if TOO_FEW in row["statuses"] else "the target or every channel is constant"
    images = f"{row['images']:,} image{'' if row['images'] == 1 else 's'}, {reason}"
    return f"group {short(names.group(row['group']))} ({images})" if grouped else images
