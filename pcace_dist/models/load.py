"""From the job's `model` section to a network that is ready to rank: build it, load its weights, compute their digest.

Files are read by a function `read(path) -> bytes`; this module opens none itself. A weights file is data: nothing in it
is ever executed. Every mistake is a one-line ModelError that names model.factory or model.weights, the value and what
would do.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pcace_dist.config.targets import Reduction
from pcace_dist.errors import ModelError
from pcace_dist.models.checkpoint import load_weights, short_line, type_name
from pcace_dist.models.in_memory import is_in_memory, recall
from pcace_dist.models.library.origin import TORCHVISION, nearest, what_would_do
from pcace_dist.models.outputs import choose_output
from pcace_dist.models.reduction import reduce_maps
from pcace_dist.models.settings import deterministic_only
from pcace_dist.vision import torchvision

log = logging.getLogger(__name__)

COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps
_DRAWING = threading.Lock()  # threads share torch's random generator: workers in one process must draw in turn


def load_model(
    factory: str,
    kwargs: Mapping[str, Any],
    weights: str,
    *,
    seed: int,
    read: Callable[[str], bytes],
    output: str | int | None = None,
    reduction: Reduction | None = None,
    python_path: Sequence[str] = (),
) -> nn.Module:
    """Build a model and load its weights: in eval mode, float32, on the CPU, without gradients.

    factory: `torchvision:NAME` or `module:function`, called with `kwargs`; or a model in memory (in_memory.py).
    weights: `random` (drawn from `seed`; the caller's random state does not change); `factory` (those that the factory
    loads; for torchvision its default weights, which torchvision downloads); or the path of a state dict
    (checkpoint.py).
    python_path: folders that are first on sys.path while the factory is imported, and last afterwards, so that nothing
    there replaces a library's module.
    output: which part of the returned value holds the outputs (outputs.py). reduction: what makes one number a class
    of outputs with positions (reduction.py).
    Of a compiled model, the module inside is used. What the factory changes for the whole process (default dtype and
    device, threads, gradients, working directory) is restored. Raises ModelError, one line.
    """
    name = f"model.factory {factory}"
    with _DRAWING, torch.random.fork_rng(devices=[]), _undisturbed(), _importing(python_path):
        torch.manual_seed(seed)
        model = _build(factory, name, kwargs, own_weights=weights == "factory")
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: returned {type_name(model)}, not a torch.nn.Module{_module_inside(model)}")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ModelError(f"{name}: returned TorchScript, whose layers cannot be looked into; return the module itself")
    model = _eager(model, name)
    refuse_without_values(model, name)
    if weights not in ("random", "factory"):
        load_weights(model, weights, read, name)
    return reduce_maps(choose_output(model.float().eval().requires_grad_(False), output), reduction)


def weights_digest(model: nn.Module) -> str:
    """Digest of a model's parameters and buffers: blake2b (128 bits, hex) over sorted names, dtypes, shapes and bytes.

    It is the same on every device, and for the same tensors from any file. It covers the packed weights of quantised
    modules too, which are neither parameters nor buffers.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    digest = blake2b(digest_size=16)
    for name, tensor in [*sorted(tensors.items()), *_packed(model, tensors)]:
        dense = (tensor.dequantize() if tensor.is_quantized else tensor).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _packed(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Tensors in the state dict of a quantised model that are neither parameters nor buffers, with their names."""
    try:
        extra = [(name, value) for name, value in sorted(model.state_dict().items()) if name not in tensors]
    except Exception:  # a user's module may raise anything here
        return []
    named_parts = [(name, part) for name, value in extra for part in (value if isinstance(value, tuple) else (value,))]
    packed = [(name, part) for name, part in named_parts if isinstance(part, Tensor)]
    return packed if any(part.is_quantized for _, part in packed) else []  # else a state dict with names of its own


# -- the factory


@contextmanager
def _importing(folders: Sequence[str]) -> Iterator[None]:
    """Puts folders first on sys.path, and last afterwards: a model may import from them while it runs."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            if folder in sys.path:  # the factory may have removed it
                sys.path.remove(folder)  # removes the first one, which was put there above
            if folder not in sys.path:
                sys.path.append(folder)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores what a factory changes for the whole process."""
    dtype, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    directory = os.getcwd()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(gradients)
        deterministic_only(deterministic, warn_only=warn_only)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if os.getcwd() != directory:
            os.chdir(directory)


def _eager(model: nn.Module, name: str) -> nn.Module:
    """The model without torch.compile: a compiled model does not run the hooks that read the layers."""
    was_compiled = False
    while isinstance(inner := model._modules.get(COMPILED), nn.Module):
        model, was_compiled = inner, True
    for part in list(model.modules()):
        for key, child in list(part.named_children()):
            if isinstance(inner := child._modules.get(COMPILED), nn.Module):
                setattr(part, key, inner)
                was_compiled = True
    if was_compiled:
        log.warning("%s: is compiled (torch.compile); the module inside is used", name)
    return model


def _build(factory: str, name: str, kwargs: Mapping[str, Any], *, own_weights: bool) -> object:
    if is_in_memory(factory):
        return recall(factory)
    module, colon, function = factory.partition(":")
    if not colon or not module or not function:
        raise ModelError(f"{name}: write torchvision:NAME or module:function, for example torchvision:resnet18")
    if module.endswith(".py"):
        as_module = module.removesuffix(".py").replace("/", ".")
        raise ModelError(f"{name}: names a file; write the module, {as_module}:{function}")
    if module == TORCHVISION:
        build, arguments = _torchvision(function, name, own_weights), dict(kwargs)
    else:
        build, arguments = _function(module, function, name), dict(kwargs)
    try:
        return build(**arguments)
    except Exception as error:
        hint = what_would_do(factory, kwargs, error) or f"see model.kwargs {dict(kwargs)}"
        raise ModelError(f"{name}: raised {_reason(error)}; {hint}") from error


def load_function(text: str, name: str, python_path: Sequence[str] = ()) -> Callable[..., Any]:
    """A function of the user's by `module:function`. name: of the key or option, for the ModelError. python_path: as
    `load_model` has it."""
    module, colon, function = text.partition(":")
    if not colon or not module or not function:
        raise ModelError(f"{name}: write module:function")
    with _importing(python_path):
        return _function(module, function, name)


def _module_inside(value: object) -> str:
    """What an error says of the modules in a value, such as the model in a pipeline; and of a state dict."""
    if isinstance(value, Mapping):
        return "; return the model, and name the file of a state dict in model.weights"
    modules = [name for name, part in getattr(value, "__dict__", {}).items() if isinstance(part, nn.Module)]
    return f"; its attribute {modules[0]!r} is one: return that from a factory of your own" if modules else ""


def _torchvision(function: str, name: str, own_weights: bool) -> Callable[..., object]:
    """The builder of a torchvision model. It loads weights (of the model or its backbone) only with `own_weights`."""
    names = torchvision.models.list_models()
    if function.lower() not in names:
        raise ModelError(
            f"{name}: torchvision {torchvision.__version__} has no model {function!r}{nearest(function, names)}"
        )
    parameters = inspect.signature(torchvision.models.get_model_builder(function)).parameters
    defaults: dict[str, Any] = {"weights": "DEFAULT" if own_weights else None}
    if not own_weights and "weights_backbone" in parameters:
        defaults["weights_backbone"] = None
    return lambda **kwargs: torchvision.models.get_model(function, **{**defaults, **kwargs})


def _function(module: str, function: str, name: str) -> Callable[..., object]:
    member: Any = _module(module, name)
    for part in function.split("."):
        if not hasattr(member, part):
            raise ModelError(f"{name}: {module} has no {function!r}{nearest(part, _public_names(member))}")
        member = getattr(member, part)
    if not callable(member):
        raise ModelError(f"{name}: {function} is {type_name(member)}, not a function")
    build: Callable[..., object] = member
    return build


def _module(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            parent, _, name_missing = missing.rpartition(".")
            raise ModelError(
                f"{name}: there is no module {missing!r} on the Python path"
                f"{nearest(name_missing, _modules_of(parent))}; run from the directory that holds it"
            ) from None
        raise ModelError(
            f"{name}: importing {module} failed: it needs module {missing!r}, which is not installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name}: importing {module} failed: {_reason(error)}") from error


def _modules_of(package: str) -> list[str]:
    """Names of the modules in a package that has been imported, or of all top-level modules."""
    path = importlib.import_module(package).__dict__.get("__path__", []) if package else None
    return [info.name for info in pkgutil.iter_modules(path)]


def _public_names(module: object) -> list[str]:
    """What can be called, and what a module imports only when it is asked for."""
    known = getattr(module, "__dict__", {})
    return [name for name in dir(module) if not name.startswith("_") and callable(known.get(name, callable))]


def refuse_without_values(model: nn.Module, name: str) -> None:
    """Raise ModelError where a parameter or buffer has no values yet. name: of the model, for the error."""
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            kind = "lazy: its shape" if is_lazy(tensor) else "on the meta device: its value"
            raise ModelError(f"{name}: {key} is {kind} is not known yet; let the factory initialise the model fully")


# -- messages


def _reason(error: BaseException) -> str:
    text = short_line(error).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
