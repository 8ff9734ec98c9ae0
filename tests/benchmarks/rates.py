"""The rates that docs/scale.md is computed from, as `pcace estimate` measures them here: one worker with one core.

`details` of the JSON file holds the whole estimate; `python -m tests.benchmarks.predict --take FILE` predicts
from it.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Any

from pcace_dist.commands.estimate_report import to_json
from pcace_dist.commands.measure import estimate
from pcace_dist.config.job import parse_job
from tests.benchmarks.harness import Answer, Settings, Spread, Value, described, machine, take_turns, timed
from tests.benchmarks.jobs import network
from tests.benchmarks.main_pass import bare_decode, stored
from tests.benchmarks.photos import write_photos

TITLE = "rates of one worker with one core, from pcace estimate (ms an image unless said)"


def ask(settings: Settings) -> Answer:
    """ResNet-50 (quick: ResNet-18), one layer and, in full, all."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    photos = write_photos(settings.scratch / "photos", settings.pick(64, 256), source=settings.photos)
    name = settings.pick("resnet18", "resnet50")
    cases = {"1 layer": None} if settings.quick else {"1 layer": None, "all": "all"}
    found = {}
    for case, layers in cases.items():
        job = network(settings.scratch / case, photos, name, layers, statistics={"pilot": settings.pick(32, 128)})
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            found[f"{name}, {case}"] = to_json(estimate(parse_job(job)))
    street = street_decode(settings)
    return Answer(
        {case: _line(one) for case, one in found.items()},
        notes=(f"decoding a 640 x 640 JPEG takes {street} times as long as one of 500 x 375",),
        details=found | {"street_decode": street.median, "machine": described(machine())},
    )


def street_decode(settings: Settings) -> Spread:
    """Seconds of decoding and resizing a generated 640 x 640 JPEG over those of a 500 x 375 one."""
    images = {
        name: stored(write_photos(settings.scratch / name, 32, size=size))
        for name, size in (("street", (640, 640)), ("usual", (500, 375)))
    }
    works = {name: timed(partial(_decode, held)) for name, held in images.items()}
    return take_turns(works, settings.repeats).ratio("street", "usual")


def _decode(images: list[bytes]) -> None:
    for data in images:
        bare_decode(data, "RGB", True)


def _line(found: dict[str, Any]) -> dict[str, Value]:
    took, batch = found["timings"], found["batch"]
    return {
        "channels": found["channels"],
        "decode": 1000 * took["decode_row"],
        "forward": 1000 * took["forward"] / batch,
        "tap": 1000 * took["tap_row"],
        "statistics": 1000 * took["statistics_row"],
        "processor": 1000 * took["processor_row"],
        "add a row, us a channel": 1e6 * took["add_row"],
        "solve, us a channel": 1e6 * took["solve"],
        "flush, s": took["flush"],
        "ranking, s": took["ranking"],
    }
