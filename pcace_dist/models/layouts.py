"""Finds the channel axis of a layer's output. It is decided once, by evidence, and stored with the module.

Some kinds say it by definition (tap.py). For all others, the number of axes says nothing: (B, 16, 16, 96) may be 16
channels or 96. The evidence, from a batch of two images:

    inside    the last module within the layer that has channels by definition, or the one whose output it was given
    reader    the module that takes the layer's output as it is
    sizes     a larger image: positions grow with it, channels do not

What these say must agree. Where they do not, or say nothing, the job must: `layers: [{name: ..., layout: BHWC}]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import AXIS, CHANNELS_FIRST, channels_last, first_tensor

Axis: TypeAlias = Literal["first", "last"]

LAYOUTS: dict[str, Axis] = {
    "BCL": "first",
    "BNC": "last",
    "BCHW": "first",
    "BHWC": "last",
    "BCDHW": "first",
    "BDHWC": "last",
}
LARGER = 32  # pixels by which the second image is larger: a whole number of strides and patches of most networks

_SAME_AXES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ACTIVATIONS = "torch.nn.modules.activation"


def settle(
    models: Sequence[nn.Module], layers: Sequence[str], layouts: Mapping[str, str], images: Tensor
) -> dict[str, Axis]:
    """Find the channel axis of all `layers`, and keep it with the modules of `models` (copies of one model).

    layouts: what the job says, by layer; images: float (2, C, H, W) as the model takes them. Returns the layers whose
    axis is not that of the rule in tap.py. Raises ModelError for a layer that nothing speaks for, or whose output has
    not the axes that its layout names.
    """
    model = models[0]
    open_layers = [name for name in layers if not _by_definition(model.get_submodule(name))]
    asked = [name for name in layers if name in layouts]
    if not open_layers and not asked:
        return {}
    traces = _trace(model, {*open_layers, *asked}, images)
    larger = None
    settled: dict[str, Axis] = {}
    for name in dict.fromkeys([*open_layers, *asked]):
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


def keep(models: Sequence[nn.Module], axes: Mapping[str, str]) -> None:
    """Keep with the modules what `settle` found: copies and every reader of the layers' outputs then know it."""
    for model in models:
        for name, axis in axes.items():
            setattr(model.get_submodule(name), AXIS, axis)


def _by_definition(module: nn.Module) -> bool:
    """Whether tap.py's rule holds for a module whatever it gives."""
    known = isinstance(module, (*CHANNELS_FIRST, nn.Linear)) or type(module) is nn.LayerNorm
    return known or hasattr(module, "batch_first")


def _as_told(name: str, layout: str, shape: tuple[int, ...]) -> Axis:
    if len(layout) != len(shape):
        raise ModelError(f"layers {name}: layout {layout} does not fit its output, {_shown(shape)}")
    return LAYOUTS[layout]


def _weighed(name: str, trace: _Trace, larger: tuple[int, ...] | None) -> Axis:
    said = {"inside": trace.inside, "reader": trace.reader, "sizes": _by_growth(trace.shape or (), larger)}
    votes = {how: axis for how, axis in said.items() if axis is not None}
    if len(set(votes.values())) == 1:
        return next(iter(votes.values()))
    why = "what it is made of and how it grows with the image disagree" if votes else "nothing tells"
    first, last = (_layout(len(trace.shape or ()), axis) for axis in ("first", "last"))
    raise ModelError(
        f"layers {name}: gives {_shown(trace.shape or ())} and {why} which axis is the channel; say it: layers: "
        f"[{{name: {name}, layout: {last}}}], or layout: {first}"
    )


def _layout(axes: int, axis: str) -> str:
    return next(name for name, at in LAYOUTS.items() if len(name) == axes and at == axis)


def _shown(shape: tuple[int, ...]) -> str:
    return f"(batch, {', '.join(map(str, shape[1:]))})"


