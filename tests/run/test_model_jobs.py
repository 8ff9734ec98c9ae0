"""Whole jobs on models that make trouble: ranked, reported, evaluated with the right numbers, or refused in a line."""

from __future__ import annotations

import importlib
import json
import linecache
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pcace_dist.cli.main import main
from tests.planted_ablation import CHANNELS, reading, write_images

pytestmark = [
    pytest.mark.usefixtures("in_process"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of torch.jit
]

JOB = """
dataset: {{path: {data}, label: label}}
model: {{factory: "{factory}", weights: random, input: {{mode: L}}}}
layers: {layers}
target: {{output: 1}}
statistics: {{components: 1}}
output: {output}
"""
ROWS = 240
PARTS = (4.0, 2.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0)  # of the channels in Mixed's output


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=2)
        self.next = nn.Conv2d(6, 8, (1, 3))
        self.head = nn.Linear(8, 2)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.next(torch.relu(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).mean((2, 3)))
        return out


class Reentrant(Plain):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(checkpoint(self.features, x, use_reentrant=True).mean((2, 3)))
        return out


class Checkpointed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(checkpoint(self.features, x, use_reentrant=False).mean((2, 3)))
        return out


class Dropping(Plain):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.3)


class Counting(Plain):
    """Keeps a state in forward."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Mixed(nn.Module):
    """A convolution that reads independent normal values, and a ReLU without weights behind it. The output is the sum
    of PARTS times what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.read = reading().read
        self.act = nn.ReLU()
        self.head = nn.Linear(CHANNELS, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-part for part in PARTS], PARTS]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.read(x)).flatten(1))
        return out


