"""Models that Python has given by object. Each is named `in-memory:CLASS-DIGEST`, which stands where other models have
their factory, and the name leads to it as long as the process holds the model.
"""

from __future__ import annotations

import copy
from inspect import getclosurevars
from types import FunctionType
from weakref import WeakValueDictionary

from torch import nn

from pcace_dist.errors import ModelError
from pcace_dist.models.checkpoint import short_line

PREFIX = "in-memory:"  # no module of Python can be called so
GONE = (
    "this model was in the memory of a Python process and is not in this one's; to use it elsewhere, write "
    "model.factory: module:function and model.weights: FILE into the run's job.yaml"
)
_MODELS: WeakValueDictionary[tuple[str, int], nn.Module] = WeakValueDictionary()  # by name and object


def remember(model: nn.Module, digest: str) -> str:
    """The name by which `recall` finds this model. digest: of what it is, so that the same model has the same name."""
    name = f"{PREFIX}{type(model).__name__}-{digest[:12]}"
    _MODELS.pop((name, id(model)), None)
    _MODELS[name, id(model)] = model
    return name


def _held(name: str) -> nn.Module | None:
    """Of the living models of a name the one that was given last."""
    return next((model for (own, _), model in reversed(list(_MODELS.items())) if own == name), None)


def is_in_memory(factory: str) -> bool:
    """Whether `model.factory` names a model that Python has given by object."""
    return factory.startswith(PREFIX)


def is_gone(factory: str) -> bool:
    """Whether it names one that this process does not hold."""
    return is_in_memory(factory) and _held(factory) is None


def recall(name: str) -> nn.Module:
    """A copy of the model on the CPU. Raises ModelError where it cannot be copied, or this process does not hold it."""
    model = _held(name)
    if model is None:
        raise ModelError(f"model.factory {name}: {GONE}")
    copied = copy_of(model)
    if copied is None:
        raise ModelError(
            f"model {name.removeprefix(PREFIX)}: cannot be copied, which ranking takes; {_would_do(model)}"
        )
    return copied.cpu()


def _would_do(model: nn.Module) -> str:
    """Why a copy failed, and what to do."""
    try:
        copy.deepcopy(model)
    except Exception as error:  # a user's model may hold anything
        return f"copy.deepcopy raised {type(error).__name__}: {short_line(error)}"
    return "a function that was set on it refers to its own modules: write a class with this forward instead"


def copy_of(model: nn.Module) -> nn.Module | None:
    """A model of the same values that shares nothing with this one; None where there can be none."""
    try:
        copied = copy.deepcopy(model)
    except Exception:  # a user's model may hold anything
        return None
    return None if _refers_to_original(copied, model) else copied


def _refers_to_original(copied: nn.Module, model: nn.Module) -> bool:
    """Whether a function of the copy (a replaced forward, a hook) refers to modules of the original.

    `deepcopy` does not copy functions, so such a copy would run modules of the original.
    """
    original = {id(module) for module in model.modules()}
    values = [value for module in copied.modules() for value in vars(module).values()]
    functions = [function for value in values for function in (value.values() if isinstance(value, dict) else [value])]
    return any(
        id(getattr(referred, "__self__", referred)) in original
        for function in functions
        for referred in _captured_by(function)
    )


def _captured_by(function: object) -> list[object]:
    """Closure variables and defaults of a function written in Python."""
    if not isinstance(function, FunctionType):
        return []
    variables = getclosurevars(function).nonlocals.values()
    return [*variables, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
