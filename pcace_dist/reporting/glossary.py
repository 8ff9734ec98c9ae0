"""What the page's terms are: a sentence each. Columns say it where they are declared; the rest stands here.

docs/glossary.md begins its entries with the same sentences (tests/docs/test_glossary.py).
"""

from __future__ import annotations

from pcace_dist.artifacts import rankings

TERMS = {
    "layer": "a module of the model whose output is ranked, channel by channel",
    "map": "what one channel gives for one image: a grid of numbers, or one number",
    "channel": "one output feature of a layer, for example one filter of a convolution",
    "target": "the number of each image that channels are ranked against: a logit, a loss, a column of the data",
    "group": "the images with one value of the column `group_by`, for example of one class",
    "ranking": "the channels of all layers, in order, for one target and one group",
    "component": "a principal axis of the channel's map: the weight of each position",
    "knot": "a fixed point on the scale of a component or target, between which transforms are straight",
    "transform": "a curve over one variable: theta over the target, phi over a component",
    "code": "a value rounded to its place between two knots: one byte",
    "fold": "one of 16 parts of the images; leaving out one at a time gives the intervals",
    "jackknife": "the score without each fold in turn: their spread gives the interval, their mean removes the bias",
    "interval": "where the score would lie with other images and another pilot (95 %), for this channel, not for all at"
    " once",
    "rank interval": "the places that so many images cannot exclude (95 %): where they overlap, the order is open",
    "true top": "the best channels of any number of images and of another pilot",
    "exemplar": "one of the images that excite a channel most",
    "pilot": "about 2,048 images, spread evenly over the data, that are read first",
    "plan": "what the pilot decided, frozen: axes, knots, scales",
    "bad row": "a row whose bytes are wrong: it is set aside with its reason",
}
"""By the name that docs/glossary.md has for it."""
IN_SENTENCES = (
    *("component", "effect", "exemplar", "fold", "interval", "jackknife", "knot"),
    *("pilot", "plan", "score", "support", "transform", "true top"),
)
"""Terms that are explained where a view first uses them. Of the others the page says what they are at its end: layer,
group and map are words of every sentence."""

_OF_THE_PAGE = {
    "name": "the layer and the number of the channel in it",
    "effect_interval": "the 95 % interval of the effect",
    "effect_rank_interval": "the places by effect that so many images cannot exclude (95 %)",
    "theta": "the transform of the target with which channel and target agree most",
    "phi": "the transform of a component with which channel and target agree most",
    "explained": "the share of the variance of the channel's map that a component holds",
    "suggested_name": "the word that the images which activate the channel most are like, chosen on half of the images;"
    " its AUC is of the other half",
    "few_images": "with so few images the intervals are wide, and ranks are open",
    "few_support": "the score rests on a small share of the images: it is the work of a few of them",
}
GLOSSARY = {
    name.replace(" ", "_"): sentence.replace("`", "")
    for name, sentence in (
        {column.name: column.meaning for column in rankings.TABLE.columns}
        | {"norm": next(column.meaning for column in rankings.TABLE.columns if column.name == "weight_norm")}
        | TERMS
        | _OF_THE_PAGE
    ).items()
}
"""A sentence by term: the columns of rankings.parquet, the terms of docs/glossary.md, and what else the page shows."""
