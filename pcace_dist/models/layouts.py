"""Finds the channel axis of a layer's output. It is decided once, by evidence, and stored with the module.

For some kinds of module the axis is known by definition (tap.py). For all others, the number of axes is not enough:
(B, 16, 16, 96) may have 16 channels or 96. The evidence, from a batch of two images:

    inside    the last module inside the layer whose channels are known by definition; if there is none, the module
              that produced the layer's input
    reader    the module that reads the layer's unchanged output
    sizes     a larger image: positions grow with it, channels do not

All evidence must agree. Where it does not, or where there is none, the job must say it:
`layers: [{name: ..., layout: BHWC}]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import AXIS, CHANNELS_FIRST, channels_last, first_tensor, watched

Axis: TypeAlias = Literal["first", "last"]

LAYOUTS: dict[str, Axis] = {
    "BCL": "first",
    "BNC": "last",
    "BCHW": "first",
    "BHWC": "last",
    "BCDHW": "first",
    "BDHWC": "last",
}
LARGER = 32  # pixels by which the larger image is larger: a multiple of the strides and patches of most networks

_SAME_AXES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ACTIVATIONS = "torch.nn.modules.activation"


def settle(
    models: Sequence[nn.Module], layers: Sequence[str], layouts: Mapping[str, str], images: Tensor
) -> dict[str, Axis]:
    """Find the channel axis of all `layers`, and keep it with the modules of `models` (copies of one model).

    layouts: those that the job gives, by layer; images: float (2, C, H, W), the model's input. Returns the layers whose
    axis differs from the rule in tap.py. Raises ModelError for a layer without evidence, or with contradicting
    evidence, or whose output has another number of axes than its layout.
    """
    model = models[0]
    open_layers = [name for name in layers if not _by_definition(model.get_submodule(name))]
    declared = [name for name in layers if name in layouts]
    if not open_layers and not declared:
        return {}
    traces = _trace(model, {*open_layers, *declared}, images)
    larger = None
    settled: dict[str, Axis] = {}
    for name in dict.fromkeys([*open_layers, *declared]):
        trace = traces.get(name)
        if trace is None or trace.shape is None or (len(trace.shape) < 3 and name not in layouts):
            continue  # the tap refuses it, or it has one axis only
        if name in layouts:
            axis = _as_told(name, layouts[name], trace.shape)
        else:
            if larger is None:
                larger = _shapes_of_larger(model, open_layers, images)
            axis = _weighed(name, trace, larger.get(name))
        if (axis == "last") != channels_last(model.get_submodule(name), len(trace.shape)):
            settled[name] = axis
    keep(models, settled)
    return settled


def outputs_of(
    model: nn.Module, layers: Sequence[str], images: Tensor
) -> dict[str, tuple[tuple[int, ...], Axis | None]]:
    """Shape of the output of each of `layers` that gives a tensor of 2 or more axes, and which axis is the channel.

    None where nothing tells it, or the evidence contradicts itself. images: float (2, C, H, W).
    """
    traces = _trace(model, set(layers), images)
    larger = _shapes_of_larger(model, layers, images)
    return {
        name: (trace.shape, _told(model.get_submodule(name), trace, larger.get(name)))
        for name, trace in traces.items()
        if trace.shape is not None
    }


def _told(module: nn.Module, trace: _Trace, larger: tuple[int, ...] | None) -> Axis | None:
    axes = len(trace.shape or ())
    if axes < 3:
        return "last"
    if _by_definition(module):
        return "last" if channels_last(module, axes) else "first"
    return _vote(trace, larger)[0]


def layout_of(axes: int, axis: Axis) -> str:
    """The name of a layout; `BC` for vectors."""
    return _layout(axes, axis) if axes > 2 else "BC"


def keep(models: Sequence[nn.Module], axes: Mapping[str, str]) -> None:
    """Store with the modules what `settle` found, so that copies and every reader of the layers' outputs know it."""
    for model in models:
        for name, axis in axes.items():
            setattr(model.get_submodule(name), AXIS, axis)


