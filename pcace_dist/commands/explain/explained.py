"""What `pcace explain` finds, and how it is said as JSON. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MEANINGS = {
    "activation": "mean of the channel's map over this image",
    "percentile": "share of the run's sampled images, in percent, whose mean is lower",
    "adds": "what the channel contributes to the target, in the target's unit, to first order: its gradient times what "
    "its map has more than the mean map (method.md, section 7)",
    "checked": "how much lower the target is when the channel's mean map takes its place: the model itself, asked",
    "tells": "how many standard deviations above the mean the target is expected, from this channel alone: its score "
    "times its transformed map",
}
"""Of the numbers of a channel that belong to the image alone."""


@dataclass(frozen=True)
class Output:
    """An output of the model: its number, what it is called, its value, and its probability where outputs are those of
    classes."""

    output: int
    name: str
    value: float
    probability: float | None = None


@dataclass(frozen=True)
class LayerSum:
    """All channels of a layer together. place: where contributions are taken from. adds: their sum. checked: how much
    lower the target is with the mean maps of all of them; of a layer that all goes through and a linear rest, equal."""

    layer: str
    place: str
    channels: int
    adds: float
    checked: float


@dataclass(frozen=True)
class ChannelPart:
    """A channel; MEANINGS of its numbers, NaN where one is not known. rank to effect: of the ranking. apart: mean
    activations of tokens that are no place of the image, by name."""

    layer: str
    channel: int
    rank: float
    score: float
    effect: float
    activation: float
    percentile: float
    adds: float
    checked: float
    tells: float
    apart: Mapping[str, float] = field(default_factory=dict)
    heat: str | None = None
    signed: str | None = None


@dataclass(frozen=True)
class Explained:
    """One image under one ranking of a run.

    row: of the data set, None for a file. label: the class that it is taken as, None without one. target: its canonical
    name; value: for this image, None where it is no function of the model's outputs. watched: the function whose
    contributions are given.
    picture: the image as a data URL, None where it must not be shown.
    """

    run: str
    image: str
    row: str | None
    label: str | None
    target: str
    group: str | None
    watched: str | None
    value: float | None
    outputs: tuple[Output, ...]
    layers: tuple[LayerSum, ...]
    channels: tuple[ChannelPart, ...]
    notes: tuple[str, ...] = ()
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of explain.json; pictures are in the page alone."""
        content = asdict(self)
        del content["picture"]
        for channel in content["channels"]:
            del channel["heat"], channel["signed"]
        told: dict[str, Any] = _plain({"format_version": 1} | content | {"meanings": MEANINGS})
        return told


def _plain(value: Any) -> Any:
    """The same without NaN, and with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
