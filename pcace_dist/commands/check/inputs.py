"""Whether the model is right more often with another mean and std: the usual ones are tried on the same images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pcace_dist.checks.accuracy import is_above
from pcace_dist.checks.finding import WARNING, Finding
from pcace_dist.commands.check.sample import BATCH, Sample
from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import Numerics
from pcace_dist.run.prepare import Preparation

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
FEW = 128  # images that are tried
SURE = 0.9  # no other input is tried where the model is right so often


def usual(channels: int) -> dict[str, tuple[list[float], list[float]]]:
    """mean and std as a job file writes them, by what the model then gets."""
    inputs: dict[str, tuple[list[float], list[float]]] = {
        "values from 0 to 1": ([0.0] * channels, [1.0] * channels),
        "values from -1 to 1": ([0.5] * channels, [0.5] * channels),
        "values from 0 to 255": ([0.0] * channels, [1 / 255] * channels),
    }
    return inputs | ({"ImageNet's mean and std": IMAGENET} if channels == 3 else {})


def other_inputs(preparation: Preparation, sample: Sample, accuracy: Finding) -> Iterator[Finding]:
    """A warning where one of the usual inputs makes the model right more often, by more than chance. None of tensors,
    which are as their owner has made them."""
    assert sample.labels is not None
    if accuracy.figures["accuracy"] >= SURE or sample.images.is_floating_point():
        return
    step = -(-len(sample) // FEW)
    images, labels = sample.images[::step], sample.labels[::step]
    labelled = labels >= 0
    section, shared = preparation.spec.model.input, preparation.shared_model
    model = preparation.spec.load_model() if shared is None else shared.model_copy()
    shares: dict[str, float] = {}
    for words, (mean, std) in usual(section.image_channels).items():
        forward = Forward(model, "cpu", BATCH, mean, std, (), Numerics())
        predicted = np.concatenate([forward(part).argmax(1).numpy() for part in torch.split(images, BATCH)])
        shares[words] = float((predicted == labels)[labelled].mean())
    own = float(accuracy.figures["accuracy"])
    words, best = max(shares.items(), key=lambda tried: tried[1])
    if is_above(best, own, int(labelled.sum())) and best > 1.2 * own:
        mean, std = usual(section.image_channels)[words]
        written = ", ".join(f"{value:.5g}" for value in mean), ", ".join(f"{value:.5g}" for value in std)
        yield Finding(
            WARNING,
            "model.input",
            f"the model is right on {own:.0%}, but on {best:.0%} with {words}",
            f"write model.input: {{mean: [{written[0]}], std: [{written[1]}]}}",
            {"accuracy": own, "then": round(best, 4), "mean": mean, "std": std},
        )
