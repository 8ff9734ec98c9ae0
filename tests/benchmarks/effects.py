"""What effects cost: the main pass with `effect.gradient: mean` against the same without, and passes with every image's
own gradient against forward and backward written by hand.

By hand: the same model in the same precision, gradients of the largest output with respect to the outputs of the same
layers, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pcace_dist.datasets.loader import Batch
from pcace_dist.models.forward import Forward
from pcace_dist.worker.effects.rows import EffectRows
from tests.benchmarks.harness import Answer, Settings, Value, take_turns, timed
from tests.benchmarks.jobs import Job, Ready, digits, network, ready
from tests.benchmarks.photos import write_photos

TITLE = "what effects cost (ratios: lower is better)"
BATCH = 16
Make: TypeAlias = Callable[[Path, dict[str, Any]], Job]


def ask(settings: Settings) -> Answer:
    """MNIST's CNN and ResNet-18, one layer and all."""
    photos = write_photos(settings.scratch / "photos", settings.pick(32, 96), source=settings.photos)
    lines: dict[str, dict[str, Value]] = {}
    for name, make in _mean(photos).items():
        lines[f"mean: {name}"] = _main_passes(make, settings.scratch / f"mean-{len(lines)}", settings.repeats)
    for name, layers in (("ResNet-18, 1 layer", None), ("ResNet-18, all 20", "all")):
        make = _network(photos, layers, {"logit": "predicted"})
        found = ready(make(settings.scratch / f"image-{len(lines)}", {"gradient": "image"}))
        lines[f"image: {name}"] = _own_gradients(found, settings.repeats)
    return Answer(lines, notes=("the main pass decodes, forwards, projects, encodes and adds up",))


def _network(photos: Path, layers: str | None, target: dict[str, Any]) -> Make:
    def make(output: Path, effect: dict[str, Any]) -> Job:
        changes = {"statistics": {"pilot": 32}, "compute": {"batch": BATCH}, "target": target, "effect": effect}
        return network(output, photos, "resnet18", layers, **changes)

    return make


def _mean(photos: Path) -> dict[str, Make]:
    return {
        "MNIST CNN, 3 layers, 10 classes": lambda output, effect: digits(output, effect=effect),
        "ResNet-18, 1 layer": _network(photos, None, {"logit": 3}),
        "ResNet-18, all 20": _network(photos, "all", {"logit": 3}),
    }


def _main_passes(make: Make, scratch: Path, repeats: int) -> dict[str, Value]:
    """The main pass without effects and with them, in turn."""
    passes = {
        gradient: ready(make(scratch.with_name(f"{scratch.name}-{gradient}"), {"gradient": gradient, "images": 16}))
        for gradient in ("off", "mean")
    }
    assert passes["mean"].plan.effect_targets == 1

    def work(found: Ready) -> Callable[[], float]:
        seconds = timed(found.main_pass)

        def then_flush() -> float:
            taken = seconds()
            found.engine.flush()
            return taken

        return then_flush

    samples = take_turns({name: work(found) for name, found in passes.items()}, repeats)
    return {"with / without": samples.ratio("mean", "off")}


def _own_gradients(found: Ready, repeats: int) -> dict[str, Value]:
    """Passes over one batch: as the main pass does them, and by hand."""
    engine, effects = found.engine, found.plan.effects
    assert effects is not None
    rows = EffectRows.of(effects, engine.spec.targets, engine.device)
    assert rows is not None
    facts, spec = found.facts, engine.spec
    images = torch.randint(0, 256, (BATCH, 3, *facts.image_shape), dtype=torch.uint8)
    batch = Batch(images, (), None, None, {}, torch.zeros(BATCH, dtype=torch.int64).numpy().astype("uint64"))
    mean, std = spec.model.input.mean, spec.model.input.std
    forward = Forward(engine.model, engine.device, BATCH, mean, std, spec.layers, facts.numerics, rows.places)
    ours = rows.pass_of(forward)(batch)
    samples = take_turns(
        {
            "ours": timed(lambda: ours(images, lambda *_: None)),
            "by hand": timed(lambda: by_hand(forward, images, spec.layers)),
            "forward": timed(lambda: forward(images)),
        },
        repeats,
    )
    return {"image / by hand": samples.ratio("ours", "by hand"), "image / forward": samples.ratio("ours", "forward")}


def by_hand(forward: Forward, images: Tensor, layers: tuple[str, ...]) -> list[Tensor]:
    """Gradients of the largest output with respect to the layers' outputs."""
    outputs: list[Tensor] = []

    def remember(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        outputs.append(output if output.requires_grad else output.requires_grad_())
        return outputs[-1].clone()  # what follows may work in place

    model = forward.model.requires_grad_(False)
    handles = [model.get_submodule(name).register_forward_hook(remember) for name in layers]
    try:
        logits = model(forward._input(images))
        return list(torch.autograd.grad(logits.amax(1).sum(), outputs))
    finally:
        for handle in handles:
            handle.remove()
