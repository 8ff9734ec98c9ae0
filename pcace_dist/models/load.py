"""From the job's `model` section to a network that is ready to rank: build it, fill in its weights, name them by a
digest.

Storage comes in as `read(path) -> bytes`; this module opens no file itself. A weights file is data: nothing in it is
ever executed. All that can be wrong is a one-line ModelError that names model.factory or model.weights, the value and
what would do.
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
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pcace_dist.errors import ModelError
from pcace_dist.models.checkpoint import first_line, kind_of, load_weights
from pcace_dist.models.origin import TORCHVISION, nearest, what_would_do
from pcace_dist.models.outputs import choose_output

log = logging.getLogger(__name__)

COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps
_DRAWING = threading.Lock()  # all threads share torch's generator: workers in one process draw one after the other


def load_model(
    factory: str,
    kwargs: Mapping[str, Any],
    weights: str,
    *,
    seed: int,
    read: Callable[[str], bytes],
    output: str | int | None = None,
    python_path: Sequence[str] = (),
) -> nn.Module:
    """Build and fill a model: in eval mode, float32, on the CPU, without gradients.

    factory: `torchvision:NAME` or `module:function`, called with `kwargs`. weights: `random` (drawn from `seed`, the
    caller's random state stays as it is); `factory` (what the factory brings; for torchvision its default weights,
    which torchvision downloads); or the path of a state dict (checkpoint.py). A compiled model is taken as it was.
    What else the factory changes (default dtype and device, threads, gradients, working directory) is put back.
    python_path: folders that come first where the factory imports, and last from then on: what lies there must not take
    the place of a library's module. output: which part of what the model returns are its outputs (outputs.py). Raises
    ModelError, one line.
    """
    name = f"model.factory {factory}"
    with _DRAWING, torch.random.fork_rng(devices=[]), _undisturbed(), _importing(python_path):
        torch.manual_seed(seed)
        model = _build(factory, name, kwargs, own_weights=weights == "factory")
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: returned {kind_of(model)}, not a torch.nn.Module{_module_inside(model)}")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ModelError(f"{name}: returned TorchScript, whose layers cannot be looked into; return the module itself")
    model = _eager(model, name)
    _refuse_without_values(model, name)
    if weights not in ("random", "factory"):
        load_weights(model, weights, read, name)
    return choose_output(model.float().eval().requires_grad_(False), output)


def weights_digest(model: nn.Module) -> str:
    """Name of a model's parameters and buffers: blake2b (128 bits, hex) over sorted names, dtypes, shapes and bytes.

    The same on every device, and for the same tensors whatever file they came from. Packed weights of quantised
    modules, which are neither parameters nor buffers, count too.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    digest = blake2b(digest_size=16)
    for name, tensor in [*sorted(tensors.items()), *_packed(model, tensors)]:
        held = (tensor.dequantize() if tensor.is_quantized else tensor).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _packed(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Tensors that the state dict of a quantised model has besides its parameters and buffers, by name."""
    try:
        others = [(name, value) for name, value in sorted(model.state_dict().items()) if name not in tensors]
    except Exception:  # a module of one's own may write what it likes
        return []
    parts = [(name, part) for name, value in others for part in (value if isinstance(value, tuple) else (value,))]
    held = [(name, part) for name, part in parts if isinstance(part, Tensor)]
    return held if any(part.is_quantized for _, part in held) else []  # else a state dict with names of its own


# -- the factory


@contextmanager
def _importing(folders: Sequence[str]) -> Iterator[None]:
    """Folders are first on sys.path; afterwards they are last, for what a model imports only while it runs."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            if folder in sys.path:  # the factory may have taken it off
                sys.path.remove(folder)  # the first one, from above
            if folder not in sys.path:
                sys.path.append(folder)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What a factory changes for the whole process is put back afterwards."""
    dtype, gradients, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    deterministic, warn = (
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
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if os.getcwd() != directory:
            os.chdir(directory)


def _eager(model: nn.Module, name: str) -> nn.Module:
    """The model without torch.compile, which loses the hooks that layers are read by."""
    was_compiled = False
    while isinstance(inner := model._modules.get(COMPILED), nn.Module):
        model, was_compiled = inner, True
    for part in list(model.modules()):
        for key, child in list(part.named_children()):
            if isinstance(inner := child._modules.get(COMPILED), nn.Module):
                setattr(part, key, inner)
                was_compiled = True
    if was_compiled:
        log.warning("%s: is compiled (torch.compile); the module inside is taken", name)
    return model


def _build(factory: str, name: str, kwargs: Mapping[str, Any], *, own_weights: bool) -> object:
    module, colon, function = factory.partition(":")
    if not colon or not module or not function:
        raise ModelError(f"{name}: write torchvision:NAME or module:function, for example torchvision:resnet18")
    if module == TORCHVISION:
        build, given = _torchvision(function, name, own_weights), dict(kwargs)
    else:
        build, given = _function(module, function, name), dict(kwargs)
    try:
        return build(**given)
    except Exception as error:
        hint = what_would_do(factory, kwargs, error) or f"see model.kwargs {dict(kwargs)}"
        raise ModelError(f"{name}: raised {_reason(error)}; {hint}") from error


def _module_inside(value: object) -> str:
    """Words for the modules that a value holds, as a pipeline holds its model."""
    held = [name for name, part in getattr(value, "__dict__", {}).items() if isinstance(part, nn.Module)]
    return f"; its attribute {held[0]!r} is one: return that from a factory of your own" if held else ""


def _torchvision(function: str, name: str, own_weights: bool) -> Callable[..., object]:
    """The builder of a torchvision model, told to bring no weights of its own (nor of its backbone) unless asked
    to."""
    known = torchvision.models.list_models()
    if function.lower() not in known:
        raise ModelError(
            f"{name}: torchvision {torchvision.__version__} has no model {function!r}{nearest(function, known)}"
        )
    parameters = inspect.signature(torchvision.models.get_model_builder(function)).parameters
    defaults: dict[str, Any] = {"weights": "DEFAULT" if own_weights else None}
    if not own_weights and "weights_backbone" in parameters:
        defaults["weights_backbone"] = None
    return lambda **kwargs: torchvision.models.get_model(function, **{**defaults, **kwargs})


def _function(module: str, function: str, name: str) -> Callable[..., object]:
    found: Any = _module(module, name)
    for part in function.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{name}: {module} has no {function!r}{nearest(part, _public_names(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name}: {function} is {kind_of(found)}, not a function that returns a model")
    result: Callable[..., object] = found
    return result


def _module(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            parent, _, last = missing.rpartition(".")
            raise ModelError(
                f"{name}: there is no module {missing!r} on the Python path"
                f"{nearest(last, _modules_of(parent))}; run from the directory that holds it"
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


def _refuse_without_values(model: nn.Module, name: str) -> None:
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            kind = "lazy: its shape" if is_lazy(tensor) else "on the meta device: its value"
            raise ModelError(f"{name}: {key} is {kind} is not known yet; let the factory initialise the model fully")


# -- words


def _reason(error: BaseException) -> str:
    text = first_line(error).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
