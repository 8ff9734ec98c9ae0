"""Reads a weights file as a state dict that fits a model: unwraps it, strips its prefix, joins its shards.

Nothing in a file is ever run. What is assumed (which of several state dicts, which prefix, which entries are of no use)
is logged; what does not fit is refused.
"""

from __future__ import annotations

import difflib
import io
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pcace_dist.errors import ModelError, PcaceError

log = logging.getLogger(__name__)

SAFETENSORS = (".safetensors",)
PYTORCH = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")
INDEX = (".index.json",)
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")  # where training scripts put the state dict
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # and its moving average
WRAPPERS = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before a model's own names
OF_TORCHVISION = re.compile(r"DEFAULT|[A-Z0-9]+(_[A-Z0-9]+)+|\w+_Weights\.\w+")  # how it calls its weights
DEEPEST = 3  # nests within nests
LONGEST = 200  # characters of another library's message
SHOWN = 3  # names in a message before it says how many more

Read = Callable[[str], bytes]


def load_weights(model: nn.Module, path: str, read: Read, name: str) -> None:
    """Fill a model from a file (see above), strictly. `name` is the model's, for messages.

    path: .safetensors, .pt, .pth, .bin, .ckpt, .pth.tar or the .index.json of sharded ones; `PATH#KEY` takes the state
    dict under that key of a file that holds several. Only batch norm's counters, and entries that share memory with one
    that is there, may be missing. Raises ModelError, one line.
    """
    _fill(model, _state_dict(path, read), path, name)


def is_weights_file(path: str) -> bool:
    """Whether a path is called as a file of weights."""
    return path.partition("#")[0].lower().endswith(SAFETENSORS + PYTORCH + INDEX)


# -- the file


def _state_dict(path: str, read: Read) -> Mapping[str, Tensor]:
    name = f"model.weights {path}"
    file, _, key = path.partition("#")
    if not is_weights_file(path):
        known = ", ".join(SAFETENSORS + PYTORCH + INDEX)
        near = difflib.get_close_matches(path.lower(), ["random", "factory"], n=1, cutoff=0.6)
        hint = f"; nearest: {near[0]}" if near else ""
        if OF_TORCHVISION.fullmatch(path):
            hint = f"; for torchvision's own write kwargs: {{weights: {path}}} and weights: factory"
        raise ModelError(f"{name}: is neither random, factory nor a file {known}{hint}")
    if file.lower().endswith(INDEX):
        return _sharded(file, read, name)
    data = _bytes(file, read, name)
    if file.lower().endswith(SAFETENSORS):
        return _from_safetensors(data, name)
    return _unnested(_from_pytorch(data, name), key, name)


def _bytes(path: str, read: Read, name: str) -> bytes:
    try:
        return read(path)
    except PcaceError:
        raise
    except FileNotFoundError:
        raise ModelError(f"{name}: no such file") from None
    except OSError as error:
        reason = (error.strerror or str(error)).removeprefix(f"{path}: ")
        raise ModelError(f"{name}: cannot be read: {first_line(reason)}") from None


