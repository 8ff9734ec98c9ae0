"""Gradients of targets with respect to channels' maps, image by image, by one backward pass for each target.

Images are independent (steadiness.py refuses any other model), so the gradient of a target's sum over the batch holds
each image's own gradient. The model gets a clone of each map: what works in place behind it (an activation, a sum) then
changes the clone, and not what the gradient is taken of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pcace_dist.models.effects.places import FUNCTIONS, Place, PlaceTap
from pcace_dist.models.outputs import as_matrix
from pcace_dist.models.tap import channels_and_positions, first_tensor


class PlaceGradients:
    """Maps and gradients at some places of a model, for batches of images."""

    def __init__(self, model: nn.Module, places: Mapping[str, Place]) -> None:
        """places: by layer."""
        self._model = model
        self._places = places

    def __call__(
        self, batch: Tensor, targets: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor | None]]]:
        """Maps (n, C, D) by layer; and for each target its gradients (n, C, D) by layer, None where it has none there:
        the layer is not used for it, is detached, or runs under torch.no_grad or a reentrant checkpoint. targets: from
        outputs (n, O) to values (n,), each of its own row.

        Raises what the model or its backward pass raises; RuntimeError where nothing has a gradient.
        """
        with torch.enable_grad(), _frozen(self._model), _Leaves(self._model, self._places) as leaves:
            outputs = as_matrix(self._model(batch))
            tensors = [leaves.found[layer] for layer in self._places]
            given = []
            for place, target in enumerate(targets):
                last = place == len(targets) - 1
                total = target(outputs).sum()
                found = torch.autograd.grad(total, tensors, retain_graph=not last, allow_unused=True)
                given.append(found)
        maps = {layer: self._flat(layer, leaves.found[layer].detach()) for layer in self._places}
        return maps, [self._by_layer(found) for found in given]

    def _by_layer(self, found: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
        return {
            layer: None if gradient is None else self._flat(layer, gradient)
            for layer, gradient in zip(self._places, found, strict=True)
        }

    def _flat(self, layer: str, values: Tensor) -> Tensor:
        return channels_and_positions(layer, self._model.get_submodule(layer), values)[0]


class _Leaves(PlaceTap):
    """Puts a tensor with a gradient at every place: `found`, by layer, after a forward pass."""

    def __init__(self, model: nn.Module, places: Mapping[str, Place]) -> None:
        super().__init__(model, places, lambda *_: None)
        self.found: dict[str, Tensor] = {}
        self._functions = _Functions(self)

    def __enter__(self) -> _Leaves:
        super().__enter__()
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)

    def _take(self, layer: str, place: Place, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return output
        given = tensor.clone() if place.function is not None else self.put(layer, tensor)
        if place.function is not None:
            self._functions.waiting.append((given, place.function, layer))
        return (given, *output[1:]) if isinstance(output, tuple | list) else given

    def put(self, layer: str, tensor: Tensor) -> Tensor:
        """What the model goes on with in place of a tensor."""
        self.found[layer] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return self.found[layer].clone()


class _Functions(TorchFunctionMode):
    """Sees the activations that a model calls as functions."""

    def __init__(self, leaves: _Leaves) -> None:
        super().__init__()
        self._leaves = leaves
        self.waiting: list[tuple[Tensor, str, str]] = []  # what an activation is to be called on, which, and the place

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        for index, (tensor, function, layer) in enumerate(self.waiting):
            if args and args[0] is tensor and FUNCTIONS.get(func) == function:
                del self.waiting[index]
                return self._leaves.put(layer, result)
        return result


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Weights need no gradient meanwhile: less is kept, and less is computed."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
