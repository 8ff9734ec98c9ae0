"""Against a DataLoader script with a hook (instead/dataloader.py), on one core: the pass and the scores.

Both project one layer of ResNet-18, of 512 channels, on the same axes. The script keeps every image's components in
memory and gives them to ACE: the package `ace` channel by channel (timed on a few and scaled), or, more than one would
find ready-made, this project's vectorised one; it gives scores without intervals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pcace_dist.artifacts.attempt import blocks_of
from pcace_dist.ledger.ledger import Receipt
from pcace_dist.models.load import load_model
from pcace_dist.statistics.ace import ace
from tests.benchmarks.harness import Answer, Settings, Spread, Value, take_turns, timed
from tests.benchmarks.instead import dataloader
from tests.benchmarks.instead.axes import Axes
from tests.benchmarks.jobs import LAST, Ready, network, ready
from tests.benchmarks.main_pass import in_precision
from tests.benchmarks.photos import write_photos

TITLE = "against a DataLoader script with a hook, one core, one layer of 512 channels"
LAYER = LAST["resnet18"]
PACKAGE_CHANNELS = 2  # of 512, for the package `ace`


def ask(settings: Settings) -> Answer:
    """The engine and three scripts in turn; seconds of scoring all channels after the pass."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count = settings.pick(32, 160)
    photos = write_photos(settings.scratch / "photos", count, source=settings.photos)
    found = ready(network(settings.scratch / "run", photos, statistics={"pilot": settings.pick(32, 160)}))
    torch.set_num_threads(1)
    axes = axes_of(found, LAYER)
    data = dataloader.Photos(photos)
    precision = found.facts.precision
    scripts = {  # name: its pass, and how it is scored
        "DataLoader, projected, float32; package ace": (script(data, plain(), axes), "package"),
        f"DataLoader, projected, {precision}; vectorised ACE": (
            script(data, in_precision(plain(), precision), axes, precision),
            "vectorised",
        ),
        f"DataLoader, pooled, {precision}; vectorised ACE": (
            script(data, in_precision(plain(), precision), None, precision),
            "vectorised, pooled",
        ),
    }
    receipts: list[Receipt | None] = []

    def ours() -> float:
        seconds = timed(found.main_pass)()
        receipts.append(found.engine.flush())
        return seconds

    works = {"ours": ours} | {name: timed(work) for name, (work, _) in scripts.items()}
    samples = take_turns(works, settings.repeats, warm=settings.pick(0, 1))
    kept, outputs = dataloader.activations(data, plain(), LAYER, axes)
    x, y = kept.double().numpy(), outputs.max(1).values.double().numpy()
    pooled = x[:, :, :1]
    scoring = take_turns(
        {
            "ours": timed(lambda: score(found, receipts[-1])),
            "vectorised": timed(lambda: ace(x, y, alpha=0.0)),
            "vectorised, pooled": timed(lambda: ace(pooled, y, alpha=0.0)),
            "package": timed(lambda: [dataloader.ace_of_channel(x[:, c], y) for c in range(PACKAGE_CHANNELS)]),
        },
        settings.repeats,
        warm=0,
    )
    scale = {"package": x.shape[1] / PACKAGE_CHANNELS}
    lines: dict[str, dict[str, Value]] = {}
    scorings = {"ours": "ours"} | {name: scored for name, (_, scored) in scripts.items()}
    for name, scored in scorings.items():
        seconds = Spread.of([scale.get(scored, 1.0) * value for value in scoring.seconds[scored]])
        lines[f"pcace_dist, {precision}" if name == "ours" else name] = {
            "images": count,
            "ms an image": samples.milliseconds(name, count),
            "pass / ours": samples.ratio(name, "ours"),
            "scores, s": seconds,
            "whole / ours": _whole(samples.each(name), seconds) / _whole(samples.each("ours"), scoring.each("ours")),
        }
    held = kept.numel() * 4 / count
    return Answer(
        lines,
        notes=(
            f"the script keeps {held / 1024:.1f} KiB an image: {held * 1.28e6 / 1e9:.0f} GB for 1.28 million; its ACE "
            "needs them all at once; pooled is another method (its ranking differs)",
        ),
    )


def axes_of(found: Ready, layer: str) -> Axes:
    """The plan's axes of a layer."""
    plan = found.plan.layer(layer)
    return Axes(plan.weights, plan.offsets)


def plain() -> nn.Module:
    """The job's network, as its factory makes it."""
    return load_model("torchvision:resnet18", {}, "random", seed=0, read=lambda path: Path(path).read_bytes())


def script(
    data: dataloader.Photos, model: nn.Module, axes: Axes | None, precision: str = "float32"
) -> Callable[[], object]:
    """The script's pass; decoding in one process beside the model, both on the one core."""
    return lambda: dataloader.activations(data, model, LAYER, axes, processes=1, bfloat16=precision == "bfloat16")


def score(found: Ready, receipt: Receipt | None) -> None:
    """Reduce and solve, with intervals."""
    for block in blocks_of(found.plan):
        found.engine.reduce(found.plan, block, [] if receipt is None else [receipt])


def _whole(seconds: Spread, scores: Spread) -> float:
    return seconds.median + scores.median
