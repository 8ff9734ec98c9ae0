"""Checks a run's rankings against the known facts about the made-up city.

    python -m examples.street.truth RUN [--out DIR]          on the run of job.yaml: ablation and boroughs
    python -m examples.street.truth --planted 10             on networks whose channels are known, ten cities

ablation   Do the best channels see traffic, and does the prediction no longer depend on traffic without them? Measured
           on streets that neither the network nor the ranking has seen; compared with the worst and random channels.
boroughs   Are the channels that see traffic ranked by how much traffic counts for the borough's NO2?
planted    Which channels come first, of those that provably see traffic, the sky or trees (examples/street/planted.py)?

Writes truth.json beside the run (or into --out) and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.street.city import (
    BOROUGHS,
    FROM_GREENERY,
    FROM_TRAFFIC,
    PLACES_FOR_VEHICLES,
    TRAFFIC_COUNTS,
    make_city,
    saturating,
)
from examples.street.cuts import Ablated, ablate
from examples.street.planted import CHANNELS
from examples.street.planted_ranks import PLANTED_PANORAMAS, planted_ranks, rank_planted
from examples.street.runs import MEASURED, PREDICTION, Share, city_of_run, mean_score
from pcace_dist.artifacts.run import Run, open_run

SEES = 0.5  # a channel sees traffic if the total effect of the vehicles on it is at least this


@dataclass(frozen=True)
class Borough:
    """Mean score squared of the channels that see traffic: for the measured NO2 and for the prediction.

    share: the share of the NO2's variance within the borough that comes from traffic, by the city's own formula.
    """

    name: str
    counts: float
    share: float
    images: int
    measured: Share
    prediction: Share


def boroughs(run: Run, layer: str, channels: Sequence[int]) -> list[Borough]:
    """One row for each borough of the run."""
    city = city_of_run(run)
    rows_of_table = []
    for index, name in enumerate(BOROUGHS):
        rows = (city.borough == index) & np.isfinite(city.no2)
        part = FROM_TRAFFIC * TRAFFIC_COUNTS[index] * saturating(city.traffic[rows])
        rows_of_table.append(
            Borough(
                name,
                TRAFFIC_COUNTS[index],
                float(part.var() / city.no2[rows].var()),
                int(rows.sum()),
                mean_score(run, MEASURED, name, layer, channels),
                mean_score(run, PREDICTION, name, layer, channels),
            )
        )
    return rows_of_table


def best_from_one_picture(panoramas: int = 60_000) -> float:
    """The share of the NO2's variance that the vehicles and trees of one picture explain, for someone who knows the
    city's formula: the README's 0.36.

    A picture does not show its borough, and one view's vehicles show the panorama's traffic only on average.
    """
    city = make_city(panoramas, views=1, seed=0)
    is_known = np.isfinite(city.no2)
    traffic = FROM_TRAFFIC * np.mean(TRAFFIC_COUNTS) * saturating(city.traffic)
    by_vehicles = [traffic[city.vehicles == number].mean() for number in range(PLACES_FOR_VEHICLES + 1)]
    predicted = np.array(by_vehicles)[city.vehicles] + FROM_GREENERY * city.greenery**2
    return float(np.corrcoef(predicted[is_known], city.no2[is_known])[0, 1] ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="the output of job.yaml")
    parser.add_argument("--layer", default="conv3")
    parser.add_argument("--panoramas", type=int, default=500, help="new ones, on which the ablation is measured")
    parser.add_argument("--planted", type=int, metavar="CITIES", help="rank planted networks on so many cities instead")
    parser.add_argument("--out", type=Path, help="folder for truth.json (default: RUN; none for --planted)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.planted:
        result: dict[str, Any] = check_planted(args.planted)
    elif args.run:
        result = check_run(open_run(args.run), args.layer, args.panoramas)
    else:
        parser.error("names no RUN; `pcace rank examples/street/job.yaml` makes runs/street")
    out = args.out or (None if args.planted else Path(args.run))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / ("planted.json" if args.planted else "truth.json")
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {path}")


def check_run(run: Run, layer: str, panoramas: int) -> dict[str, Any]:
    """Print ablation and boroughs; the content of truth.json."""
    ablated = ablate(run, layer, panoramas=panoramas)
    _print_effects(ablated)
    _print_cuts(ablated)
    seeing = ablated.seeing("vehicles", SEES)
    rows = boroughs(run, layer, seeing)
    _print_boroughs(rows, layer, len(seeing))
    return {"ablation": asdict(ablated), "boroughs": [asdict(row) for row in rows]}


def check_planted(cities: int) -> dict[str, Any]:
    """Print the ranks of planted channels in so many cities; the content of planted.json."""
    print(f"planted channels, ranks of {CHANNELS}; NO2 by the city's formula, {PLANTED_PANORAMAS} panoramas a city")
    planted = []
    for seed in range(cities):
        with tempfile.TemporaryDirectory() as work:
            planted.append(planted_ranks(rank_planted(seed, Path(work)), seed))
        print(
            f"  seed {seed}: " + "; ".join(f"{kind} {ranks}" for kind, ranks in planted[-1].ranks.items()), flush=True
        )
    on_top = sum(city_ranks.traffic_is_on_top for city_ranks in planted)
    sky_not = sum(city_ranks.sky_is_not for city_ranks in planted)
    print(
        f"traffic channels all in the best quarter: {on_top} of {cities}; no sky channel in the better half: {sky_not}"
    )
    return {"cities": [asdict(city_ranks) for city_ranks in planted], "traffic_on_top": on_top, "sky_not": sky_not}


def _print_effects(ablated: Ablated) -> None:
    print(f"what the channels of {ablated.layer} see, best channel for the prediction first (total effect, 0 to 1)")
    print("  rank  channel  " + "  ".join(f"{factor:>15}" for factor in ablated.effects))
    print("     -  predict  " + "  ".join(f"{ablated.on_prediction[factor]:15.2f}" for factor in ablated.effects))
    for place, channel in enumerate(ablated.order):
        effects = "  ".join(f"{effect[place]:15.2f}" for effect in ablated.effects.values())
        print(f"  {place + 1:4d}  {channel:7d}  {effects}")


def _print_cuts(ablated: Ablated) -> None:
    print(
        f"\nslope of the prediction on traffic: {ablated.slope:.1f} from an empty street to a full one; left of it with"
    )
    print("  channels cut            the best               the worst                at random (95 % of sets)")
    for cut in ablated.cuts:
        print(f"  {cut.channels:12d}  {cut.best!s:>22}  {cut.worst!s:>22}  {cut.random!s:>22}")


def _print_boroughs(rows: Sequence[Borough], layer: str, channels: int) -> None:
    print(f"\nmean score squared of the {channels} channels of {layer} that see traffic")
    print("  borough     traffic counts  share of NO2's variance        for measured NO2      for the prediction")
    for row in rows:
        print(f"  {row.name:10}  {row.counts:14.1f}  {row.share:23.2f}  {row.measured!s:>22}  {row.prediction!s:>22}")


if __name__ == "__main__":
    main()
