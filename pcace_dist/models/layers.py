"""Which layers a job names, which of them run, and the norms of their channels' weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pcace_dist.errors import ModelError
from pcace_dist.models.tap import first_tensor, watched

ALL = "all"
NOT = "!"
SHOWN = 12  # layers in a message before it says how many more
CLOSE = 0.8  # an error names a module that is no convolution if its name is at least so similar


def conv_layers(model: nn.Module) -> list[str]:
    """Names of all convolutional layers (any dimension, transposed ones too), in model order."""
    return [name for name, module in model.named_modules() if isinstance(module, _ConvNd) and name]


def resolve_layers(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The layers that `patterns` select, in model order, each once.

    A name selects that module, whatever its kind. A glob (`layer4.*.conv2`; * also matches dots) selects the
    convolutional layers that it matches or, where it matches none, all modules that it matches. "all" selects every
    convolutional layer. "!" before a name or glob leaves out all modules that it matches. A module with several names
    is called by the first. Raises ModelError for a pattern that matches nothing; it lists the layers, closest first.
    """
    chosen, excluded = _selected(model, patterns)
    layers = [name for name in chosen if name not in excluded]
    if not layers:
        raise ModelError(f"layers {', '.join(patterns)}: nothing is left")
    return layers


def excluded_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, str]:
    """Layers that `patterns` select and leave out again, in model order: name -> the "!" pattern that leaves it out."""
    chosen, excluded = _selected(model, patterns)
    return {name: excluded[name] for name in chosen if name in excluded}


def named_exactly(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The layers that `patterns` name one by one, not by a glob or "all"."""
    aliases = _aliases(model)
    return {aliases[pattern] for pattern in patterns if pattern in aliases}


def output_axes(model: nn.Module, layers: Sequence[str], shape: tuple[int, int, int]) -> dict[str, int] | None:
    """How many axes the output of each of `layers` has in a forward pass of one image (C, H, W), 0 for no tensor. Those
    that do not run, as auxiliary heads in eval mode, are not there.

    None if the model does not accept such an image: the pilot's first pass then says what is wrong.
    """
    axes: dict[str, int] = {}

    def remember(name: str, output: object) -> None:
        tensor = first_tensor(output)
        axes[name] = 0 if tensor is None else tensor.dim()

    try:
        with torch.inference_mode(), watched({name: model.get_submodule(name) for name in layers}, remember):
            model(torch.zeros(1, *shape))
    except Exception:  # whatever a model raises
        return None
    return axes


def linear_layers(model: nn.Module) -> list[str]:
    """Names of all linear layers, in model order."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name]


def globs_of(names: Iterable[str]) -> list[str]:
    """Names with `*` for every number before a dot, each once: `blocks.*.mlp.fc1` for the twelve of a transformer."""
    split = [name.split(".") for name in names]
    starred = [["*" if part.isdecimal() else part for part in parts[:-1]] + parts[-1:] for parts in split]
    return list(dict.fromkeys(".".join(parts) for parts in starred))


def weight_norm(model: nn.Module, layer: str) -> Tensor | None:
    """L2 norm of the weights (without bias) of each output channel of a layer: float64 (C,) on the CPU.

    For convolutions, transposed convolutions and linear layers; None for other layers.
    """
    module = model.get_submodule(layer)
    if not isinstance(module, _ConvNd | nn.Linear):
        return None
    weight: Tensor = module.weight.detach().to("cpu", torch.float64)
    if isinstance(module, _ConvTransposeNd):  # (in, out / groups, ...): the groups lie along the inputs
        weight = weight.reshape(module.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms


def _selected(model: nn.Module, patterns: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The modules that `patterns` select, in model order; and each module that "!" patterns match -> the first one."""
    names = [name for name, _ in model.named_modules() if name]
    convs = conv_layers(model)
    aliases = _aliases(model)
    chosen: set[str] = set()
    excluded: dict[str, str] = {}
    for pattern in patterns:
        excludes = pattern.startswith(NOT)
        name_or_glob = pattern.removeprefix(NOT)
        matching = (
            convs if name_or_glob == ALL else _matches(name_or_glob, names, names if excludes else convs, aliases)
        )
        if not matching:
            raise ModelError(_matches_nothing(pattern, names, convs))
        if excludes:
            excluded = dict.fromkeys(matching, pattern) | excluded
        else:
            chosen.update(matching)
    return [name for name in names if name in chosen], excluded


def _aliases(model: nn.Module) -> dict[str, str]:
    """Every name of every module -> the first name of that module. A shared module has several."""
    first_name = {id(module): name for name, module in model.named_modules()}
    return {name: first_name[id(module)] for name, module in model.named_modules(remove_duplicate=False) if name}


def _matches(pattern: str, names: list[str], convs: list[str], aliases: dict[str, str]) -> list[str]:
    if pattern in aliases:
        return [aliases[pattern]]
    matching = [name for name in convs if fnmatchcase(name, pattern)]
    return matching or [name for name in names if fnmatchcase(name, pattern)]


def _matches_nothing(pattern: str, names: list[str], convs: list[str]) -> str:
    if pattern == ALL:
        return "layers 'all': is every convolution, and the model has none; name others: " + _listed(globs_of(names))
    likeness = _Likeness(pattern)
    nearest = [name for name in names if likeness(name) >= CLOSE or name in set(convs)]
    ordered = sorted(nearest or names, key=likeness, reverse=True)
    noun = "convolutional layers there are" if convs else "modules there are"
    return f"layers {pattern!r}: matches no module of the model; {noun}, closest first: {_listed(ordered)}"


class _Likeness:
    """How similar a name is to a pattern, 0 to 1."""

    def __init__(self, pattern: str) -> None:
        self._matcher = difflib.SequenceMatcher(autojunk=False)
        self._matcher.set_seq2(pattern)

    def __call__(self, name: str) -> float:
        self._matcher.set_seq1(name)
        return self._matcher.ratio()


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return (", ".join(listed[:SHOWN]) + more) if listed else "none"
