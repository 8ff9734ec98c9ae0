"""The numbers and pictures of single channels for one image, under one ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.commands.explain.explained import ChannelPart, LayerSum
from pcace_dist.commands.explain.image_pass import ImagePass, LayerPass, at_positions
from pcace_dist.datasets.decoding.thumbnail import data_url
from pcace_dist.reporting import pictures
from pcace_dist.reporting.evidence import Transforms, summed
from pcace_dist.reporting.sight.tokens import TokenLayer
from pcace_dist.reporting.source import ReportSource

Floats: TypeAlias = npt.NDArray[np.float64]
Key: TypeAlias = tuple[str, int]

MORE = 4  # times `top` channels are looked at where nothing says what each contributes


class ChannelNumbers:
    """The numbers of channels under one ranking."""

    def __init__(self, source: ReportSource, own: ImagePass, group: int, passes: Mapping[str, LayerPass]) -> None:
        self._source, self._pass, self._group, self._passes = source, own, group, passes
        self.has_parts = any(own.parts is not None for own in passes.values())
        self._ranked = {name: source.ranking.numbers(own.target, group, name) for name in ("rank", "score", "effect")}

    @cached_property
    def _keys(self) -> list[Key]:
        return [(name, channel) for name, count in self._source.ranking.layers for channel in range(count)]

    @cached_property
    def _adds(self) -> Floats:
        """Contributions of all channels, NaN where there is none."""
        parts = []
        for name, count in self._source.ranking.layers:
            own = self._passes[name].contributions
            parts.append(np.full(count, np.nan) if own is None else own.numpy())
        return np.concatenate(parts)

    def best(self, top: int) -> list[Key]:
        """The ranked channels that contribute most, in size; without contributions, of the best ones those that tell
        most."""
        rank = self._ranked["rank"]
        ranked = np.flatnonzero(np.isfinite(rank)) if np.isfinite(rank).any() else np.arange(len(rank))
        if self.has_parts:
            sizes = np.abs(np.nan_to_num(self._adds[ranked]))
        else:
            ranked = ranked[np.argsort(rank[ranked], kind="stable")][: MORE * top]
            sizes = np.abs(np.nan_to_num([self.tells(self._keys[place]) for place in ranked.tolist()]))
        return [self._keys[place] for place in ranked[np.argsort(-sizes, kind="stable")][:top].tolist()]

    def sums(self) -> Iterable[LayerSum]:
        for name, own in self._passes.items():
            if own.contributions is not None:
                every = range(len(own.contributions))
                adds, checked = float(own.contributions.sum()), self._pass.without(name, every)
                yield LayerSum(name, self._pass.places[name].shown, len(every), adds, checked)

    def part(self, key: Key, tokens: TokenLayer, shown: bool) -> ChannelPart:
        """One channel. shown: with its pictures."""
        layer, channel = key
        place = self._source.ranking.start(layer) + channel
        own, plan = self._passes[layer], self._source.plan.layer(layer)
        known = own.parts is not None
        picture, apart = tokens.pictures(own.maps[channel], plan.shape)
        return ChannelPart(
            layer,
            channel,
            **{name: float(values[place]) for name, values in self._ranked.items()},
            activation=float(own.maps[channel].double().mean()),
            percentile=self._percentile(key),
            adds=float(self._adds[place]),
            checked=self._pass.without(layer, [channel]) if known else float("nan"),
            tells=self.tells(key),
            apart={name: float(value) for name, value in zip(tokens.apart, apart, strict=False)},
            heat=None if picture is None or not shown else _heat(picture),
            signed=self._signed(own, channel, tokens) if known and shown else None,
        )

    def _signed(self, own: LayerPass, channel: int, tokens: TokenLayer) -> str | None:
        picture, _ = tokens.pictures(at_positions(own, channel), own.parts_shape)
        return None if picture is None else data_url(pictures.signed_png(picture))

    def _percentile(self, key: Key) -> float:
        """Images of the same mean count half."""
        if self._source.sample is None:
            return float("nan")
        means = self._source.sample.means(key[0])[:, key[1]]
        mean = int(self._passes[key[0]].codes.means[0, key[1]])
        return float(100 * ((means < mean).mean() + (means == mean).mean() / 2))

    @cached_property
    def _transforms(self) -> Transforms | None:
        table = self._source.transforms
        return None if table is None else Transforms(table, self._source.ranking, self._source.plan.components)

    def tells(self, key: Key) -> float:
        """Score times the sum of phi_j, in its standard deviations over the group's sampled images."""
        sample, transforms = self._source.sample, self._transforms
        transform = None if transforms is None else transforms.get(self._pass.target, self._group, *key)
        if sample is None or transform is None:
            return float("nan")
        rows = sample.group == self._group
        values = summed(sample.codes(key[0], self._source.plan.components)[rows, key[1]], transform)
        value = summed(self._passes[key[0]].codes.codes[:, key[1]].numpy(), transform)[0]
        spread = values.std() if len(values) > 1 else 0.0
        score = self._ranked["score"][self._source.ranking.start(key[0]) + key[1]]
        return float(score * (value - values.mean()) / spread) if spread > 0 else float("nan")


def _heat(picture: npt.NDArray[np.float32]) -> str:
    """Each map on its own scale: from zero, or from its least value where all are below, to its largest."""
    low, high = float(picture.min()), float(picture.max())
    return data_url(pictures.heat_png(picture, max(0.0, low) if high > 0 else low, high))
