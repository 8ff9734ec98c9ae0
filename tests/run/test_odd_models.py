"""Whole jobs on models that are not a chain of convolutions: the right axis, the right output, the layers that run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from tests.planted import write_planted

pytestmark = pytest.mark.usefixtures("in_process")

JOB = """
dataset: {{path: {data}, label: label}}
model: {{factory: "tests.run.test_odd_models:{factory}", weights: random, input: {{mode: L}}}}
layers: {layers}
target: {{output: 0}}
output: {output}
statistics: {{components: 2}}
"""


class ChannelsLast(nn.Module):
    """A convolution, then a block that works on channels-last maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=4)
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 10), nn.GELU())
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))
        return out


class Embedding(nn.Module):
    """Returns an embedding and its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=4)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.stem(x).mean((2, 3))
        return embedding, self.head(embedding)


class Auxiliary(nn.Module):
    """A head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=4)
        self.aux = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.stem(x)
        return self.aux(maps) if self.training else maps.mean((2, 3))


class Volume(nn.Module):
    """A volume after maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=4)
        self.volume = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.volume(self.stem(x).unsqueeze(1)).mean((2, 3, 4))
        return out


class Squeezed(nn.Module):
    """Loses every axis of one element, also that of a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 4, stride=4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.stem(x)).squeeze()
        return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_planted(folder, 64, shards=1, row_group=32)
    return folder


def rank(data: Path, folder: Path, factory: str, layers: str, *overrides: str) -> int:
    job = folder / "job.yaml"
    job.write_text(JOB.format(data=data, factory=factory, layers=layers, output=folder / "run"))
    torch.manual_seed(0)
    return main(["rank", str(job), *(part for override in overrides for part in ("--set", override))])


def ranked(folder: Path) -> dict[str, int]:
    """How many channels of each layer there are."""
    layers = open_run(str(folder / "run")).ranking()["layer"].to_pylist()
    return {name: layers.count(name) for name in layers}


def left_out(folder: Path) -> object:
    """What summary.json says of layers that were not ranked."""
    return json.loads((folder / "run" / "summary.json").read_text())["layers_left_out"]


@pytest.mark.parametrize("layer", ["block", "block.2"])
def test_a_block_with_its_channels_last_is_ranked_by_channel(data: Path, tmp_path: Path, layer: str) -> None:
    assert rank(data, tmp_path, "ChannelsLast", f"[{layer}]") == 0
    assert ranked(tmp_path) == {layer: 10}


def test_the_layout_that_a_job_says_counts_and_makes_another_job(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank(data, tmp_path, "ChannelsLast", "[{name: block, layout: BHWC}]") == 0
    assert ranked(tmp_path) == {"block": 10}
    assert rank(data, tmp_path, "ChannelsLast", "[{name: block, layout: BCHW}]") == 2
    assert "use another output" in capsys.readouterr().err


def test_of_two_outputs_none_is_taken_silently(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(data, tmp_path, "Embedding", "all") == 2
    assert "say which are its outputs, for example model.output: 1" in capsys.readouterr().err
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    assert rank(data, chosen, "Embedding", "all", "model.output=1") == 0


def test_layers_that_do_not_run_are_left_out_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = "model.input.crop=[16, 128]"
    assert rank(data, tmp_path, "Auxiliary", "[aux]", crop) == 2
    assert "layers aux: does not run in a forward pass" in capsys.readouterr().err
    every = tmp_path / "every"
    every.mkdir()
    assert rank(data, every, "Auxiliary", "all", crop) == 0
    assert "left out, as they do not run in a forward pass: aux" in capsys.readouterr().err
    assert ranked(every) == {"stem": 6}
    assert left_out(every) == [{"layer": "aux", "reason": "does not run in a forward pass"}]


def test_an_exclamation_mark_leaves_layers_out(data: Path, tmp_path: Path) -> None:
    assert rank(data, tmp_path, "Auxiliary", "[all, '!au*']") == 0
    assert ranked(tmp_path) == {"stem": 6}
    assert left_out(tmp_path) == [{"layer": "aux", "reason": "left out by !au*"}]


def test_a_three_dimensional_convolution_is_ranked(data: Path, tmp_path: Path) -> None:
    assert rank(data, tmp_path, "Volume", "all") == 0
    assert left_out(tmp_path) == []
    assert ranked(tmp_path) == {"stem": 6, "volume": 3}


def test_a_model_that_squeezes_is_ranked(data: Path, tmp_path: Path) -> None:
    assert rank(data, tmp_path, "Squeezed", "all") == 0
    assert ranked(tmp_path) == {"stem": 6}
