"""Is a run's answer about the true top right under other pilots? python -m tests.statistics.order.pilot_tops prints the
table of docs/method-tables.md, 8.

The networks and runs of `pilots`: all 60,000 images of MNIST under ten pilots. Of every run the TOP best are asked for
in the ranking of each other pilot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pcace_dist.statistics.order.membership import InTop, membership
from pcace_dist.statistics.score import ChannelScores
from tests.statistics.pilots import NETWORKS, of_network, runs_of

TOP, PILOTS, PILOT = 5, 10, 2048


@dataclass(frozen=True)
class Tops:
    """Means over the runs. expected, there: of a run's best, the number that it expects in another pilot's top, and the
    number that is there. surely, right: channels that it calls surely in, and the share of them that is there. whole:
    the share of the other pilots whose whole top is possibly in."""

    expected: float
    there: float
    surely: float
    right: float
    whole: float

    @classmethod
    def of(cls, runs: list[ChannelScores]) -> Tops:
        best = [np.argsort(-run.score_squared)[:TOP] for run in runs]
        known = [membership(run.score_squared, run.pseudo, run.plan_noise, TOP) for run in runs]
        surely = [np.flatnonzero(one.in_top == InTop.SURELY) for one in known]
        pairs = [(one, other) for one in range(len(runs)) for other in range(len(runs)) if one != other]
        named = sum(map(len, surely)) * (len(runs) - 1)
        right = sum(np.isin(surely[one], best[other]).sum() for one, other in pairs)
        return cls(
            float(np.mean([one.probability[own].sum() for one, own in zip(known, best, strict=True)])),
            float(np.mean([np.isin(best[one], best[other]).sum() for one, other in pairs])),
            float(np.mean([len(own) for own in surely])),
            float(right / named) if named else float("nan"),
            float(np.mean([(known[one].in_top[best[other]] != InTop.NO).all() for one, other in pairs])),
        )


def main() -> None:
    torch.set_num_threads(1)
    columns = ["network", "images of", f"of the {TOP} first: expected", "there", "surely", "of these there"]
    print(f"| {' | '.join([*columns, 'whole top possible'])} |\n" + "|---" * 7 + "|")
    for name in NETWORKS:
        rows = of_network(name)
        for digit, runs in runs_of(rows, PILOT, PILOTS).items():
            tops = Tops.of(runs)
            what = "all" if digit is None else f"digit {digit}"
            print(
                f"| {name}, {rows.maps.shape[1]} channels | {what} | {tops.expected:.1f} | {tops.there:.1f}"
                f" | {tops.surely:.1f} | {tops.right:.0%} | {tops.whole:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
