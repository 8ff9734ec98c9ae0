"""Checks that a model gives an image the same outputs every time, whatever else is in its batch. Any other model is
refused. The check takes four images; the error names the modules that may be the reason."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pcace_dist.errors import ModelError
from pcace_dist.models.outputs import as_matrix

AGAIN = 1e-5  # of the outputs' size: the same batch again changes nothing but, on a GPU, the last bits
BESIDE = 1e-3  # in float32 another batch changes the last bits; batch statistics change a hundredth and more
DYNAMIC = ".quantized.dynamic"  # in the name of torch.ao's modules that quantise their input as it comes
NAMED = 5  # modules in a message


def check_steady(model: nn.Module, images: Tensor) -> None:
    """Raise ModelError for a model whose outputs for an image change from call to call, or with the other images.

    images: float (2 or more, C, H, W) as the model takes them; two are used, and the second one's mirrored negative.
    """
    pair = images[:2]
    other = torch.cat([images[:1], -images[1:2].flip(-1)])
    try:
        with torch.inference_mode():
            first, again, beside = (as_matrix(model(batch)).double() for batch in (pair, pair, other))
    except Exception:  # the pass that counts says what is wrong
        return
    if len(first) != 2 or len(beside) != 2:
        return  # no outputs of single images: the pass that counts says so
    size = max(float(first.abs().max()), float((first[0] - first[1]).abs().max()), 1e-12)
    changed = float((first - again).abs().max()) / size
    if changed > AGAIN:
        raise ModelError(
            "model.factory: the model is not deterministic: it gives the same images other outputs when it is asked "
            f"again (by {100 * changed:.2g} % of their size); is a dropout always on (F.dropout without "
            f"training=self.training), or a state kept in forward?{_suspects(model)}"
        )
    moved = float((first[0] - beside[0]).abs().max()) / size
    if moved > BESIDE:
        raise ModelError(
            "model.factory: the outputs of an image depend on the other images in its batch (by "
            f"{100 * moved:.2g} % of their size)"
            f"{_suspects(model) or '; is something taken over the batch?'}"
        )


def _suspects(model: nn.Module) -> str:
    """Modules that work otherwise than in evaluation."""
    found = [f"{name}: {why}" for name, part in model.named_modules() if (why := _why(part)) is not None]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"; {', '.join(found[:NAMED])}{more}" if found else ""


def _why(part: nn.Module) -> str | None:
    kind = type(part).__name__
    if isinstance(part, _NormBase) and hasattr(part, "running_mean") and "Instance" not in kind:
        if part.running_mean is None:
            return f"{kind} without running statistics"
        if part.training:
            return f"{kind} in training mode"
    if isinstance(part, _DropoutNd) and part.training:
        return f"{kind} in training mode"
    if DYNAMIC in type(part).__module__:
        return f"{kind}, quantised dynamically, takes its scale from the whole batch"
    return None
