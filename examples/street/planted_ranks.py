"""Ranks networks whose channels are known, each on its own city, and returns the ranks of the planted channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pcace_dist
from examples.street.city import City, make_city, write_city
from examples.street.planted import CHANNELS, LAYER, SKY, TRAFFIC, planted_channels, planted_cnn
from examples.street.sight import drawn, seen
from examples.street.train import MEAN, STD
from pcace_dist.artifacts.run import Run
from pcace_dist.packing.pack import pack

PLANTED_PANORAMAS = 600


@dataclass(frozen=True)
class Planted:
    """Ranks (of 32) of the planted channels of each kind, for one city and its network."""

    seed: int
    images: int
    ranks: dict[str, list[int]]

    @property
    def traffic_is_on_top(self) -> bool:
        """All planted traffic channels are in the best quarter."""
        return max(self.ranks[TRAFFIC]) <= CHANNELS // 4

    @property
    def sky_is_not(self) -> bool:
        """No planted sky channel is in the better half."""
        return min(self.ranks[SKY]) > CHANNELS // 2


def planted_job(data: str, output: str, seed: int, **changes: Any) -> dict[str, Any]:
    """The job that ranks a planted network against the measured NO2."""
    return {
        "dataset": {"path": data, "fold_by": "panorama"},
        "model": {
            "factory": "examples.street.planted:planted_cnn",
            "kwargs": {"seed": seed},
            "weights": "factory",
            "input": {"mean": list(MEAN), "std": list(STD)},
        },
        "layers": [LAYER],
        "target": {"column": "no2"},
        "max_bad_rows": 0.05,
        "workers": {"min": 1, "max": 1},
        "output": output,
    } | changes


def rank_planted(seed: int, folder: Path, *, panoramas: int = PLANTED_PANORAMAS, **changes: Any) -> Run:
    """Draw a city, pack its pictures, and rank a planted network on them."""
    city = make_city(panoramas, views=2, seed=500 + seed)
    pack(str(write_city(city, folder / "raw")), str(folder / "shards"), image_column="path", shard_rows=600)
    return pcace_dist.rank(planted_job(str(folder / "shards"), str(folder / "run"), seed, **changes))


def planted_ranks(run: Run, seed: int) -> Planted:
    """The ranks of the planted channels in a run without groups."""
    table = run.ranking(layer=LAYER)
    ranks = dict(zip(table["channel"].to_pylist(), table["rank"].to_pylist(), strict=True))
    ranks_of_kind = {
        kind: sorted(int(ranks[channel]) for channel in channels) for kind, channels in planted_channels(seed).items()
    }
    return Planted(seed, int(run.summary["images"]), ranks_of_kind)


def kinds_that_move(seed: int, city: City, other: City) -> dict[str, bool]:
    """Whether the maps of each kind's channels differ in any bit between the drawings of two cities."""
    model = planted_cnn(seed)
    maps = [seen(model, drawn(drawn_city), LAYER)[1] for drawn_city in (city, other)]
    return {
        kind: not torch.equal(maps[0][:, channels], maps[1][:, channels])
        for kind, channels in planted_channels(seed).items()
    }
