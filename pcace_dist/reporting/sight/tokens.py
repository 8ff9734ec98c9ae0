"""How the tokens of a transformer lie on the image: the grid of its patches, and the tokens that come before them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.listing.found import Layers, layers_of
from pcace_dist.models.listing.layer import FoundLayer
from pcace_dist.models.listing.tokens import heads_of, patches_of
from pcace_dist.reporting.pictures import shrink_map

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenLayer:
    """A layer of tokens. apart: what those before the patches are; patches: rows and columns of the others; None where
    nothing tells, and then the tokens are one row. said: what its channels are, for the page (`_said`)."""

    apart: tuple[str, ...] = ()
    patches: tuple[int, ...] | None = None
    said: dict[str, Any] = field(default_factory=dict)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Rows and columns of a layer's map; None where it has none, or nothing tells them."""
        rows = self.patches if len(shape) == 1 else shape
        return (rows[0], rows[1]) if rows is not None and len(rows) == 2 else None

    def pictures(self, values: Tensor, shape: tuple[int, ...]) -> tuple[Floats | None, Floats]:
        """The map (h, w) of the patches, and the values of the tokens apart: of values (D,) with their shape."""
        if self.patches is None:
            return shrink_map(values, shape), np.empty(0, np.float32)
        before = len(self.apart)
        return shrink_map(values[before:], self.patches), np.asarray(values[:before].float().cpu().numpy(), np.float32)


NO_TOKENS = TokenLayer()


def token_layers(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int, int]
) -> dict[str, TokenLayer]:
    """The layers of tokens among those with these shapes; empty for a network without. size: (C, H, W) of its images.

    The model is on the CPU, in eval mode; it runs once or twice if there are such layers.
    """
    if not any(len(shape) == 1 for shape in shapes.values()):
        return {}
    with contextlib.suppress(ModelError):
        found = layers_of(model, size)
        layers = {layer.name: layer for layer in found.layers}
        return {
            name: _token_layer(found, layers[name], shape[0])
            for name, shape in shapes.items()
            if len(shape) == 1 and name in layers
        }
    return {}


def _token_layer(found: Layers, layer: FoundLayer, tokens: int) -> TokenLayer:
    patches = patches_of(found.layers, tokens)
    before = 0 if patches is None else tokens - int(np.prod(patches))
    return TokenLayer(_names(found, before), patches, _said(found, layer))


def _names(found: Layers, before: int) -> tuple[str, ...]:
    """CLS is the first; what else comes before the patches are registers or the like."""
    has_cls = before > 0 and found.transformer is not None and found.transformer.cls
    registers = before - has_cls
    return ("CLS",) * has_cls + tuple(f"register {number + 1}" for number in range(registers))


def _said(found: Layers, layer: FoundLayer) -> dict[str, Any]:
    """{"mlp": True} for hidden channels of an MLP, {"parts", "heads", "width"} for those of attention heads."""
    if found.transformer is None:
        return {}
    if layer.glob in found.transformer.mlp_globs:
        return {"mlp": True}
    heads = heads_of(found.transformer, layer)
    return {} if heads is None else {"parts": list(heads.parts), "heads": heads.heads, "width": heads.width}
