"""The paper's job (300 images, one layer of 512 channels) against the published procedure (instead/published.py).

The procedure is timed on a few channels and scaled to 512; it takes the same time for each. It has all cores: torch
may use as many threads, and has imported what it needs. Ours is the whole job on two workers from listing to ranking:
by threads of a process that has imported what it needs (so small a run does without Ray), and on a Ray that has
started, with its workers' starts; and the whole command from the shell with all starts and imports, without Ray as it
is and with RAY_ADDRESS=local. `estimator: ace` is the same sample-level ACE as the procedure's, all channels at once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional

from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.instead.published import score_of_channel
from tests.benchmarks.jobs import LAST, MEAN, ROOT, STD, Job, network, summary, whole
from tests.benchmarks.loader import plain
from tests.benchmarks.main_pass import bare_decode, stored
from tests.benchmarks.photos import write_photos
from tests.benchmarks.ray_data import ray_for

TITLE = "the paper's job (one layer of 512 channels) against the published procedure"
HERE = "job, without Ray"
ON_RAY = "job on a running Ray"
COMMANDS: dict[str, dict[str, str]] = {  # with what in the environment
    "command, without Ray": {},
    "command, with Ray": {"RAY_ADDRESS": "local"},
}
CHANNELS = 512
LAYER = LAST["resnet18"]


def ask(settings: Settings) -> Answer:
    """Seconds of 512 channels; quick: with fewer images."""
    count, timed_channels = settings.pick(96, 300), settings.pick(1, 2)
    photos = write_photos(settings.scratch / "photos", count, source=settings.photos)
    torch.set_num_threads(os.cpu_count() or 1)
    model = plain()
    decoded = torch.stack([bare_decode(data, "RGB", True) for data in stored(photos)])
    images = functional.normalize(decoded.float().div_(255), MEAN, STD, inplace=True)
    ours = {HERE: network(settings.scratch / "here", photos, workers={"max": 2})}
    ours[ON_RAY] = network(settings.scratch / "gram", photos, workers={"max": 2})
    if not settings.quick:
        ours[f"{HERE}, estimator: ace"] = network(
            settings.scratch / "ace", photos, workers={"max": 2}, statistics={"estimator": "ace"}
        )
    command = network(settings.scratch / "command", photos, workers={"max": 2})

    def procedure() -> None:
        for channel in range(timed_channels):
            score_of_channel(images, model, LAYER, channel)

    works: dict[str, Callable[[], float]] = {"procedure": timed(procedure)} | {
        name: partial(on_ray if name == ON_RAY else whole, job) for name, job in ours.items()
    }
    if not settings.quick:
        for name, env in COMMANDS.items():
            works[name] = partial(command_seconds, command, settings.scratch / "job.json", env)
    samples = take_turns(works, max(1, settings.repeats - 2), warm=0)
    scale = CHANNELS / timed_channels
    lines: dict[str, dict[str, Value]] = {
        f"published procedure, {timed_channels} channels timed, scaled": {
            "images": count,
            "seconds": scale * samples.each("procedure").median,
            "times faster": 1.0,
        }
    }
    for name in samples.seconds:
        if name != "procedure":
            lines[f"pcace_dist, the {name}"] = {
                "images": count,
                "seconds": samples.each(name),
                "times faster": samples.ratio("procedure", name, scale),
            }
    stages = {name: summary(job)["stages"] for name, job in ours.items()}
    return Answer(lines, notes=[f"{name}: {_stages(stages[name])}" for name in stages], details={"stages": stages})


def on_ray(job: Job) -> float:
    """Seconds of the whole job on a Ray that has started before."""
    with ray_for(2):
        return whole(job)


def _stages(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def command_seconds(job: Job, file: Path, env: Mapping[str, str]) -> float:
    """`pcace rank` from the shell to its end, on a new output, with some more of an environment."""
    shutil.rmtree(job["output"], ignore_errors=True)
    file.write_text(json.dumps(job))
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pcace_dist", "rank", str(file)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    return time.perf_counter() - start