def _by_growth(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> Axis | None:
    """The one of the two axes that a larger image leaves as it is."""
    if larger is None or len(larger) != len(shape):
        return None
    first, last = larger[1] != shape[1], larger[-1] != shape[-1]
    if first == last:
        return None
    return "last" if first else "first"


# -- what ran


@dataclass(frozen=True)
class _Evidence:
    """Channels of a tensor: how many, on how many positions (None: not known), and on which axis of which shape."""

    channels: int
    positions: int | None
    axis: Axis | None
    shape: tuple[int, ...]

    def axis_in(self, shape: tuple[int, ...]) -> Axis | None:
        """Where these channels lie in a tensor that holds them, perhaps turned, flattened or joined with others."""
        if self.axis is not None and shape == self.shape:
            return self.axis
        sides: dict[Axis, tuple[int, int]] = {
            "first": (shape[1], prod(shape[2:])),
            "last": (shape[-1], prod(shape[1:-1])),
        }
        exact = [axis for axis, (size, rest) in sides.items() if size == self.channels and rest == self.positions]
        sized = [axis for axis, (size, _) in sides.items() if size == self.channels]
        placed = [axis for axis, (_, rest) in sides.items() if rest == self.positions]
        for fitting in (exact, sized, placed):
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
        return None


@dataclass
class _Trace:
    """What was seen of one layer."""

    shape: tuple[int, ...] | None = None
    inside: Axis | None = None
    reader: Axis | None = None


def _trace(model: nn.Module, layers: set[str], images: Tensor) -> dict[str, _Trace]:
    """One forward pass, every module watched."""
    names = {model.get_submodule(name): name for name in layers}
    traces: dict[str, _Trace] = {}
    known: dict[int, _Evidence] = {}  # by id of a tensor that `alive` keeps
    given: dict[int, str] = {}  # the layer that gave a tensor
    alive: list[Tensor] = []
    began: list[int] = []  # of each module that is running, how many events there were
    events: list[_Evidence | None] = []  # None: a module with weights of its own whose channels nobody knows

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        began.append(len(events))
        taken = first_tensor(args)
        if taken is not None and id(taken) in given and (axis := _reads(module)) is not None:
            trace = traces[given.pop(id(taken))]
            trace.reader = axis if taken.dim() > 2 else None

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        start = began.pop()
        tensor = first_tensor(output)
        if tensor is None or tensor.dim() < 2:
            return
        evidence = _evidence(module, tensor)
        if evidence is None and _has_own_weights(module) and start == len(events):
            events.append(None)
        elif evidence is not None:
            events.append(evidence)
        taken = first_tensor(args)
        own = events[-1] if len(events) > start else None if taken is None else known.get(id(taken))
        held = known.get(id(tensor)) if len(events) > start else None
        if own is not None:
            same = held is own or evidence is own or (_keeps_axes(module) and own.shape == tuple(tensor.shape))
            own = own if same else replace(own, axis=None)
            known[id(tensor)] = own
            alive.append(tensor)
        if module in names:
            shape = tuple(int(n) for n in tensor.shape)
            traces[names[module]] = _Trace(shape, None if own is None or len(shape) < 3 else own.axis_in(shape))
            given[id(tensor)] = names[module]
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
    """What a module says by definition of its output."""
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
    """The axis that a module takes for the channels of its input."""
    if isinstance(module, CHANNELS_FIRST):
        return "first"
    return "last" if isinstance(module, nn.Linear) or type(module) is nn.LayerNorm else None


def _shapes_of_larger(model: nn.Module, layers: Sequence[str], images: Tensor) -> dict[str, tuple[int, ...]]:
    """Shapes of the layers' outputs for a larger image; none where the model takes images of one size only."""
    height, width = images.shape[-2:]
    grown = nn.functional.interpolate(images.float(), size=(height + LARGER, width + LARGER)).to(images)
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with torch.inference_mode(), _watched(model, layers, shapes):
            model(grown)
    except Exception:
        return {}
    return shapes


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[None]:
    def remember(name: str) -> Any:
        def hook(_: nn.Module, __: object, output: object) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                shapes[name] = tuple(int(n) for n in tensor.shape)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(remember(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
