"""Checks that a model's outputs for an image are the same every time, whatever else is in its batch. Any other model is
refused. The error names the modules that may be the cause."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pcace_dist.errors import ModelError
from pcace_dist.models.outputs import as_matrix

AGAIN = 1e-5  # of the outputs' size: a repeated batch changes nothing, or on a GPU the last bits
BESIDE = 1e-3  # in float32 another batch changes the last bits; batch statistics change 1 % and more
DYNAMIC = ".quantized.dynamic"  # in the names of torch.ao's modules that choose their scale from the batch
NAMED = 5  # modules in a message
TRAINING = "in training mode (does its forward call train()?)"


def check_steady(model: nn.Module, images: Tensor) -> None:
    """Raise ModelError for a model whose outputs for an image change from call to call, or with the other images.

    images: float (2 or more, C, H, W), the model's input. The first two are used, and the mirrored negative of the
    second.
    """
    pair = images[:2]
    mixed = torch.cat([images[:1], -images[1:2].flip(-1)])
    try:
        with torch.inference_mode():
            outputs, repeated, in_mixed = (as_matrix(model(batch)).double() for batch in (pair, pair, mixed))
    except Exception:  # the real pass reports what is wrong
        return
    if len(outputs) != 2 or len(in_mixed) != 2:
        return  # no outputs of single images: the real pass reports it
    size = max(float(outputs.abs().max()), float((outputs[0] - outputs[1]).abs().max()), 1e-12)
    changed = float((outputs - repeated).abs().max()) / size
    if changed > AGAIN:
        raise ModelError(
            "model.factory: the model is not deterministic: it gives the same images other outputs when it is asked "
            f"again (by {100 * changed:.2g} % of their size); is a dropout always on (F.dropout without "
            f"training=self.training), or a state kept in forward?{_suspects(model)}"
        )
    moved = float((outputs[0] - in_mixed[0]).abs().max()) / size
    if moved > BESIDE:
        raise ModelError(
            "model.factory: the outputs of an image depend on the other images in its batch (by "
            f"{100 * moved:.2g} % of their size)"
            f"{_suspects(model) or '; is something taken over the batch?'}"
        )


def _suspects(model: nn.Module) -> str:
    """Modules that do not behave as in evaluation mode, for the message."""
    suspects = [f"{name}: {reason}" for name, part in model.named_modules() if (reason := _why(part)) is not None]
    more = f" and {len(suspects) - NAMED} more" if len(suspects) > NAMED else ""
    return f"; {', '.join(suspects[:NAMED])}{more}" if suspects else ""


def _why(part: nn.Module) -> str | None:
    class_name = type(part).__name__
    if isinstance(part, _NormBase) and hasattr(part, "running_mean") and "Instance" not in class_name:
        if part.running_mean is None:
            return f"{class_name} without running statistics (build and train it with track_running_stats=True)"
        if part.training:
            return f"{class_name} {TRAINING}"
    if isinstance(part, _DropoutNd) and part.training:
        return f"{class_name} {TRAINING}"
    if DYNAMIC in type(part).__module__:
        return f"{class_name}, quantised dynamically, takes its scale from the whole batch"
    return None
