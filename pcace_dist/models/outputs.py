"""Finds the outputs, a tensor (images, outputs), in what a model returns. It never guesses among several candidates.

A returned tensor is the outputs. In a mapping they are under `logits` or `out`, as in Hugging Face and torchvision.
Otherwise they are the only tensor of a suitable shape. If there are several, `model.output` must choose: an index, a
key, the name of a field, or several of these joined by dots (`heads.1`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor, nn

from pcace_dist.errors import ModelError

USUAL = ("logits", "out")
DEEPEST = 4  # levels of nested mappings and tuples that are searched


def as_matrix(outputs: object) -> Tensor:
    """A model's outputs as (B, O), from a tensor (B, O) or (B,), or from a value that holds one (see above).

    Raises ModelError where there is no candidate, or more than one; the message names them and `model.output`.
    """
    usual = _usual(outputs)
    if isinstance(usual, Tensor):
        return _matrix(usual)
    tensors = dict(_tensors(outputs))
    fitting = {path: tensor for path, tensor in tensors.items() if _fits(tensor)}
    if len(fitting) == 1:
        return _matrix(next(iter(fitting.values())))
    shown = ", ".join(f"{path}: {_shape(tensor)}" for path, tensor in tensors.items())
    if not fitting:
        returned = f"{type(outputs).__name__} with {shown}" if shown else type(outputs).__name__
        raise ModelError(f"model.factory: the model returns {returned}, not a tensor of real values (images, outputs)")
    raise ModelError(
        f"model.factory: the model returns {shown}; say which are its outputs, for example model.output: {max(fitting)}"
    )


class ChooseOutput:
    """A forward hook of the whole model: returns the part of its outputs that `model.output` names."""

    def __init__(self, which: str | int) -> None:
        self._which = str(which)

    def __call__(self, _model: nn.Module, _args: object, outputs: object) -> object:
        chosen = outputs
        for part in self._which.split("."):
            parts = dict(_parts(chosen))
            if part not in parts:
                names = ", ".join(parts) or "a tensor alone" if chosen is outputs else ", ".join(parts) or "no parts"
                raise ModelError(f"model.output {self._which}: the model returns no such part; there are: {names}")
            chosen = parts[part]
        return chosen


def choose_output(model: nn.Module, which: str | int | None) -> nn.Module:
    """The same model; from here on it returns only the part that `which` names (everything for None)."""
    if which is not None:
        model.register_forward_hook(ChooseOutput(which))
    return model


def _usual(outputs: object) -> object:
    if isinstance(outputs, Mapping):
        return next((outputs[key] for key in USUAL if isinstance(outputs.get(key), Tensor)), None)
    if (
        not isinstance(outputs, Tensor)
        and is_dataclass(outputs)
        and isinstance(getattr(outputs, "logits", None), Tensor)
    ):
        return outputs.logits  # type: ignore[union-attr]
    return outputs


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a mapping, tuple, list or dataclass, each with its key, index or field name."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        yield from ((str(index), part) for index, part in enumerate(value))
        yield from zip(names or (), value, strict=False)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((entry.name, getattr(value, entry.name)) for entry in fields(value))


def _tensors(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif depth < DEEPEST:
        seen: set[int] = set()
        for name, part in _parts(value):
            if id(part) not in seen:  # a named tuple has names and indices
                seen.add(id(part))
                yield from _tensors(part, f"{path}.{name}" if path else name, depth + 1)


def _fits(tensor: Tensor) -> bool:
    return tensor.dim() in (1, 2) and tensor.is_floating_point()


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.dim() not in (1, 2) or tensor.is_complex():
        raise ModelError(
            f"model.factory: the model returns {tensor.dtype} of shape {_shape(tensor)}, not real "
            "values of shape (images, outputs)"
        )
    return tensor if tensor.dim() == 2 else tensor.unsqueeze(1)


def _shape(tensor: Tensor) -> str:
    return str(tuple(int(n) for n in tensor.shape))
