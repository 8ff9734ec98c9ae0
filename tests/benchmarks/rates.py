"""The rates that docs/scale.md is computed from, as `pcace estimate` measures them here: one worker with one core.

`details` of the JSON file holds the whole estimate; `python -m tests.benchmarks.predict --take FILE` predicts
from it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

from pcace_dist.commands.measure import estimate
from pcace_dist.config.job import parse_job
from pcace_dist.run.prepare import prepare
from pcace_dist.storage.store import LocalStore
from pcace_dist.worker.engine import Engine
from tests.benchmarks.harness import Answer, Settings, Spread, Value, described, machine, take_turns, timed
from tests.benchmarks.jobs import Job, network
from tests.benchmarks.main_pass import bare_decode, stored
from tests.benchmarks.photos import write_photos

FEW, MORE = 32, 48  # images of two pilots: what one takes besides its images, and for each of them
IMAGES = 128  # of the data set: a pilot that takes all of it is another kind, and needs more of them
TITLE = "rates of one worker with one core, from pcace estimate (ms an image unless said)"


def ask(settings: Settings) -> Answer:
    """ResNet-50 (quick: ResNet-18), one layer and, in full, all."""
    here = described(machine())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    photos = write_photos(settings.scratch / "photos", IMAGES, source=settings.photos)
    name = settings.pick("resnet18", "resnet50")
    cases = {"1 layer": None} if settings.quick else {"1 layer": None, "all": "all"}
    found, larger = {}, {}
    for case, layers in cases.items():
        job = partial(network, settings.scratch / case, photos, name, layers)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), as_if_large():
            estimated = estimate(parse_job(job(statistics={"pilot": FEW})), imports=_import_seconds())
            found[case] = estimated | {"pilot": FEW}
            larger[case] = pilot_seconds(job(statistics={"pilot": MORE}))
    street = street_decode(settings)
    return Answer(
        {f"{name}, {case}": _line(one) for case, one in found.items()},
        notes=(f"decoding a 640 x 640 JPEG takes {street} times as long as one of 500 x 375",),
        details={
            "found": found,
            "larger_pilot": larger,
            "more_images": MORE - FEW,
            "street_decode": street.median,
            "machine": here,
        },
    )


def as_if_large() -> AbstractContextManager[object]:
    """Pilots find their axes as one of 2,048 images does: with few images there is a shorter way."""
    return mock.patch("pcace_dist.statistics.pca._DIRECT_ROWS", 0)


def pilot_seconds(job: Job) -> float:
    """Processor seconds of a job's pilot alone, by one worker."""
    prepared = prepare(parse_job(job))
    engine = Engine(prepared.spec, "bench", LocalStore(prepared.spec.output))
    began = time.process_time()
    engine.pilot(prepared.listing)
    return time.process_time() - began


def _import_seconds() -> float:
    """Seconds of a new Python with all that `pcace estimate` imports."""
    command = partial(subprocess.run, [sys.executable, "-c", "import pcace_dist.commands.measure"], check=True)
    return timed(command)()


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
    took, stages = found["timings"], found["timings"]["stages"]
    return {
        "channels": found["channels"],
        "decode": 1000 * stages["decode"],
        "forward": 1000 * stages["forward"],
        "tap": 1000 * stages["tap"],
        "statistics": 1000 * stages["statistics"],
        "processor": 1000 * took["row"]["processor"],
        "add a row, us a channel": 1e6 * took["add_row"],
        "solve, us a channel": 1e6 * took["solve"],
        "flush, s": took["flush"],
        "ranking, s": took["ranking"],
    }
