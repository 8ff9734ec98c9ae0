"""Where a layer's effect is taken from: behind the activation that follows it, or at its own output.

A channel's map is what the next layers see only behind the batch norm and the activation that follow. Both are found
by one forward pass: a batch norm and then an activation (or the activation at once) that are alone in taking the
layer's output. Where anything else takes it too, or nothing of the kind follows, the layer's own output is the place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import Receive, channels_and_positions, first_tensor

F = nn.functional

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
FUNCTIONS: dict[Callable[..., Any], str] = {function: name for name, function in ACTIVATIONS.items()} | {
    torch.relu: "relu",
    Tensor.relu: "relu",
    F.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.tanh: "tanh",
    Tensor.tanh: "tanh",
}
_LOOKS = ("__get__", "size", "dim", "numel", "is_floating_point", "is_contiguous")  # that use no value of a tensor


def tap_name(layer: str) -> str:
    """What the maps are called from which a layer's effect is taken, beside the layer's own."""
    return f"effect of {layer}"


@dataclass(frozen=True)
class Place:
    """The output of the `call`-th call (from 0) of a module in a forward pass; with `function`, of that activation
    which the model calls on it."""

    module: str
    call: int = 0
    function: str | None = None

    @property
    def shown(self) -> str:
        """For people: what an effect is taken from."""
        called = self.module if self.call == 0 else f"{self.module} (call {self.call + 1})"
        return called if self.function is None else f"{self.function} of {called}"

    def to_json(self) -> dict[str, Any]:
        return {"module": self.module, "call": self.call, "function": self.function}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Place:
        return cls(str(value["module"]), int(value["call"]), value["function"])


def find_places(model: nn.Module, layers: Sequence[str], images: Tensor, *, at: str) -> dict[str, Place]:
    """The place of each layer; at: activation or output. images: float (n, C, H, W) as the model takes them."""
    own = {layer: Place(layer) for layer in layers}
    if at == "output":
        return own
    trace = _Trace(model)
    try:
        with trace, torch.no_grad():
            model(images)
    except Exception:  # a model that takes no such trace; the pass that counts says what is wrong with it
        return own
    return {layer: trace.place_behind(layer) or own[layer] for layer in layers}


@dataclass(frozen=True, eq=False)
class _Call:
    """A function that took tensors and gave one."""

    function: Callable[..., Any]
    taken: tuple[Tensor, ...]
    given: object
    plain: bool  # no arguments besides the tensor


class _Trace(TorchFunctionMode):
    """While entered: which functions take which tensors, and which modules give them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._calls: list[_Call] = []
        self._given: list[tuple[str, int, Tensor]] = []  # by modules: name, call, output
        self._counts: Counter[str] = Counter()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Trace:
        for name, module in self._model.named_modules():
            if name:
                self._handles.append(module.register_forward_hook(self._remember(name)))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _remember(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                self._given.append((name, self._counts[name], tensor))
            self._counts[name] += 1

        return hook

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        given = func(*args, **options)
        if getattr(func, "__name__", "") not in _LOOKS:
            taken = tuple(value for value in _flat([*args, *options.values()]) if isinstance(value, Tensor))
            plain = len(args) == 1 and not any(value for value in options.values())
            self._calls.append(_Call(func, taken, given, plain))
        return given

    def place_behind(self, layer: str) -> Place | None:
        """Where the activation is that alone takes a layer's output; None where there is none."""
        outputs = [tensor for name, _, tensor in self._given if name == layer]
        if len(outputs) != 1:
            return None
        place, current = Place(layer), outputs[0]
        taken = self._only_call(current)
        if taken is not None and taken.function is F.batch_norm and isinstance(taken.given, Tensor):
            norm = self._module_of(taken.given)
            place, current = norm or place, taken.given
            taken = None if norm is None else self._only_call(current)
        name = None if taken is None else FUNCTIONS.get(taken.function)
        if taken is None or name is None or not isinstance(taken.given, Tensor):
            return None
        behind = self._module_of(taken.given, after=place)
        if behind is not None:
            return behind
        return Place(place.module, place.call, name) if taken.plain else None

    def _only_call(self, tensor: Tensor) -> _Call | None:
        """The one call that takes a tensor; None where several do, or none."""
        calls = [call for call in self._calls if any(tensor is own for own in call.taken)]
        if len(calls) > 1 and calls[0].given is tensor:  # it works in place: the others take what it gives
            return calls[0]
        return calls[0] if len(calls) == 1 else None

    def _module_of(self, tensor: Tensor, after: Place | None = None) -> Place | None:
        """The innermost module that gives a tensor; with `after`, one that is called after that place."""
        given = [(name, call) for name, call, own in self._given if own is tensor]
        if after is not None and (after.module, after.call) in given:  # in place: both gave the same tensor
            given = given[given.index((after.module, after.call)) + 1 :]
        return Place(*given[0]) if given else None


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


class PlaceTap:
    """While entered, every forward pass calls `receive(layer, maps (B, C, D), shape)` for each place, as LayerTap does
    for layers.

    places: by layer; the channels of a place lie where the layer's lie.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Place], receive: Receive) -> None:
        self._model = model
        self._places = places
        self._receive = receive
        self._handles: list[RemovableHandle] = []
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> PlaceTap:
        self._handles = [self._model.register_forward_pre_hook(lambda *_: self._counts.clear())]
        for name in dict.fromkeys(place.module for place in self._places.values()):
            own = {layer: place for layer, place in self._places.items() if place.module == name}
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._hook(name, own)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, module_name: str, places: Mapping[str, Place]) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            call = self._counts[module_name]
            self._counts[module_name] += 1
            for layer, place in places.items():
                if place.call == call:
                    output = self._take(layer, place, output)
            return output

        return hook

    def _take(self, layer: str, place: Place, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            raise ModelError(f"layers {layer}: {place.shown} gives no tensor; use effect.at: output")
        values = tensor if place.function is None else ACTIVATIONS[place.function](tensor)
        self._receive(layer, *channels_and_positions(layer, self._model.get_submodule(layer), values))
        return output