class ChannelBlock(nn.Module):
    """As in vision transformers: tokens in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = tokens + self.linear(self.norm(tokens))
        return out


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 4, stride=4)
        self.block = ChannelBlock()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return out


def compiled() -> Any:
    return torch.compile(Plain())


def scripted() -> Any:
    return torch.jit.script(Plain())


TODAY: list[Callable[[], Any]] = [Plain]


def of_today() -> Any:
    """A factory that returns another kind of model one day."""
    return TODAY[-1]()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder, ROWS, shards=1)
    return folder


def rank(data: Path, folder: Path, factory: str, layers: str = "[next]") -> int:
    folder.mkdir(exist_ok=True)
    module = "" if ":" in factory else f"{__name__}:"
    text = JOB.format(data=data, factory=module + factory, layers=layers, output=folder / "run")
    (folder / "job.yaml").write_text(text)
    return main(["rank", str(folder / "job.yaml")])


def report(folder: Path) -> int:
    return main(["report", str(folder / "run"), "--no-synthesis", "--top", "2"])


def evaluate(folder: Path) -> int:
    return main(["evaluate", str(folder / "run"), "--draws", "2", "--replace", "mean"])


def rankings(folder: Path) -> pa.Table:
    return pq.read_table(folder / "run" / "rankings.parquet")


def areas(folder: Path) -> dict[str, dict[str, float]]:
    """Areas under the curves of evaluation.json, by layer and order."""
    content = json.loads((folder / "run" / "evaluation.json").read_text())
    return {curve["layer"]: curve["areas"] for curve in content["curves"]}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said last on stderr, in place of a traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.rstrip("\n").rpartition("\n")[2]


@pytest.fixture(scope="module")
def plain(in_process: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert rank(data, folder, "Plain") == 0
    assert evaluate(folder) == 0
    return folder


# -- layers with and without weights


def test_a_convolution_and_its_relu_have_curves_that_tell_the_same(data: Path, tmp_path: Path) -> None:
    assert rank(data, tmp_path, "Mixed", "[read, act]") == 0
    assert evaluate(tmp_path) == 0
    table = pq.read_table(tmp_path / "run" / "evaluation.parquet").to_pandas()
    best = table[(table.order == "pcace") & (table.k == 1)].set_index("layer").lost
    assert best["read"] == pytest.approx(best["act"], abs=1e-6), "a constant stays one behind a ReLU"
    assert best["read"] == pytest.approx(PARTS[0] ** 2 / sum(part**2 for part in PARTS), abs=0.1)
    assert "weight_norm" in areas(tmp_path)["read"] and "weight_norm" not in areas(tmp_path)["act"]
    picture = (tmp_path / "run" / "evaluation-mean.svg").read_text()
    assert ">read</text>" in picture and ">act</text>" in picture


def test_a_block_of_tokens_and_its_linear_layer_are_evaluated(data: Path, tmp_path: Path) -> None:
    assert rank(data, tmp_path, "Tokens", "[block, block.linear]") == 0
    assert evaluate(tmp_path) == 0
    assert set(areas(tmp_path)) == {"block", "block.linear"}
    assert "weight_norm" in areas(tmp_path)["block.linear"] and "weight_norm" not in areas(tmp_path)["block"]
    assert (tmp_path / "run" / "evaluation-mean.svg").exists()


# -- models that are wrapped


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpoints_are_ranked_as_without_and_named_where_gradients_are_needed(
    data: Path, tmp_path: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(data, tmp_path, "Reentrant") == 0
    assert set(rankings(tmp_path)["effect_status"].to_pylist()) == {"no_gradient"}
    columns = [name for name in rankings(plain).column_names if not name.startswith("effect")]
    assert rankings(tmp_path).select(columns).equals(rankings(plain).select(columns))
    assert report(tmp_path) == 0
    assert "note: no class evidence: layer next: runs without a gradient" in capsys.readouterr().out
    assert evaluate(tmp_path) == 2
    assert re.match(
        "pcace evaluate: layers next: the target has no gradient there: .*use_reentrant=False", last_line(capsys)
    )


@pytest.mark.parametrize("factory", ["Checkpointed", "compiled"])
def test_other_checkpoints_and_compiled_models_give_the_very_numbers_of_the_model_inside(
    data: Path, tmp_path: Path, plain: Path, capsys: pytest.CaptureFixture[str], factory: str
) -> None:
    assert rank(data, tmp_path, factory) == 0
    assert rankings(tmp_path).equals(rankings(plain))
    assert evaluate(tmp_path) == 0
    assert areas(tmp_path) == areas(plain)
    assert report(tmp_path) == 0
    assert "note: no class evidence" not in capsys.readouterr().out


def test_torchscript_is_one_line_also_in_report_and_evaluation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rank(data, tmp_path / "scripted", "scripted") == 2
    assert "returned TorchScript, whose layers cannot be looked into" in last_line(capsys)
    assert rank(data, tmp_path, "of_today") == 0
    monkeypatch.setattr(sys.modules[__name__], "TODAY", [scripted])
    for verb in (report, evaluate):
        assert verb(tmp_path) == 2
        assert "returned TorchScript, whose layers cannot be looked into" in last_line(capsys)


# -- models that are not what they were


@pytest.mark.parametrize("factory", ["Dropping", "Counting"])
def test_a_model_that_is_not_deterministic_is_refused_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], factory: str
) -> None:
    began = time.monotonic()
    assert rank(data, tmp_path, factory) == 2
    assert time.monotonic() - began < 20
    said = last_line(capsys)
    assert said.startswith("pcace rank: model.factory: the model is not deterministic: it gives the same images other")
    assert "F.dropout without training=self.training" in said and "a state kept in forward" in said


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 4, stride=2)
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module `edited` and makes Python forget what it was: as a new process has it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        sys.modules.pop("pcace_edited", None)
        importlib.invalidate_caches()
        linecache.clearcache()

    def written(text: str) -> None:
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (tmp_path / "pcace_edited.py").write_text(text)
        forget()

    yield written
    forget()


def test_the_ranking_of_a_model_that_has_been_edited_is_never_shown_as_new(
    data: Path, tmp_path: Path, write: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write(NET)
    assert rank(data, tmp_path, "pcace_edited:Net", "[conv]") == 0
    first, shown = rankings(tmp_path), capsys.readouterr().out
    assert "images/s" in shown
    write(NET + "# a comment\n")
    assert rank(data, tmp_path, "pcace_edited:Net", "[conv]") == 0
    again = capsys.readouterr().out
    assert (
        re.search(r"already finished on \d{4}-\d\d-\d\d \d\d:\d\d \w+, nothing to do", again)
        and "images/s" not in again
    )

    write(NET.replace("torch.relu(self.conv(x))", "torch.sin(9 * self.conv(x))"))
    assert rank(data, tmp_path, "pcace_edited:Net", "[conv]") == 2
    said = capsys.readouterr()
    assert "the model's code has changed since the run" in said.err and said.out == ""
    assert rankings(tmp_path).equals(first)
    assert evaluate(tmp_path) == 2
    assert "model.factory pcace_edited:Net: its code changed since" in last_line(capsys)
    assert report(tmp_path) == 0
    assert "note: the code of pcace_edited:Net has changed since this run was ranked" in capsys.readouterr().out
    assert rank(data, tmp_path / "new", "pcace_edited:Net", "[conv]") == 0
    assert not rankings(tmp_path / "new").equals(first)

    write(NET)
    assert evaluate(tmp_path) == 0
    assert report(tmp_path) == 0
    assert "has changed" not in capsys.readouterr().out
