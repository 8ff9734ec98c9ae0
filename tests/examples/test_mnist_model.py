"""The example in examples/mnist: trained well enough, and as small as promised."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from pcace_dist.models.forward import Forward
from pcace_dist.models.layers import conv_layers
from pcace_dist.models.load import load_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "mnist"
JOB = yaml.safe_load((EXAMPLE / "job.yaml").read_text())


def root(path: str) -> Path:
    """A path of the job file, wherever the tests run."""
    return EXAMPLE.parents[1] / path


@pytest.fixture(scope="module")
def model() -> nn.Module:
    settings = JOB["model"]
    return load_model(settings["factory"], {}, settings["weights"], seed=0, read=lambda path: root(path).read_bytes())


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    table = pa.concat_tables([pq.read_table(path) for path in shards()])
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(images)).unsqueeze(1), torch.tensor(table["label"].to_pylist())


def shards() -> list[Path]:
    return sorted(root(JOB["dataset"]["path"]).glob("*.parquet"))


def test_the_network_names_at_least_97_percent_of_the_embedded_images(
    model: nn.Module, rows: tuple[Tensor, Tensor]
) -> None:
    images, labels = rows
    settings = JOB["model"]["input"]
    forward = Forward(model, "cpu", 500, settings["mean"], settings["std"], [])
    predicted = torch.cat([forward(batch).argmax(1) for batch in torch.split(images, 500)])
    assert (predicted == labels).float().mean() >= 0.97


def test_it_has_two_convolutional_layers_and_24_channels_or_more(model: nn.Module) -> None:
    layers = conv_layers(model)
    channels = [int(module.out_channels) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) >= 2
    assert 24 <= sum(channels) <= 64


def test_every_digit_has_hundreds_of_images_in_several_shards_of_several_row_groups(
    rows: tuple[Tensor, Tensor],
) -> None:
    assert len(rows[0]) >= 4000
    assert rows[0].shape[1:] == (1, 28, 28)
    assert int(torch.bincount(rows[1], minlength=10).min()) >= 400
    assert len(shards()) >= 3
    for path in shards():
        file = pq.ParquetFile(path)
        assert file.metadata.num_row_groups >= 2
        assert file.schema_arrow.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        assert file.schema_arrow.field("label").type == pa.int64()


def test_the_whole_example_is_under_5_megabytes() -> None:
    files = [path for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 5_000_000
