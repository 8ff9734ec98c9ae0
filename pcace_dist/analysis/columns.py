"""What the columns of the tables of `pcace compare`, `evaluate` and `select` are, shown in docs/reference/outputs.md.

`tests/reference/test_outputs.py` holds them to the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pcace_dist.artifacts.columns import CHANNEL, KEYS, LAYER, OF_GROUP, TARGET, Column, Table

_SCORES = {
    "status": "string",
    "images": "int64",
    "rank": "int32",
    "rank_low": "int32",
    "rank_high": "int32",
    "layer_rank": "int32",
    "score": "float64",
    "score_low": "float64",
    "score_high": "float64",
}

_EFFECTS = {
    "effect_status": "string",
    "effect_rank": "int32",
    "effect_rank_low": "int32",
    "effect_rank_high": "int32",
    "effect": "float64",
    "effect_low": "float64",
    "effect_high": "float64",
}


def _in_both(kinds: Mapping[str, str]) -> Iterator[Column]:
    """Columns of both rankings, side by side: name_a, name_b."""
    for name, kind in kinds.items():
        yield Column(f"{name}_a", kind, f"`{name}` in the earlier run")
        yield Column(f"{name}_b", kind, f"`{name}` in the later run")


COMPARISON = Table(
    "comparison.parquet",
    "`pcace compare`: a row per target, group, layer and channel that both runs have.",
    (
        *KEYS,
        *_in_both(_SCORES),
        Column("change", "float64", "`score_b` - `score_a`; a score that is null counts as 0"),
        Column("squared_change", "float64", "change of `score_squared`: what is judged"),
        Column("squared_error", "float64", "standard error of `squared_change`"),
        Column("p_value", "float64", "probability of such a change by chance alone"),
        Column("q_value", "float64", "false discovery rate if all changes of this p-value and below count"),
        Column(
            "movement", "string", "`rose`, `fell`, `same`, `appeared`, `died`, or `unknown` where nothing can be judged"
        ),
        Column("moved", "bool", "whether q_value is at most --level and the change at least --tolerance"),
        *_in_both(_EFFECTS),
        Column("effect_change", "float64", "`effect_b` - `effect_a`; null unless both runs have effects of one kind"),
        Column("effect_error", "float64", "its standard error"),
        Column("effect_p_value", "float64", "probability of such a change by chance alone"),
        Column("effect_q_value", "float64", "false discovery rate if all changes of this p-value and below count"),
        Column("effect_moved", "bool", "whether it is at most --level and the change at least --effect-tolerance"),
    ),
)

MATCHING = Table(
    "matching.parquet",
    "`pcace compare --match`: a row per layer and channel of the earlier run.",
    (
        LAYER,
        CHANNEL,
        Column("channel_b", "int32", "the channel of the later run that is most like it, one to one"),
        Column("likeness", "float64", "how alike the two are on the same images, 0 to 1; from 0.7 on the same one"),
        Column("own", "float64", "likeness of the channel of the later run that has the same number"),
    ),
)

EVALUATION = Table(
    "evaluation.parquet",
    "`pcace evaluate`: a row per ablation curve and number of replaced channels.",
    (
        TARGET,
        OF_GROUP,
        LAYER,
        Column("replacement", "string", "what takes a channel's place: `mean`, `zero`, `bias` or `optimal`"),
        Column(
            "order",
            "string",
            "by what channels are replaced: `pcace`, `effect`, `score_sd`, `greedy`, `worst`, `random`, or a baseline",
        ),
        Column("draw", "int32", "number of the random order, from 0; 0 for the others"),
        Column("k", "int32", "channels that are replaced"),
        Column("images", "int64", "images on which the effect is measured"),
        Column("lost", "float64", "1 - r^2 between the target with and without them: 0 nothing, 1 everything"),
        Column("change", "float64", "mean of the target after, less that before"),
        Column("accuracy", "float64", "share of labelled images that are still classified right; null without labels"),
        Column("changed", "float64", "variance of the target's change in units of its variance: 0 nothing"),
    ),
)

SELECT = Table(
    "select.parquet",
    "`pcace select`: a row per target, group, layer and channel that was asked for.",
    (
        *KEYS,
        Column("by", "string", "`effect` or `score`: what sets are chosen by"),
        Column("images", "int64", "images that count"),
        Column("place", "int32", "1 goes into the set first; null where the channel has no effect, score or place"),
        Column("share", "float64", "what the channels up to this place carry (or tell), of what all do, out of fold"),
        Column("share_low", "float64", "lower end of its 95 % interval"),
        Column("share_high", "float64", "upper end of its 95 % interval"),
        Column("selected", "bool", "whether the channel is in the set that has --share"),
        Column("removal_place", "int32", "1 is taken away first to lose most; null by score"),
        Column("lost", "float64", "what is lost without the channels up to this place, of what is lost without all"),
        Column("lost_low", "float64", "lower end of its 95 % interval"),
        Column("lost_high", "float64", "upper end of its 95 % interval"),
        Column("twin", "int32", "the other channel of the layer that is most like this one; null without a sample"),
        Column("likeness", "float64", "how alike they are, 0 to 1; from 0.95 they are as good as one"),
    ),
)
