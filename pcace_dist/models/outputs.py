"""Finds the outputs, a tensor (images, outputs), in what a model returns. It never guesses among several candidates.

A returned tensor is the outputs. In a value with names (mapping, dataclass, named tuple) they are under `logits` or
`out`, as in Hugging Face and torchvision. Otherwise they are the only tensor of a suitable shape. If there are several,
`model.output` must choose: a key, the name of a field, an index, or several of these joined by dots (`heads.1`).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor, nn

from pcace_dist.errors import ModelError

USUAL = ("logits", "out")
DEEPEST = 4  # levels of nested mappings and tuples that are searched
REDUCE = "write how a class's map becomes one number, for example target: {output: 0, reduce: mean} (or max, area)"
SHOWN = 12  # tensors in a message before it says how many more


def as_matrix(outputs: object) -> Tensor:
    """A model's outputs as (B, O), from a tensor (B, O) or (B,), or from a value that holds one (see above).

    Raises ModelError where there is no candidate, or more than one; the message names them and `model.output`.
    """
    return _matrix(_only(outputs))


def find_maps(outputs: object) -> Tensor | None:
    """The outputs of a model whose outputs have positions: real values of three to five axes, the first the image.
    They are found as `as_matrix` finds outputs; None where there are none, or more than one could be meant."""
    usual = _usual(outputs)
    candidates = [tensor for _, tensor in _tensors(outputs) if _has_positions(tensor)] if usual is None else [usual]
    return candidates[0] if len(candidates) == 1 and _has_positions(candidates[0]) else None


class ChooseOutput:
    """A forward hook of the whole model: returns the part of its outputs that `model.output` names."""

    def __init__(self, which: str | int) -> None:
        self._which = str(which)

    def __call__(self, _model: nn.Module, _args: object, outputs: object) -> object:
        try:
            chosen = _find(outputs, self._which)
        except KeyError:
            tensors = dict(_tensors(outputs))
            parts = f"there are: {_listed(tensors)}" if tensors.keys() != {""} else "it returns a tensor alone"
            would_do = _example(tensors, near=self._which) or "leave the key out"
            raise ModelError(
                f"model.output {self._which}: the model returns no such part; {parts}; {would_do}"
            ) from None
        return chosen if isinstance(chosen, Tensor) else _only(chosen, f"{self._which}.")


def choose_output(model: nn.Module, which: str | int | None) -> nn.Module:
    """The same model; from here on it returns only the part that `which` names (everything for None)."""
    if which is not None:
        model.register_forward_hook(ChooseOutput(which))
    return model


def wrapper(does: str) -> str:
    """How to write a module around the model whose forward `does` something with the images; for messages."""
    return (
        f"wrap it: class Wrapped(torch.nn.Module), whose forward(self, images) {does}, in mynet.py, and model.factory: "
        "mynet:Wrapped (docs/models.md, A wrapper)"
    )


def _only(outputs: object, prefix: str = "") -> Tensor:
    """The tensor in `outputs` that holds the model's outputs. prefix: the path to `outputs`, with a dot at its end."""
    usual = _usual(outputs)
    if usual is not None:
        return usual
    if isinstance(outputs, list) and outputs and all(isinstance(part, Mapping) for part in outputs):
        would_do = wrapper("returns one number a class, for example the largest score")
        parts = ", ".join(map(str, outputs[0]))
        raise ModelError(f"model.factory: the model returns a list with an entry for each image ({parts}); {would_do}")
    tensors = {f"{prefix}{path}": tensor for path, tensor in _tensors(outputs)}
    fitting = [tensor for tensor in tensors.values() if _fits(tensor)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ModelError(
            f"model.factory: the model returns {_listed(tensors)}; say which are its outputs, {_example(tensors)}"
        )
    returned = f"{type(outputs).__name__} with {_listed(tensors)}" if tensors else type(outputs).__name__
    of_maps = [path for path, tensor in tensors.items() if _has_positions(tensor)]
    choice = f"say which are its outputs, for example model.output: {of_maps[-1]}, and " if len(of_maps) > 1 else ""
    would_do = f"{choice}{REDUCE}" if of_maps else wrapper("returns one")
    raise ModelError(
        f"model.factory: the model returns {returned}, not a tensor of real values (images, outputs); {would_do}"
    )


def _listed(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{path}: {shape_of(tensor)}" for path, tensor in tensors.items()]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


def _example(tensors: Mapping[str, Tensor], near: str = "") -> str:
    """A line for the job file: the candidate whose name is nearest to `near`, else the last one."""
    names = [path for path, tensor in tensors.items() if path and _fits(tensor)]
    nearest = difflib.get_close_matches(near, names, n=1, cutoff=0.5) or names[-1:]
    return f"for example model.output: {nearest[0]}" if nearest else ""


def _usual(outputs: object) -> Tensor | None:
    """The outputs by the usual rules: a tensor, or the part called `logits` or `out`."""
    if isinstance(outputs, Tensor):
        return outputs
    parts = dict(_parts(outputs))
    return next((part for part in map(parts.get, USUAL) if isinstance(part, Tensor)), None)


def _find(value: object, path: str) -> object:
    """The part at a path: names and indices joined by dots. A name may contain dots itself; an index may also count
    the entries of a mapping and the fields of a dataclass. Raises KeyError."""
    parts = dict(_parts(value))
    if path in parts:
        return parts[path]
    if path.isdecimal() and int(path) < len(parts):
        return list(parts.values())[int(path)]
    for cut in (place for place, character in enumerate(path) if character == "."):
        with contextlib.suppress(KeyError):
            return _find(_find(value, path[:cut]), path[cut + 1 :])
    raise KeyError(path)


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a mapping, tuple, list or dataclass, each with its key, field name or index; names before
    indices."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", None)
        yield from zip(names or (), value, strict=False)
        yield from ((str(index), part) for index, part in enumerate(value))
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


def _has_positions(tensor: Tensor) -> bool:
    return tensor.dim() in (3, 4, 5) and tensor.is_floating_point()


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.dim() not in (1, 2) or tensor.is_complex():
        would_do = REDUCE if _has_positions(tensor) else wrapper("returns them")
        raise ModelError(
            f"model.factory: the model returns {tensor.dtype} of shape {shape_of(tensor)}, not real "
            f"values of shape (images, outputs); {would_do}"
        )
    return tensor if tensor.dim() == 2 else tensor.unsqueeze(1)


def shape_of(tensor: Tensor) -> str:
    """Its shape as a message writes it."""
    return str(tuple(int(n) for n in tensor.shape))
