"""The results that a report gathers before it writes the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pcace_dist.artifacts.reading.rows import RowPool
from pcace_dist.models.receptive_fields import ReceptiveFields
from pcace_dist.reporting.comparison import AgainstRun
from pcace_dist.reporting.evidence import Growth
from pcace_dist.reporting.geography import Places
from pcace_dist.reporting.sight.probe import Probed
from pcace_dist.reporting.sight.tokens import TokenLayer

RankingKey = tuple[int, int]  # target, group
ChannelKey = tuple[str, int]  # layer, channel
Valued = list[tuple[int, float]]  # numbers of rows, each with its mean activation or transform


@dataclass
class Findings:
    """Everything for the page; each module of the report adds its part."""

    shows_images: bool = True
    pool: RowPool = field(default_factory=RowPool)
    exemplars: dict[ChannelKey, Valued] = field(default_factory=dict)
    of_group: dict[tuple[ChannelKey, int], Valued] = field(default_factory=dict)  # by group
    spread: dict[tuple[ChannelKey, int], Valued] = field(default_factory=dict)
    extremes: dict[tuple[ChannelKey, RankingKey], tuple[Valued, Valued]] = field(default_factory=dict)
    wrong: dict[tuple[ChannelKey, int], Valued] = field(default_factory=dict)
    fields: dict[str, ReceptiveFields] = field(default_factory=dict)  # by layer; without those that see everything
    attributions: dict[ChannelKey, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))  # PNG, by row
    tokens: dict[str, TokenLayer] = field(default_factory=dict)  # by layer
    cam_rows: dict[int, list[int]] = field(default_factory=dict)  # by group
    growth: dict[str, dict[int, list[Growth]]] = field(default_factory=dict)  # layer, group: by target
    thumbnails: dict[int, str] = field(default_factory=dict)
    probed: Probed = field(default_factory=Probed)
    cams: list[dict[str, Any]] = field(default_factory=list)
    cam_layer: str | None = None
    synthetic: dict[ChannelKey, np.ndarray] = field(default_factory=dict)
    places: Places | None = None
    predictions: np.ndarray | None = None
    trust: dict[str, Any] = field(default_factory=dict)
    against: AgainstRun | None = None
    names: dict[str, Any] | None = None  # of channels
    history: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def shown_rows(self) -> Iterator[tuple[ChannelKey, int]]:
        """Each channel with the numbers of the rows that are shown for it."""
        for channel, rows in self.exemplars.items():
            yield from ((channel, number) for number, _ in rows)
        for (channel, _), rows in (*self.of_group.items(), *self.spread.items(), *self.wrong.items()):
            yield from ((channel, number) for number, _ in rows)
        for (channel, _), ends in self.extremes.items():
            yield from ((channel, number) for end in ends for number, _ in end)
