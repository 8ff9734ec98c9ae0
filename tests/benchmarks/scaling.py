"""From one worker to two, on one Ray, the whole service: images a second of the main pass.

Each worker has one thread. The ideal is 2 on two cores; driver and Ray's own processes share them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.benchmarks.harness import Answer, Settings, Value, take_turns
from tests.benchmarks.jobs import MEAN, STD, Job, digits, network, summary, whole
from tests.benchmarks.memory import copies
from tests.benchmarks.photos import write_photos
from tests.benchmarks.ray_data import ray_for

TITLE = "from one worker to two (main pass, images a second)"


def ask(settings: Settings) -> Answer:
    """The example network; in full also ResNet-18 on small photographs."""
    many = copies(settings.scratch / "digits", settings.pick(10_000, 50_000))
    cases: dict[str, Callable[[int], Job]] = {}
    cases["MNIST CNN"] = lambda workers: digits(settings.scratch / "a", data=many, workers={"max": workers})
    if not settings.quick:
        photos = write_photos(settings.scratch / "photos", 4096, size=(96, 96), file_rows=1024)
        cases["ResNet-18 on 96 x 96, 1 layer"] = lambda workers: network(
            settings.scratch / "b",
            photos,
            workers={"max": workers},
            statistics={"pilot": 256},
            model={"input": {"mean": MEAN, "std": STD}},
        )
    lines: dict[str, dict[str, Value]] = {}
    with ray_for(2):
        for name, make in cases.items():
            jobs = {"1 worker": make(1), "2 workers": make(2)}
            works = {workers: partial(main_pass, job) for workers, job in jobs.items()}
            samples = take_turns(works, max(1, settings.repeats - 2), warm=0)
            images = int(summary(jobs["2 workers"])["images"])
            lines[name] = {
                "images": images,
                **{workers: images / samples.each(workers).median for workers in jobs},
                "2 / 1": samples.ratio("1 worker", "2 workers"),
            }
    return Answer(lines)


def main_pass(job: Job) -> float:
    """Seconds of the whole job's main pass, as its summary has them."""
    whole(job)
    return float(summary(job)["stages"]["main_pass"])
