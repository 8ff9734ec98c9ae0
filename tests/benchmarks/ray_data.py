"""Against Ray Data's `map_batches` (instead/ray_data.py), on one local Ray with the same number of model actors.

Ray Data is asked for the components of one layer of ResNet-18 alone, on axes it is given; our job makes its plan,
reads, decodes, forwards, keeps its statistic safe, reduces and publishes a ranking with intervals.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from pcace_dist.statistics.ace import ace
from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.instead import ray_data
from tests.benchmarks.jobs import LAST, network, ready, summary, whole
from tests.benchmarks.loader import axes_of, plain
from tests.benchmarks.photos import write_photos

TITLE = "against Ray Data map_batches, one layer of 512 channels, the same Ray"
LAYER = LAST["resnet18"]


def ask(settings: Settings) -> Answer:
    """Seconds from the call to the components in the driver (Ray Data), and to the published ranking (ours)."""
    count, actors = settings.pick(48, 384), settings.pick(1, 2)
    photos = write_photos(settings.scratch / "photos", count, source=settings.photos)
    found = ready(network(settings.scratch / "plan", photos, statistics={"pilot": 32}))
    axes, precision = axes_of(found, LAYER), found.facts.precision
    del found
    job = network(
        settings.scratch / "run", photos, workers={"max": actors}, statistics={"pilot": settings.pick(32, 128)}
    )
    stages: list[float] = []
    kept: list[dict[str, Any]] = []

    def ours() -> float:
        seconds = whole(job)
        stages.append(float(summary(job)["stages"]["main_pass"]))
        return seconds

    def theirs() -> None:
        kept[:] = [ray_data.components(photos, plain, LAYER, axes, actors=actors, bfloat16=precision == "bfloat16")]

    with ray_for(actors):
        rounds = max(1, settings.repeats - 1)
        samples = take_turns({"ours": ours, "theirs": timed(theirs)}, rounds, warm=settings.pick(0, 1))
    seconds_main = stages[-rounds:]
    x, y = kept[0]["components"].astype(np.float64), kept[0]["target"].astype(np.float64)
    scoring = take_turns({"ACE": timed(lambda: ace(x, y, alpha=0.0))}, 1, warm=0)
    lines: dict[str, dict[str, Value]] = {
        "pcace_dist: plan, pass, ranking": {
            "images": count,
            "actors": actors,
            "seconds": samples.each("ours"),
            "of that, main pass": sorted(seconds_main)[len(seconds_main) // 2],
            "whole / ours": 1.0,
        },
        "Ray Data: components in the driver": {
            "images": count,
            "actors": len(set(kept[0]["actor"].tolist())),
            "seconds": samples.each("theirs"),
            "whole / ours": samples.ratio("theirs", "ours"),
        },
        "ACE on those, vectorised": {"images": count, "seconds": scoring.each("ACE")},
    }
    return Answer(lines, notes=(f"both in {precision}; actors start within the seconds, Ray does not",))


def ray_for(actors: int) -> Any:
    """A local Ray with a core for each actor and as many for reading; a context."""
    import ray

    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    context = ray.init(
        "local",
        num_cpus=2 * max(2, actors),
        include_dashboard=False,
        object_store_memory=512 << 20,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context