def _by_definition(module: nn.Module) -> bool:
    """Whether tap.py's rule holds for a module whatever its output."""
    always_holds = isinstance(module, (*CHANNELS_FIRST, nn.Linear)) or type(module) is nn.LayerNorm
    return always_holds or hasattr(module, "batch_first")


def _as_told(name: str, layout: str, shape: tuple[int, ...]) -> Axis:
    if len(layout) != len(shape):
        raise ModelError(f"layers {name}: layout {layout} does not fit its output, {_shown(shape)}")
    return LAYOUTS[layout]


def _weighed(name: str, trace: _Trace, larger: tuple[int, ...] | None) -> Axis:
    agreed, votes = _vote(trace, larger)
    if agreed is not None:
        return agreed
    reason = "its modules and its growth with the image disagree on" if votes else "nothing tells"
    first_layout, last_layout = (_layout(len(trace.shape or ()), axis) for axis in ("first", "last"))
    raise ModelError(
        f"layers {name}: gives {_shown(trace.shape or ())} and {reason} which axis is the channel; say it: layers: "
        f"[{{name: {name}, layout: {last_layout}}}], or layout: {first_layout}"
    )


def _vote(trace: _Trace, larger: tuple[int, ...] | None) -> tuple[Axis | None, set[Axis]]:
    """The axis that all evidence agrees on, if it does; and all that it speaks for."""
    votes = {axis for axis in (trace.inside, trace.reader, _by_growth(trace.shape or (), larger)) if axis is not None}
    return (next(iter(votes)) if len(votes) == 1 else None), votes


def _layout(axes: int, axis: str) -> str:
    return next(name for name, at in LAYOUTS.items() if len(name) == axes and at == axis)


def _shown(shape: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(map(str, shape[1:]))})"


