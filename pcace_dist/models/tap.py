"""The tap: passes on each chosen layer's output, as channels and positions, while the model runs. It copies nothing.

The axes of an output are those that layouts.py has stored with the module; else they follow from its shape and kind:

    (B, C)            vectors: one position
    (B, N, C)         tokens, as vision transformers have them; but (B, C, L) from a module that by its definition puts
                      channels first (convolutions, batch and group norm, one-dimensional pooling)
    (B, C, H, W)      maps, also with three positional axes
    (B, ..., C)       of any of these, where the module works on the last axis (nn.Linear, nn.LayerNorm itself)

Of a recurrent or attention module the first output is used; with batch_first=False its tokens are (N, B, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from pcace_dist.errors import ModelError

Receive = Callable[[str, Tensor, tuple[int, ...]], None]

CHANNELS_FIRST = (
    _ConvNd,
    _NormBase,
    nn.GroupNorm,
    *(getattr(nn, name) for name in nn.modules.pooling.__all__),
)
MOST_AXES = 5
AXIS = "pcace_channel_axis"  # attribute of a module: "first" or "last", where the rule above does not hold
NEEDED = "it must give real-valued maps (B, C, H, W), vectors (B, C) or tokens (B, N, C)"


class LayerTap:
    """While entered, every forward pass of `model` calls `receive(layer, maps, shape)` once for each of `layers`.

    maps: (B, C, D), a view of the layer's output where its strides allow (contiguous and channels-last maps, vectors
    and tokens: always), in the output's floating dtype; shape: the D positions, for example (H, W), () for a vector.
    The view is valid during the call only, because the next layer may work in place. `receive` must not change it.

    The forward pass raises ModelError, naming the layer, for a layer that runs more than once or not at all, or whose
    output has none of the shapes above.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], receive: Receive) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._receive = receive
        self._handles: list[RemovableHandle] = []
        self._seen: set[str] = set()
        self._rows: int | None = None

    def __enter__(self) -> LayerTap:
        self._handles = [self._model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name in self._layers:
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._hook(name)))
        self._handles.append(self._model.register_forward_hook(self._end))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self._rows = int(inputs[0].shape[0]) if inputs and inputs[0].dim() else None
        self._seen.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if name in self._seen:
                raise ModelError(f"layers {name}: runs more than once in a forward pass; name a layer that runs once")
            self._seen.add(name)
            maps, shape = channels_and_positions(name, module, output, self._rows)
            self._receive(name, maps, shape)

        return hook

    def _end(self, _: nn.Module, __: Any, ___: Any) -> None:
        for name in self._layers:
            if name not in self._seen:
                raise ModelError(
                    f"layers {name}: does not run in a forward pass of the model (its weights may be used "
                    f"elsewhere); name another layer, or leave it out by layers: [..., '!{name}']"
                )


def channels_and_positions(
    name: str, module: nn.Module, output: object, rows: int | None = None
) -> tuple[Tensor, tuple[int, ...]]:
    """A layer's output as maps (B, C, D) and the shape of its positions. `rows` is the B it must have.

    Raises ModelError, naming the layer, for anything but floating tensors of 2 to 5 axes.
    """
    tensor = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        kind = type(tensor).__name__ if not isinstance(tensor, Tensor) else f"a {tensor.layout} tensor"
        raise ModelError(f"layers {name}: gives {kind}; {NEEDED}")
    if not tensor.is_floating_point() or not 2 <= tensor.dim() <= MOST_AXES:
        raise ModelError(f"layers {name}: gives {tensor.dtype} of shape {tuple(tensor.shape)}; {NEEDED}")
    if tensor.dim() == 3 and getattr(module, "batch_first", True) is False:
        tensor = tensor.transpose(0, 1)
    if rows is not None and tensor.shape[0] != rows:
        raise ModelError(
            f"layers {name}: gives shape {tuple(tensor.shape)} for a batch of {rows} images; its first "
            "axis must be the image"
        )
    maps = tensor.movedim(-1, 1) if channels_last(module, tensor.dim()) else tensor
    return maps.flatten(2) if maps.dim() > 2 else maps.unsqueeze(2), tuple(int(n) for n in maps.shape[2:])


class _Reached(Exception):
    """The layer has run, and the rest of the pass is not needed."""


def maps_at(model: nn.Module, layer: str, inputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A layer's maps (B, C, D) with their graph, and the shape of their positions; the forward pass ends there.

    Raises ModelError for a layer that does not run, or whose output is none of the shapes above.
    """
    found: list[tuple[Tensor, tuple[int, ...]]] = []

    def hook(module: nn.Module, _: object, output: object) -> None:
        found.append(channels_and_positions(layer, module, output))
        raise _Reached

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        with suppress(_Reached):
            model(inputs)
    finally:
        handle.remove()
    if not found:
        raise ModelError(f"layers {layer}: does not run in a forward pass of the model")
    return found[0]


@contextmanager
def watched(modules: Mapping[str, nn.Module], look: Callable[[str, object], None]) -> Iterator[None]:
    """While entered, every call of these modules calls `look(name, output)`; what it gives stays as it is."""

    def hook(name: str, _: nn.Module, __: object, output: object) -> None:
        look(name, output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        yield


def first_tensor(values: object) -> Tensor | None:
    """The tensor itself, or the first of a tuple or list."""
    first = values[0] if isinstance(values, tuple | list) and values else values
    return first if isinstance(first, Tensor) else None


def channels_last(module: nn.Module, axes: int) -> bool:
    """Whether a module's output of so many axes has its channels on the last one (see the top of this file)."""
    if axes < 3:
        return False
    settled = vars(module).get(AXIS)  # getattr of a module that has none takes many times as long
    if settled is not None:
        return bool(settled == "last")
    if isinstance(module, CHANNELS_FIRST):
        return False
    works_on_last_axis = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
    return works_on_last_axis or axes == 3
