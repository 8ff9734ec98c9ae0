"""Reads a weights file as a state dict that fits a model: unwraps it, strips its prefix, joins its shards.

No code from a file is ever run. Assumptions (which of several state dicts, which prefix, which entries are not needed)
are logged; what does not fit is an error.
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
WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before a model's own names
OF_TORCHVISION = re.compile(r"DEFAULT|[A-Z0-9]+(_[A-Z0-9]+)+|\w+_Weights\.\w+")  # how torchvision names its weights
DEEPEST = 3  # levels of nested mappings
LONGEST = 200  # characters of another library's message
SHOWN = 3  # names in a message before it says how many more

Read = Callable[[str], bytes]


def load_weights(model: nn.Module, path: str, read: Read, name: str) -> None:
    """Fill a model from a file, strictly. `name`: of the model, for messages.

    path: .safetensors, .pt, .pth, .bin, .ckpt, .pth.tar, or the .index.json of a sharded checkpoint. `PATH#KEY` takes
    the state dict under that key of a file that holds several. Only two kinds of entries may be missing: batch norm's
    counters, and tensors that share memory with one that is present. Raises ModelError, one line.
    """
    _fill(model, _state_dict(path, read), path, name)


def is_weights_file(path: str) -> bool:
    """Whether a path has the suffix of a weights file."""
    return path.partition("#")[0].lower().endswith(SAFETENSORS + PYTORCH + INDEX)


# -- the file


def _state_dict(path: str, read: Read) -> Mapping[str, Tensor]:
    name = f"model.weights {path}"
    file, _, key = path.partition("#")
    if not is_weights_file(path):
        suffixes = ", ".join(SAFETENSORS + PYTORCH + INDEX)
        nearest = difflib.get_close_matches(path.lower(), ["random", "factory"], n=1, cutoff=0.6)
        hint = f"; nearest: {nearest[0]}" if nearest else ""
        if OF_TORCHVISION.fullmatch(path):
            hint = f"; for torchvision's own write kwargs: {{weights: {path}}} and weights: factory"
        raise ModelError(f"{name}: is neither random, factory nor a file {suffixes}{hint}")
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
        raise ModelError(f"{name}: cannot be read: {short_line(reason)}") from None


def _sharded(path: str, read: Read, name: str) -> Mapping[str, Tensor]:
    """The state dict of all shards that an index file names; they lie beside it."""
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
        tensors = _from_safetensors(data, name) if shard.lower().endswith(SAFETENSORS) else _from_pytorch(data, name)
        state.update(_checked(tensors, name))
    return state


def _from_safetensors(data: bytes, name: str) -> Mapping[str, Tensor]:
    try:
        tensors = dict(sorted(safetensors.torch.load(data).items()))  # in another order each time
    except safetensors.SafetensorError as error:
        raise ModelError(f"{name}: is not a safetensors file, or is cut short ({short_line(error)})") from None
    return tensors


def _from_pytorch(data: bytes, name: str) -> object:
    advice = "save a state dict: torch.save(model.state_dict(), PATH)"
    if _is_torchscript(data):
        raise ModelError(f"{name}: is a TorchScript archive, not a state dict; {advice}")
    try:
        loaded: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        type_found = f" ({match.group(1)})" if match else ""
        raise ModelError(
            f"{name}: holds more than tensors{type_found}, and code from a file is never run; {advice}"
        ) from None
    except Exception as error:  # damaged archives raise many kinds
        raise ModelError(f"{name}: is not a PyTorch file, or is damaged or cut short; {advice}") from error
    return loaded


def _is_torchscript(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(entry.endswith("/constants.pkl") for entry in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _unnested(loaded: object, key: str, name: str) -> Mapping[str, Tensor]:
    """The state dict in a file's content: the one under `key`, else the one under a name that training scripts use."""
    if key:
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get(key), Mapping):
            entries = ", ".join(map(repr, loaded)) if isinstance(loaded, Mapping) else type_name(loaded)
            raise ModelError(f"{name}: holds no state dict under {key!r}; there are: {entries}")
        return _checked(loaded[key], name)
    for _ in range(DEEPEST):
        if not isinstance(loaded, Mapping):
            break
        nests = [nest for nest in (*NESTED, *AVERAGED) if isinstance(loaded.get(nest), Mapping) and loaded[nest]]
        if not nests:
            break
        if len(nests) > 1:
            log.warning("%s: holds %s; %s is taken; write PATH#KEY for another", name, " and ".join(nests), nests[0])
        loaded = loaded[nests[0]]
    return _checked(loaded, name)


def _checked(loaded: object, name: str) -> Mapping[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{name}: holds {type_name(loaded)}, not a state dict (names and tensors)")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{name}: is not a state dict: entry {key!r} is {type_name(value)}, not a tensor; a state dict "
                f"may also lie under {' or '.join(map(repr, NESTED))}, or at PATH#KEY"
            )
    return loaded