def _sharded(path: str, read: Read, name: str) -> Mapping[str, Tensor]:
    """The shards that an index names, beside it."""
    try:
        shards = sorted(set(json.loads(_bytes(path, read, name))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{name}: is not the index of sharded weights (a JSON object with weight_map)") from None
    folder, slash, _ = path.rpartition("/")
    state: dict[str, Tensor] = {}
    for shard in shards:
        if (
            not isinstance(shard, str)
            or "/" in shard
            or "\\" in shard
            or not shard.lower().endswith(SAFETENSORS + PYTORCH)
        ):
            raise ModelError(f"{name}: names a shard {shard!r}, which is no file of weights beside it")
        data = _bytes(f"{folder}{slash}{shard}", read, f"{name}: shard {shard}")
        held = _from_safetensors(data, name) if shard.lower().endswith(SAFETENSORS) else _from_pytorch(data, name)
        state.update(_checked(held, name))
    return state


def _from_safetensors(data: bytes, name: str) -> Mapping[str, Tensor]:
    try:
        tensors: Mapping[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{name}: is not a safetensors file, or is cut short ({first_line(error)})") from None
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


def _unnested(loaded: object, key: str, name: str) -> Mapping[str, Tensor]:
    """The state dict in what a file holds. With `key` the one under it; else the one that training scripts mean."""
    if key:
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get(key), Mapping):
            there = ", ".join(map(repr, loaded)) if isinstance(loaded, Mapping) else kind_of(loaded)
            raise ModelError(f"{name}: holds no state dict under {key!r}; there are: {there}")
        return _checked(loaded[key], name)
    for _ in range(DEEPEST):
        if not isinstance(loaded, Mapping):
            break
        held = [nest for nest in (*NESTED, *AVERAGED) if isinstance(loaded.get(nest), Mapping) and loaded[nest]]
        if not held:
            break
        if len(held) > 1:
            log.warning("%s: holds %s; %s is taken; write PATH#KEY for another", name, " and ".join(held), held[0])
        loaded = loaded[held[0]]
    return _checked(loaded, name)


def _checked(loaded: object, name: str) -> Mapping[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{name}: holds {kind_of(loaded)}, not a state dict (names and tensors)")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{name}: is not a state dict: entry {key!r} is {kind_of(value)}, not a tensor; a state dict "
                f"may also lie under {' or '.join(map(repr, NESTED))}, or at PATH#KEY"
            )
    return loaded


# -- the model


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: str, name: str) -> None:
    """Load a state dict strictly."""
    own = model.state_dict()
    does_not_fit = f"model.weights {path}: does not fit {name}: "
    given = _named_as(own, state, does_not_fit, path)
    for key in own.keys() & given.keys():
        if own[key].shape != given[key].shape:
            raise ModelError(
                f"{does_not_fit}{key} has shape {tuple(given[key].shape)}, the model's is "
                f"{tuple(own[key].shape)}; see model.kwargs"
            )
    versioned = _Versioned(given)
    versioned._metadata = getattr(state, "_metadata", None) or getattr(own, "_metadata", {})
    try:
        result = model.load_state_dict(versioned, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{does_not_fit}{first_line(error)}") from error
    filled = {_place(own[key]) for key in own.keys() & given.keys()}
    missing = [k for k in result.missing_keys if not k.endswith("num_batches_tracked") and _place(own[k]) not in filled]
    found = (("missing", missing), ("unexpected", result.unexpected_keys))
    problems = [_count(kind, keys) for kind, keys in found if keys]
    if problems:
        raise ModelError(does_not_fit + "; ".join(problems))


def _place(tensor: object) -> object:
    """Equal for names of one tensor: tied weights, a layer that is registered twice."""
    if not isinstance(tensor, Tensor) or not tensor.numel():
        return object()
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _named_as(own: Mapping[str, Any], state: Mapping[str, Tensor], does_not_fit: str, path: str) -> dict[str, Tensor]:
    """The entries of a state dict under the model's names: the prefix off that makes all fit, and without entries of
    parts that the model does not have at all (a loss, a teacher). Where none makes all fit, the one that does best."""
    wrapped = _wrapper_of(own)
    named = {prefix: _renamed(state, prefix, wrapped) for prefix in _prefixes(own, state, wrapped)}
    if wrapped:
        named = {"": dict(state)} if not _missing(own, state) else named
    missing = {prefix: len(_missing(own, entries)) for prefix, entries in named.items()}
    best = min(missing, key=lambda prefix: (missing[prefix], len(prefix)))
    if missing[best]:
        return named[best]
    fitting = [prefix for prefix, count in missing.items() if count == 0]
    if best and len(fitting) > 1:
        raise ModelError(f"{does_not_fit}several parts of it fit: {', '.join(fitting)}; save the one that is meant")
    if best:
        log.info("model.weights %s: the prefix %s is taken off", path, best)
    parts = {key.partition(".")[0] for key in own}
    useless = {key for key in named[best] if key not in own and key.partition(".")[0] not in parts}
    others = [key for key in state if not key.startswith(best)]
    if useless or others:
        said = _count("entries", [*useless, *others])
        log.warning("model.weights %s: %s are left out: the model has no such parts", path, said)
    return {key: value for key, value in named[best].items() if key not in useless}


def _renamed(state: Mapping[str, Tensor], prefix: str, wrapped: str) -> dict[str, Tensor]:
    return {wrapped + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _wrapper_of(own: Mapping[str, Any]) -> str:
    """What DataParallel or torch.compile has put before all of the model's own names."""
    wrapper = ""
    while True:
        for prefix in WRAPPERS:
            if own and all(key.startswith(wrapper + prefix) for key in own):
                wrapper += prefix
                break
        else:
            return wrapper


def _prefixes(own: Mapping[str, Any], state: Mapping[str, Tensor], wrapped: str) -> Iterator[str]:
    """What may stand before the model's names in a state dict: nothing, or what is before one of them."""
    first = next(iter(own), "").removeprefix(wrapped)
    candidates = dict.fromkeys(["", *(key[: -len(first)] for key in state if first and key.endswith(first))])
    yield from (prefix for prefix in candidates if not prefix or prefix.endswith("."))


def _missing(own: Mapping[str, Any], named: Mapping[str, Tensor]) -> list[str]:
    given = {_place(own[key]) for key in own.keys() & named.keys()}
    needed = (key for key in own if key not in named and not key.endswith("num_batches_tracked"))
    return [key for key in needed if isinstance(own[key], Tensor) and _place(own[key]) not in given]


class _Versioned(dict[str, Tensor]):
    """A state dict with the versions of the modules that wrote it; files without them are taken for today's."""

    _metadata: Any


def _count(kind: str, keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{len(listed)} {kind} ({', '.join(listed[:SHOWN])}{more})"


def kind_of(value: object) -> str:
    """A value's type with its article, for messages: "a dict", "None"."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def first_line(text: object) -> str:
    """The first line of another library's message, of bounded length."""
    lines = str(text).strip().splitlines()
    return lines[0].strip()[:LONGEST] if lines else ""