def _by_growth(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> Axis | None:
    """The first or last axis, whichever does not grow with the image; None where both or neither grow."""
    if larger is None or len(larger) != len(shape):
        return None
    first_grows, last_grows = larger[1] != shape[1], larger[-1] != shape[-1]
    if first_grows == last_grows:
        return None
    return "last" if first_grows else "first"


# -- evidence from forward passes


@dataclass(frozen=True)
class _Evidence:
    """The channels of a tensor: their number, the number of positions (None: unknown), their axis, and the shape."""

    channels: int
    positions: int | None
    axis: Axis | None
    shape: tuple[int, ...]

    def axis_in(self, shape: tuple[int, ...]) -> Axis | None:
        """The axis of these channels in a tensor that may be a transposed, flattened or joined form of theirs."""
        if self.axis is not None and shape == self.shape:
            return self.axis
        sides: dict[Axis, tuple[int, int]] = {
            "first": (shape[1], prod(shape[2:])),
            "last": (shape[-1], prod(shape[1:-1])),
        }
        by_both = [axis for axis, (size, rest) in sides.items() if size == self.channels and rest == self.positions]
        by_channels = [axis for axis, (size, _) in sides.items() if size == self.channels]
        by_positions = [axis for axis, (_, rest) in sides.items() if rest == self.positions]
        for fitting in (by_both, by_channels, by_positions):
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
        return None


@dataclass
class _Trace:
    """What a forward pass showed of one layer."""

    shape: tuple[int, ...] | None = None
    inside: Axis | None = None
    reader: Axis | None = None


def _trace(model: nn.Module, layers: set[str], images: Tensor) -> dict[str, _Trace]:
    """One forward pass with hooks on every module: the trace of each of `layers`."""
    names = {model.get_submodule(name): name for name in layers}
    traces: dict[str, _Trace] = {}
    evidence_of: dict[int, _Evidence] = {}  # by id of a tensor that `alive` keeps
    layer_of: dict[int, str] = {}  # the layer that gave a tensor
    alive: list[Tensor] = []
    event_counts: list[int] = []  # of each module that is running, how many events there were
    events: list[_Evidence | None] = []  # None: a module with weights of its own, whose channels are unknown

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        event_counts.append(len(events))
        input_tensor = first_tensor(args)
        if input_tensor is not None and id(input_tensor) in layer_of and (axis := _reads(module)) is not None:
            trace = traces[layer_of.pop(id(input_tensor))]
            trace.reader = axis if input_tensor.dim() > 2 else None

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        start = event_counts.pop()
        tensor = first_tensor(output)
        if tensor is None or tensor.dim() < 2:
            return
        evidence = _evidence(module, tensor)
        if evidence is None and _has_own_weights(module) and start == len(events):
            events.append(None)
        elif evidence is not None:
            events.append(evidence)
        input_tensor = first_tensor(args)
        latest = (
            events[-1] if len(events) > start else None if input_tensor is None else evidence_of.get(id(input_tensor))
        )
        recorded = evidence_of.get(id(tensor)) if len(events) > start else None
        if latest is not None:
            keeps_axis = (
                recorded is latest
                or evidence is latest
                or (_keeps_axes(module) and latest.shape == tuple(tensor.shape))
            )
            latest = latest if keeps_axis else replace(latest, axis=None)
            evidence_of[id(tensor)] = latest
            alive.append(tensor)
        if module in names:
            shape = tuple(int(n) for n in tensor.shape)
            traces[names[module]] = _Trace(shape, None if latest is None or len(shape) < 3 else latest.axis_in(shape))
            layer_of[id(tensor)] = names[module]
            alive.append(tensor)

    handles = [module.register_forward_pre_hook(before) for module in model.modules()]
    handles += [module.register_forward_hook(after) for module in model.modules()]
    try:
        with torch.inference_mode():
            model(images)
    except Exception:  # the pass that counts says what is wrong
        return traces
    finally:
        for handle in handles:
            handle.remove()
    return traces


def _evidence(module: nn.Module, output: Tensor) -> _Evidence | None:
    """The channels of a module's output, where its kind defines them."""
    shape = tuple(int(n) for n in output.shape)
    if isinstance(module, CHANNELS_FIRST):
        return _Evidence(shape[1], prod(shape[2:]), "first", shape)
    if isinstance(module, nn.Linear) or (type(module) is nn.LayerNorm and len(module.normalized_shape) == 1):
        return _Evidence(shape[-1], prod(shape[1:-1]), "last", shape)
    if isinstance(module, nn.MultiheadAttention):
        return _Evidence(module.embed_dim, None, None, shape)
    sizes = {tuple(weight.shape) for weight in module.parameters(recurse=False)}
    vectors = {size[0] for size in sizes if len(size) == 1}
    if len(vectors) == 1 and len(sizes) == 1 and not any(True for _ in module.children()):
        return _Evidence(vectors.pop(), None, None, shape)
    return None


def _has_own_weights(module: nn.Module) -> bool:
    return any(weight.dim() > 1 for weight in module.parameters(recurse=False))


def _keeps_axes(module: nn.Module) -> bool:
    return isinstance(module, _SAME_AXES) or type(module).__module__ == _ACTIVATIONS


def _reads(module: nn.Module) -> Axis | None:
    """The axis of its input that a module treats as the channels."""
    if isinstance(module, CHANNELS_FIRST):
        return "first"
    return "last" if isinstance(module, nn.Linear) or type(module) is nn.LayerNorm else None


def _shapes_of_larger(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' outputs for a larger image; empty where the model accepts images of one size only."""
    height, width = images.shape[-2:]
    grown = nn.functional.interpolate(images.float(), size=(height + LARGER, width + LARGER)).to(images)
    shapes: dict[str, tuple[int, ...]] = {}

    def remember(name: str, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            shapes[name] = tuple(int(n) for n in tensor.shape)

    try:
        with torch.inference_mode(), watched({name: model.get_submodule(name) for name in layers}, remember):
            model(grown)
    except Exception:
        return {}
    return shapes
