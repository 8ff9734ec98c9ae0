"""From the job's `model` section to a network that is ready to rank: build it, fill in its weights, name them by a
digest.

Storage comes in as `read(path) -> bytes`; this module opens no file itself. A weights file is data: nothing in it is
ever executed. All that can be wrong is a one-line ModelError that names model.factory or model.weights, the value and
what would do.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import pickle
import pkgutil
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pcace_dist.errors import ModelError, PcaceError
from pcace_dist.models.outputs import choose_output

TORCHVISION = "torchvision"
SAFETENSORS = (".safetensors",)
PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
NESTED = ("state_dict", "model")  # training scripts put the state dict under one of these
DATA_PARALLEL = "module."
LONGEST = 200  # characters of another library's message
SHOWN = 3  # names in a message before it says how many more
_DRAWING = threading.Lock()  # all threads share torch's generator: workers in one process draw one after the other


def load_model(
    factory: str,
    kwargs: Mapping[str, Any],
    weights: str,
    *,
    seed: int,
    read: Callable[[str], bytes],
    output: str | int | None = None,
) -> nn.Module:
    """Build and fill a model: in eval mode, float32, on the CPU, without gradients.

    factory: `torchvision:NAME` or `module:function`, called with `kwargs`. weights: `random` (drawn from `seed`, the
    caller's random state stays as it is); `factory` (what the factory brings; for torchvision its default weights,
    which torchvision downloads); or the path of a state dict, .safetensors or .pt/.pth/.bin/.ckpt (read with weights
    only). A state dict may lie under the key "state_dict" or "model", and all its names may begin with "module."
    (DataParallel). Names and shapes must be the model's. output: which part of what it returns are its outputs
    (outputs.py). Raises ModelError, one line.
    """
    name = f"model.factory {factory}"
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(factory, name, kwargs, own_weights=weights == "factory")
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: returned {_a(model)}, not a torch.nn.Module")
    _refuse_without_values(model, name)
    if weights not in ("random", "factory"):
        _fill(model, _state_dict(weights, read), weights, name)
    return choose_output(model.float().eval().requires_grad_(False), output)


def weights_digest(model: nn.Module) -> str:
    """Name of a model's parameters and buffers: blake2b (128 bits, hex) over sorted names, dtypes, shapes and bytes.

    The same on every device, and for the same tensors whatever file they came from.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# -- the factory


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
        raise ModelError(f"{name}: raised {_reason(error)}; see model.kwargs {dict(kwargs)}") from error


def _torchvision(function: str, name: str, own_weights: bool) -> Callable[..., object]:
    """The builder of a torchvision model, told to bring no weights of its own (nor of its backbone) unless asked
    to."""
    known = torchvision.models.list_models()
    if function.lower() not in known:
        raise ModelError(
            f"{name}: torchvision {torchvision.__version__} has no model {function!r}{_nearest(function, known)}"
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
            raise ModelError(f"{name}: {module} has no {function!r}{_nearest(part, _public_names(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name}: {function} is {_a(found)}, not a function that returns a model")
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
                f"{_nearest(last, _modules_of(parent))}; run from the directory that holds it"
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
    return [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name, None))]


def _refuse_without_values(model: nn.Module, name: str) -> None:
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            kind = "lazy: its shape" if is_lazy(tensor) else "on the meta device: its value"
            raise ModelError(f"{name}: {key} is {kind} is not known yet; let the factory initialise the model fully")


# -- the weights


def _state_dict(path: str, read: Callable[[str], bytes]) -> Mapping[str, Tensor]:
    """Read a state dict, take it out of its nest, strip DataParallel's prefix."""
    name = f"model.weights {path}"
    suffix = path.lower()
    if not suffix.endswith(SAFETENSORS + PYTORCH):
        raise ModelError(
            f"{name}: is neither random, factory nor a file {', '.join(SAFETENSORS + PYTORCH)}"
            f"{_nearest(path, ['random', 'factory'])}"
        )
    try:
        data = read(path)
    except PcaceError:
        raise
    except FileNotFoundError:
        raise ModelError(f"{name}: no such file") from None
    except OSError as error:
        reason = (error.strerror or str(error)).removeprefix(f"{path}: ")
        raise ModelError(f"{name}: cannot be read: {_first_line(reason)}") from None
    if suffix.endswith(SAFETENSORS):
        return _without_prefix(_from_safetensors(data, name))
    return _without_prefix(_unnested(_from_pytorch(data, name), name))


def _from_safetensors(data: bytes, name: str) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{name}: is not a safetensors file, or is cut short ({_first_line(error)})") from None
    return tensors


def _from_pytorch(data: bytes, name: str) -> object:
    do = "save a state dict: torch.save(model.state_dict(), PATH)"
    if _is_torchscript(data):
        raise ModelError(f"{name}: is a TorchScript archive, not a state dict; {do}")
    try:
        loaded: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        kind = f" ({found.group(1)})" if found else ""
        raise ModelError(f"{name}: holds more than tensors{kind}, and code from a file is never run; {do}") from None
    except Exception as error:  # damaged archives raise many kinds
        raise ModelError(f"{name}: is not a PyTorch file, or is damaged or cut short; {do}") from error
    return loaded


def _is_torchscript(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(entry.endswith("/constants.pkl") for entry in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _unnested(loaded: object, name: str) -> Mapping[str, Tensor]:
    if isinstance(loaded, Mapping):
        for key in NESTED:
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{name}: holds {_a(loaded)}, not a state dict (names and tensors)")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{name}: is not a state dict: entry {key!r} is {_a(value)}, not a tensor; a state dict "
                f"may also lie under {' or '.join(map(repr, NESTED))}"
            )
    return loaded


def _without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not state or not all(name.startswith(DATA_PARALLEL) for name in state):
        return state
    return {name.removeprefix(DATA_PARALLEL): tensor for name, tensor in state.items()}


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: str, name: str) -> None:
    """Load a state dict strictly. Only batch norm's counters may be missing: nothing is computed from them."""
    own = model.state_dict()
    does_not_fit = f"model.weights {path}: does not fit {name}: "
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            raise ModelError(
                f"{does_not_fit}{key} has shape {tuple(state[key].shape)}, the model's is "
                f"{tuple(own[key].shape)}; see model.kwargs"
            )
    given = dict(state)
    versioned = _Versioned(given)
    versioned._metadata = getattr(state, "_metadata", None) or getattr(own, "_metadata", {})
    try:
        result = model.load_state_dict(versioned, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{does_not_fit}{_first_line(error)}") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    found = (("missing", missing), ("unexpected", result.unexpected_keys))
    problems = [_count(kind, keys) for kind, keys in found if keys]
    if problems:
        raise ModelError(does_not_fit + "; ".join(problems))


class _Versioned(dict[str, Tensor]):
    """A state dict with the versions of the modules that wrote it; files without them are taken for today's."""

    _metadata: Any


def _count(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{more})"


# -- words


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(near)}" if near else ""


def _a(value: object) -> str:
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _reason(error: BaseException) -> str:
    text = _first_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return lines[0].strip()[:LONGEST] if lines else ""
