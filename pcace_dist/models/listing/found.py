"""Every layer of a model that can be ranked, and why others cannot: by forward passes with two images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError, require_packages
from pcace_dist.models.forward import refuses_images
from pcace_dist.models.layers import conv_layers
from pcace_dist.models.layouts import Axis, layout_of, outputs_of
from pcace_dist.models.listing.globs import row_globs
from pcace_dist.models.listing.layer import UNKNOWN, FoundLayer
from pcace_dist.models.listing.tokens import Transformer, transformer_of
from pcace_dist.models.tap import MOST_AXES, first_tensor, watched

HANDS_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in eval mode: what they get
HANDS_ON_BY_NAME = ("DropPath", "StochasticDepth")
CHANNELS = ("out_channels", "out_features", "num_features")  # attributes of convolutions, linear layers, norms
IMAGES = 2  # of a pass

Row = tuple[str, int | None, tuple[int, ...] | None, str | None]  # type, channels, map, layout


@dataclass(frozen=True)
class Layers:
    """layers: those that can be ranked, in model order. size: (C, H, W) of the images that their maps belong to; None
    where the model was not run. not_listed: other modules, with the reason."""

    layers: tuple[FoundLayer, ...]
    size: tuple[int, int, int] | None
    transformer: Transformer | None
    not_listed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each layer; needs the extra `pandas`."""
        require_packages("Layers.to_pandas", "pandas", "pandas")
        import pandas

        return pandas.DataFrame(asdict(self)["layers"])


def layers_of(model: nn.Module, size: tuple[int, int, int] | None) -> Layers:
    """The layers of a model on the CPU, in eval mode, as images of `size` (C, H, W) go through it.

    Without a size: what convolutions, norms and linear layers say of themselves. Raises ModelError where the model does
    not take such images.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if size is None:
        rows: dict[str, Row] = {name: row for name, module in modules.items() if (row := _of_module(module))}
        return Layers(_found(model, modules, rows), None, None, {})
    images = torch.randn((IMAGES, *size), generator=torch.Generator().manual_seed(0))
    not_listed = _not_listed(model, modules, images)
    outputs = outputs_of(model, [name for name in modules if name not in not_listed], images)
    rows = {name: _of_output(modules[name], *outputs[name]) for name in modules if name in outputs}
    layers = _found(model, modules, rows)
    return Layers(layers, size, transformer_of(model, layers), not_listed)


def _found(model: nn.Module, modules: Mapping[str, nn.Module], rows: Mapping[str, Row]) -> tuple[FoundLayer, ...]:
    convs, globs = set(conv_layers(model)), row_globs(model, rows)
    sizes = {name: sum(weight.numel() for weight in modules[name].parameters()) for name in rows}
    return tuple(FoundLayer(name, *row, sizes[name], name in convs, globs[name]) for name, row in rows.items())


def _of_module(module: nn.Module) -> Row | None:
    values = (getattr(module, name, None) for name in CHANNELS)
    channels = next((value for value in values if isinstance(value, int)), None)
    alone = next(module.children(), None) is None
    return (_type(module), channels, None, None) if channels is not None and alone else None


def _of_output(module: nn.Module, shape: tuple[int, ...], axis: Axis | None) -> Row:
    if axis is None:
        return _type(module), None, None, UNKNOWN
    if len(shape) == 3 and getattr(module, "batch_first", True) is False:
        shape = (shape[1], shape[0], shape[2])
    channels, positions = (shape[1], shape[2:]) if axis == "first" else (shape[-1], shape[1:-1])
    return _type(module), channels, positions, layout_of(len(shape), axis)


def _type(module: nn.Module) -> str:
    return type(module).__name__


def _not_listed(model: nn.Module, modules: Mapping[str, nn.Module], images: Tensor) -> dict[str, str]:
    """Modules that cannot be ranked, or are of no use, with the reason. Raises ModelError where the model fails."""
    runs: Counter[str] = Counter()
    outputs: dict[str, Tensor | None] = {}

    def count(name: str, output: object) -> None:
        runs[name] += 1
        outputs[name] = first_tensor(output)

    with torch.inference_mode(), watched(modules, count):
        try:
            model(images)
        except ModelError:
            raise
        except Exception as error:
            raise refuses_images(model, tuple(images.shape), error) from error
    reasons = {name: _why_not(module, runs[name], outputs.get(name)) for name, module in modules.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_not(module: nn.Module, runs: int, output: Tensor | None) -> str:
    """Why a module is not listed; "" for one that is."""
    if isinstance(module, HANDS_ON) or _type(module) in HANDS_ON_BY_NAME:
        return "hands on what it gets"
    if runs != 1:
        return "runs more than once in a forward pass" if runs else "does not run in a forward pass"
    if output is None or not output.is_floating_point() or not 2 <= output.dim() <= MOST_AXES:
        return "gives no tensor of real values with an axis of channels"
    first = 1 if output.dim() == 3 and getattr(module, "batch_first", True) is False else 0
    return "" if output.shape[first] == IMAGES else "gives a tensor whose first axis is not the image"