# -- the model


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: str, name: str) -> None:
    """Load a state dict strictly."""
    model_state = model.state_dict()
    does_not_fit = f"model.weights {path}: does not fit {name}: "
    entries = _named_as(model_state, state, does_not_fit, path)
    for key in model_state.keys() & entries.keys():
        if model_state[key].shape != entries[key].shape:
            raise ModelError(
                f"{does_not_fit}{key} has shape {tuple(entries[key].shape)}, the model's is "
                f"{tuple(model_state[key].shape)}; see model.kwargs"
            )
    versioned = _Versioned(entries)
    versioned._metadata = getattr(state, "_metadata", None) or getattr(model_state, "_metadata", {})
    try:
        incompatible = model.load_state_dict(versioned, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{does_not_fit}{short_line(error)}") from error
    filled = {_place(model_state[key]) for key in model_state.keys() & entries.keys()}
    missing = [
        k
        for k in incompatible.missing_keys
        if not k.endswith("num_batches_tracked") and _place(model_state[k]) not in filled
    ]
    keys_by_problem = (("missing", missing), ("unexpected", incompatible.unexpected_keys))
    problems = [_count(problem, keys) for problem, keys in keys_by_problem if keys]
    if problems:
        raise ModelError(does_not_fit + "; ".join(problems))


def _place(tensor: object) -> object:
    """Equal for names of one tensor: tied weights, a layer that is registered twice."""
    if not isinstance(tensor, Tensor) or not tensor.numel():
        return object()
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _named_as(
    model_state: Mapping[str, Any], state: Mapping[str, Tensor], does_not_fit: str, path: str
) -> dict[str, Tensor]:
    """The entries of a state dict under the model's names.

    Of all prefixes, the one is stripped that leaves the fewest names of the model missing. Entries of parts that the
    model does not have at all (a loss, a teacher) are left out."""
    wrapped = _wrapper_of(model_state)
    renamed = {prefix: _renamed(state, prefix, wrapped) for prefix in _prefixes(model_state, state, wrapped)}
    if wrapped:
        renamed = {"": dict(state)} if not _missing(model_state, state) else renamed
    missing = {prefix: len(_missing(model_state, entries)) for prefix, entries in renamed.items()}
    best = min(missing, key=lambda prefix: (missing[prefix], len(prefix)))
    if missing[best]:
        return renamed[best]
    fitting = [prefix for prefix, count in missing.items() if count == 0]
    if best and len(fitting) > 1:
        raise ModelError(f"{does_not_fit}several parts of it fit: {', '.join(fitting)}; save the one that is meant")
    if best:
        log.info("model.weights %s: the prefix %s is stripped", path, best)
    model_parts = {key.partition(".")[0] for key in model_state}
    useless = {key for key in renamed[best] if key not in model_state and key.partition(".")[0] not in model_parts}
    outside_prefix = [key for key in state if not key.startswith(best)]
    if useless or outside_prefix:
        left_out = _count("entries", [*sorted(useless), *outside_prefix])
        log.warning("model.weights %s: %s are left out: the model has no such parts", path, left_out)
    return {key: value for key, value in renamed[best].items() if key not in useless}


def _renamed(state: Mapping[str, Tensor], prefix: str, wrapped: str) -> dict[str, Tensor]:
    return {wrapped + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _wrapper_of(model_state: Mapping[str, Any]) -> str:
    """The prefix that DataParallel or torch.compile has put before all names of the model."""
    wrapper = ""
    while True:
        for prefix in WRAPPERS:
            if model_state and all(key.startswith(wrapper + prefix) for key in model_state):
                wrapper += prefix
                break
        else:
            return wrapper


def _prefixes(model_state: Mapping[str, Any], state: Mapping[str, Tensor], wrapped: str) -> Iterator[str]:
    """Possible prefixes of the model's names in a state dict: none, or what stands before the model's first name."""
    first_key = next(iter(model_state), "").removeprefix(wrapped)
    candidates = dict.fromkeys(
        ["", *(key[: -len(first_key)] for key in state if first_key and key.endswith(first_key))]
    )
    yield from (prefix for prefix in candidates if not prefix or prefix.endswith("."))


def _missing(model_state: Mapping[str, Any], entries: Mapping[str, Tensor]) -> list[str]:
    filled = {_place(model_state[key]) for key in model_state.keys() & entries.keys()}
    needed = (key for key in model_state if key not in entries and not key.endswith("num_batches_tracked"))
    return [key for key in needed if isinstance(model_state[key], Tensor) and _place(model_state[key]) not in filled]


class _Versioned(dict[str, Tensor]):
    """A state dict with the versions of the modules that wrote it. Without them, torch's current versions are
    assumed."""

    _metadata: Any


def _count(noun: str, keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{len(listed)} {noun} ({', '.join(listed[:SHOWN])}{more})"


def type_name(value: object) -> str:
    """A value's type with its article, for messages: "a dict", "None"."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def short_line(text: object) -> str:
    """The first line of another library's message, of bounded length."""
    lines = str(text).strip().splitlines()
    return lines[0].strip()[:LONGEST] if lines else ""
