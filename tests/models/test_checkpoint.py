"""Checkpoints as people have them: nests, prefixes, averages, shards, tied weights; and what must be refused."""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from pcace_dist.errors import ModelError
from pcace_dist.models.checkpoint import load_weights

Files = Mapping[str, bytes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)


class Twice(nn.Module):
    """Registers one layer under two names, and ties two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.stages = nn.ModuleList([self.first, second])
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = second.weight


class Inner(nn.Module):
    """Whose own names begin with `module.`"""

    def __init__(self) -> None:
        super().__init__()
        self.module = Net()


def trained(build: Callable[[], nn.Module] = Net, seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def saved(value: object) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def filled(model: nn.Module, path: str, files: Files) -> dict[str, Tensor]:
    load_weights(model, path, lambda name: files[name], "model.factory net")
    return model.state_dict()


def same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)


STATE = trained().state_dict()
OTHER = trained(seed=8).state_dict()


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model_state_dict": STATE, "optimizer_state_dict": {"lr": 0.1}},
        {"model": {"state_dict": STATE}},
        {"net": STATE},
        prefixed("module.", STATE),
        prefixed("model.", STATE),
        prefixed("_orig_mod.", STATE),
        prefixed("module._orig_mod.", STATE),
        prefixed("student.backbone.", STATE),
        {"state_dict": prefixed("model.", STATE) | {"criterion.weight": torch.ones(2)}},
        STATE | {"teacher.conv1.weight": torch.ones(4, 3, 3, 3)},
        {"state_dict": STATE, "state_dict_ema": OTHER},
        {"model_ema": STATE, "epoch": 1},
    ],
)
@pytest.mark.parametrize("path", ["net.pt", "net.pth.tar"])
def test_a_state_dict_is_found_where_training_leaves_it(content: object, path: str) -> None:
    assert same(filled(Net(), path, {path: saved(content)}), STATE)


def test_of_two_the_one_taken_is_said_and_another_can_be_named(caplog: pytest.LogCaptureFixture) -> None:
    files = {"net.pth": saved({"state_dict": OTHER, "state_dict_ema": STATE})}
    with caplog.at_level(logging.WARNING):
        assert same(filled(Net(), "net.pth", files), OTHER)
    assert "holds state_dict and state_dict_ema; state_dict is taken; write PATH#KEY" in caplog.text
    assert same(filled(Net(), "net.pth#state_dict_ema", files), STATE)
    with pytest.raises(ModelError, match="holds no state dict under 'ema'; there are: 'state_dict', 'state_dict_ema'"):
        filled(Net(), "net.pth#ema", files)


def test_entries_of_no_use_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        filled(Net(), "net.pt", {"net.pt": saved(STATE | {"criterion.weight": torch.ones(2)})})
    assert "1 entries (criterion.weight) are left out" in caplog.text


@pytest.mark.parametrize("wrap", [nn.DataParallel, Inner])
def test_a_models_own_names_may_begin_with_module(wrap: Callable[..., nn.Module]) -> None:
    model = wrap() if wrap is Inner else wrap(Net())
    state = copy.deepcopy(trained(lambda: wrap() if wrap is Inner else wrap(Net())).state_dict())
    assert same(filled(model, "net.pt", {"net.pt": saved(state)}), state)
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    assert same(filled(model, "net.pt", {"net.pt": saved(bare)}), state)


def test_tied_weights_and_layers_registered_twice_are_loaded(tmp_path: Any) -> None:
    model = trained(Twice)
    safetensors.torch.save_model(model, tmp_path / "net.safetensors")
    data = (tmp_path / "net.safetensors").read_bytes()
    assert same(filled(Twice(), "net.safetensors", {"net.safetensors": data}), model.state_dict())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_sharded_weights_are_put_together(suffix: str) -> None:
    keys = list(STATE)
    parts = {f"a.{suffix}": keys[:3], f"b.{suffix}": keys[3:]}
    files = {
        f"dir/{shard}": safetensors.torch.save({k: STATE[k] for k in entries})
        if suffix == "safetensors"
        else saved({k: STATE[k] for k in entries})
        for shard, entries in parts.items()
    }
    weight_map = {key: shard for shard, entries in parts.items() for key in entries}
    files["dir/model.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert same(filled(Net(), "dir/model.index.json", files), STATE)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"[]", "is not the index"),
        (b"{", "is not the index"),
        (b'{"weight_map": {"a": "../a.bin"}}', "names a shard '../a.bin'"),
        (b'{"weight_map": {"a": 3}}', "names a shard 3"),
    ],
)
def test_an_index_that_is_none_is_refused(index: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        filled(Net(), "x.index.json", {"x.index.json": index})


def test_weights_of_a_larger_model_of_the_same_parts_are_refused() -> None:
    larger = torchvision.models.resnet34(weights=None).state_dict()
    with pytest.raises(ModelError, match="unexpected"):
        filled(torchvision.models.resnet18(weights=None), "net.pt", {"net.pt": saved(larger)})


def test_two_parts_that_fit_are_refused() -> None:
    both = prefixed("student.", STATE) | prefixed("teacher.", OTHER)
    with pytest.raises(ModelError, match=r"several parts of it fit: student\., teacher\."):
        filled(Net(), "net.pt", {"net.pt": saved(both)})


def test_what_does_not_fit_is_named_by_the_models_names() -> None:
    state = prefixed("module.", {k: v for k, v in STATE.items() if not k.startswith("fc")})
    with pytest.raises(ModelError, match=r"does not fit model.factory net: 2 missing \(fc.weight, fc.bias\)$"):
        filled(Net(), "net.pt", {"net.pt": saved(state)})
