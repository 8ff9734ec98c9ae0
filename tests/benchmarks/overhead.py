"""What the service costs for each image: a model that does nothing on small images, against a plain loop.

The loop reads the same Parquet files, decodes with the same decoder and calls the model, nothing else. The engine is
the body of a worker in this process; the service is the whole of it on Ray with one worker. A model that does nothing
makes this the worst case: what is left is reading ahead, hashing, codes, progress, receipts and the ledger.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import nn

from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.jobs import Job, network, ready, summary
from tests.benchmarks.main_pass import bare_decode
from tests.benchmarks.photos import write_photos
from tests.benchmarks.ray_data import ray_for
from tests.benchmarks.scaling import main_pass

TITLE = "overhead an image: a model that does nothing on 32 x 32 JPEGs (ms an image)"


def nothing() -> nn.Module:
    """The mean of each colour: three channels, three outputs."""
    return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


def ask(settings: Settings) -> Answer:
    """Milliseconds an image of loop, engine and service in turn."""
    torch.set_num_threads(1)
    count = settings.pick(8_000, 20_000)
    photos = write_photos(settings.scratch / "photos", count, size=(32, 32), file_rows=4000)
    job: Job = network(
        settings.scratch / "run",
        photos,
        layers=["pool"],
        model={"factory": "tests.benchmarks.overhead:nothing", "weights": "factory", "input": {}},
        statistics={"pilot": 256, "components": 1},
    )
    found = ready(job | {"output": str(settings.scratch / "engine")})

    def engine() -> float:
        seconds = timed(found.main_pass)()
        found.engine.flush()
        return seconds

    with ray_for(1):
        samples = take_turns(
            {"plain loop": timed(lambda: loop(photos)), "engine": engine, "service, 1 worker": lambda: main_pass(job)},
            settings.repeats,
            warm=0,
        )
    rows = int(summary(job)["images"])
    lines: dict[str, dict[str, Value]] = {
        name: {
            "images": rows,
            "ms an image": samples.milliseconds(name, rows),
            "of the loop": samples.ratio(name, "plain loop"),
            "more than the loop, ms": samples.milliseconds(name, rows).median
            - samples.milliseconds("plain loop", rows).median,
        }
        for name in samples.seconds
    }
    return Answer(lines, notes=("the service decodes in a thread beside the model, the loop does not",))


@torch.inference_mode()
def loop(folder: Path, batch: int = 32) -> int:
    """Read, decode, forward: the least a script does. Returns how many."""
    model, count = nothing(), 0
    for file in sorted(folder.glob("*.parquet")):
        for part in pq.ParquetFile(io.BytesIO(file.read_bytes())).iter_batches(batch, columns=["image"]):
            images = torch.stack([bare_decode(data, "RGB", False) for data in part["image"].to_pylist()])
            count += len(model(images.float().div_(255)))
    return count
