"""Gradients of targets with respect to channels' maps, image by image, by one backward pass for each target.

Images are independent (steadiness.py refuses any other model), so the gradient of a target's sum over the batch holds
each image's own gradient. The model gets a clone of each map: what works in place behind it (an activation, a sum) then
changes the clone, and not what the gradient is taken of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pcace_dist.models.effects.places import FUNCTIONS, Place, PlaceTap
from pcace_dist.models.outputs import as_matrix
from pcace_dist.models.tap import channels_and_positions, channels_last, first_tensor

Target: TypeAlias = Callable[[Tensor], Tensor]
"""From outputs (B, O) to values (n,), each of its own row."""
Found: TypeAlias = dict[str, "Tensor | None"]
"""Gradients (B, C, D) by layer; None where the target has none: the layer is not used for it, is detached, or runs
under torch.no_grad or a reentrant checkpoint."""

STEPS = 5  # of a path


class PlaceGradients:
    """Maps and gradients at some places of a model, for batches of images."""

    def __init__(self, model: nn.Module, places: Mapping[str, Place]) -> None:
        """places: by layer."""
        self._model = model
        self._places = places

    def __call__(self, batch: Tensor, targets: Sequence[Target]) -> tuple[Tensor, dict[str, Tensor], list[Found]]:
        """Outputs (B, O), maps (B, C, D) by layer, and each target's gradients.

        Raises what the model or its backward pass raises; RuntimeError where nothing has a gradient.
        """
        outputs, tensors, found = self._backward(batch, targets, _Leaves(self._model, self._places))
        maps = {layer: self._flat(layer, tensor.detach()) for layer, tensor in tensors.items()}
        return outputs, maps, [self._all_flat(one) for one in found]

    def along_path(
        self, batch: Tensor, targets: Sequence[Target], means: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], list[Found]]:
        """The same with each gradient's mean along the straight path from the mean map (C, D) to the image's, at the
        middles of STEPS equal parts; layer by layer, the rest of the model as it is. What is so attributed to the
        channels of a layer that all goes through adds up to the difference of the target at the ends, about
        (Dhamdhere, Sundararajan & Yan 2018, arXiv 1805.12233)."""
        outputs, maps, found = self(batch, targets)
        for layer, place in self._places.items():
            total: list[Tensor | None] = [None] * len(targets)
            for step in range(STEPS):
                between = _Between(self._model, layer, place, means[layer], (step + 0.5) / STEPS)
                for index, one in enumerate(self._backward(batch, targets, between)[2]):
                    gradient, before = one[layer], total[index]
                    total[index] = gradient if before is None or gradient is None else before + gradient
            for index, summed in enumerate(total):
                found[index][layer] = None if summed is None else self._flat(layer, summed / STEPS)
        return outputs, maps, found

    def without(self, batch: Tensor, layer: str, channels: Sequence[int], mean: Tensor) -> Tensor:
        """Outputs (B, O) with the mean map (C, D) at the layer's place for these of its channels."""
        with torch.no_grad(), _Without(self._model, layer, self._places[layer], channels, mean):
            return as_matrix(self._model(batch))

    def _backward(
        self, batch: Tensor, targets: Sequence[Target], leaves: _Leaves
    ) -> tuple[Tensor, dict[str, Tensor], list[Found]]:
        """Outputs, tensors at the places, and each target's gradients, both as the model has them."""
        found: list[Found] = []
        with torch.enable_grad(), _frozen(self._model), leaves:
            outputs = as_matrix(self._model(batch))
            for number, target in enumerate(targets, start=1):
                gradients = torch.autograd.grad(
                    target(outputs).sum(),
                    list(leaves.found.values()),
                    retain_graph=number < len(targets),
                    allow_unused=True,
                )
                found.append(dict(zip(leaves.found, gradients, strict=True)))
        return outputs.detach(), leaves.found, found

    def _all_flat(self, found: Found) -> Found:
        return {layer: None if own is None else self._flat(layer, own) for layer, own in found.items()}

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


class _Between(_Leaves):
    """Puts a point between the mean map and the image's own in the place of one layer. share: 0 is the mean map."""

    def __init__(self, model: nn.Module, layer: str, place: Place, mean: Tensor, share: float) -> None:
        super().__init__(model, {layer: place})
        self._module = model.get_submodule(layer)
        self._mean = mean
        self._share = share

    def put(self, layer: str, tensor: Tensor) -> Tensor:
        own = tensor.detach()
        mean = as_output(self._module, self._mean.to(own.device, own.dtype), own)
        return super().put(layer, mean + self._share * (own - mean))


class _Without(_Leaves):
    """Puts the mean map in the place of some channels of one layer."""

    def __init__(self, model: nn.Module, layer: str, place: Place, channels: Sequence[int], mean: Tensor) -> None:
        super().__init__(model, {layer: place})
        self._module = model.get_submodule(layer)
        self._mean = mean
        self._chosen = torch.zeros_like(mean)
        self._chosen[list(channels)] = 1

    def put(self, _: str, tensor: Tensor) -> Tensor:
        mean, chosen = (
            as_output(self._module, maps.to(tensor.device, tensor.dtype), tensor) for maps in (self._mean, self._chosen)
        )
        return torch.where(chosen > 0, mean, tensor)


def as_output(module: nn.Module, maps: Tensor, output: Tensor) -> Tensor:
    """Maps (C, D) with the axes of a module's output, for every image of it."""
    turned = output.dim() == 3 and getattr(module, "batch_first", True) is False
    shape = output.transpose(0, 1).shape if turned else output.shape
    last = turned or channels_last(module, output.dim())
    positions = shape[1:-1] if last else shape[2:]
    wide = maps.reshape(len(maps), *positions)
    every = (wide.movedim(0, -1) if last else wide).expand(shape)
    return every.transpose(0, 1) if turned else every


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
