"""What the page's terms are: a sentence each. Columns say it where they are declared; the rest stands here."""

from __future__ import annotations

from pcace_dist.artifacts import rankings

_OF_THE_PAGE = {
    "name": "the layer and the number of the channel in it",
    "interval": "the bar is the 95 % interval of the score, of this channel, not of all at once; the mark is the score",
    "effect_interval": "the 95 % interval of the effect",
    "rank_interval": "the places that so many images cannot exclude (95 %): where they overlap, the order is open",
    "effect_rank_interval": "the places by effect that so many images cannot exclude (95 %)",
    "component": "a principal axis of the channel's map: the weight of each position",
    "theta": "the transform of the target with which channel and target agree most",
    "phi": "the transform of a component with which channel and target agree most",
    "explained": "the share of the variance of the channel's map that a component holds",
    "suggested_name": "the word that the images which activate the channel most are like, chosen on half of the images;"
    " its AUC is of the other half",
    "few_images": "with so few images the intervals are wide, and ranks are open",
    "few_support": "the score rests on a small share of the images: it is the work of a few of them",
}
GLOSSARY = {
    **{column.name: column.meaning.replace("`", "") for column in rankings.TABLE.columns},
    "norm": next(column.meaning for column in rankings.TABLE.columns if column.name == "weight_norm"),
    **_OF_THE_PAGE,
}
"""A sentence by term: the columns of rankings.parquet, and what else the page shows."""
