"""The first hour: six models from raw images by `init`, `check`, `rank`, `show`, `report`; no line of a job is edited.

Weights are random or made here; nothing is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from examples.imagenet.photographs import write_crops
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import load_job_file
from tests.models.library_models import FROM_PRETRAINED, saved_processor, saved_timm, vit
from tests.whole_jobs import in_process

__all__ = ["in_process"]
pytestmark = [pytest.mark.usefixtures("in_process"), pytest.mark.apps]
STREETS = Path(__file__).resolve().parents[2] / "examples/street/data"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 photographs as JPEG, of two classes, one folder each."""
    folder = tmp_path_factory.mktemp("newcomer") / "photos"
    write_crops(folder, 65)
    return folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def first_hour(*options: str | Path) -> set[str]:
    """All five commands; the layers that were ranked."""
    assert main(["init", *map(str, options)]) == 0
    assert main(["check", "job.yaml", "--images", "60"]) == 0
    assert Path("job-check/contact-sheet.png").stat().st_size > 10_000
    assert main(["rank", "job.yaml", "--top", "3"]) == 0
    assert main(["show", "runs/job", "--top", "3"]) == 0
    assert main(["report", "runs/job", "--no-synthesis"]) == 0
    ranking = open_run("runs/job").ranking()
    assert "ok" in ranking["status"].to_pylist()
    return set(ranking["layer"].to_pylist())


def target_of(path: str = "job.yaml") -> str:
    return load_job_file(path).targets[0].name


def test_a_cnn_of_torchvision(photos: Path) -> None:
    options = ("--factory", "torchvision:mobilenet_v3_small", "--kwargs", "{num_classes: 2}", "--data", photos)
    layers = first_hour(*options)
    assert target_of() == "logit:label" and layers and all(layer.startswith("features.") for layer in layers)
    given = load_job_file("job.yaml").model.input
    assert (given.resize, given.crop, given.mean) == (256, 224, [0.485, 0.456, 0.406]), "of torchvision's own weights"


def test_a_cnn_of_timm(photos: Path, tmp_path: Path) -> None:
    weights = saved_timm(tmp_path / "net.safetensors")
    kwargs = "{model_name: test_resnet.r160_in1k}"
    layers = first_hour("--factory", "timm:create_model", "--kwargs", kwargs, "--weights", weights, "--data", photos)
    assert target_of() == "logit:label" and all(layer.startswith("layer4.") for layer in layers)
    assert load_job_file("job.yaml").model.auto and load_job_file("runs/job/job.yaml").model.input.crop == 160


def test_a_vision_transformer_of_hugging_face(photos: Path, tmp_path: Path) -> None:
    names = {0: "china", 1: "flower"}
    model: Any = vit(id2label=names, label2id={name: index for index, name in names.items()})
    model.save_pretrained(tmp_path / "vit")
    saved_processor(tmp_path / "vit", "ViTImageProcessor", size={"height": 32, "width": 32})
    kwargs = f"{{pretrained_model_name_or_path: {tmp_path / 'vit'}}}"
    layers = first_hour("--factory", FROM_PRETRAINED, "--kwargs", kwargs, "--data", photos)
    assert target_of() == "logit:label" and len(layers) == 1 and "mlp" in layers.pop()
    assert load_job_file("job.yaml").model.auto


def test_a_regression(tmp_path: Path) -> None:
    layers = first_hour("--factory", "tests.examples.newcomer:Price", "--data", STREETS)
    assert target_of() == "output:0" and layers == {"body.0", "body.2"}
    text = Path("job.yaml").read_text()
    assert "# fold_by: panorama" in text and "# target: {column: " in text


def test_a_segmentation() -> None:
    layers = first_hour("--factory", "tests.examples.newcomer:Masks", "--data", STREETS)
    assert target_of() == "output:1:mean" and layers == {"body.0", "body.2"}


def test_an_embedding_with_vectors_in_the_data(tmp_path: Path) -> None:
    table = pq.read_table(STREETS / "part-00000.parquet").slice(0, 200)
    vectors = np.random.default_rng(0).standard_normal((len(table), 6))
    pq.write_table(table.append_column("words", pa.array(vectors.tolist())), tmp_path / "streets.parquet")
    layers = first_hour("--factory", "tests.examples.newcomer:Embedding", "--data", tmp_path / "streets.parquet")
    assert target_of() == "cosine:words" and layers == {"body.0", "body.2"}


def test_weights_of_ones_own_are_taken(tmp_path: Path) -> None:
    from tests.examples.newcomer import Price

    save_file(Price().state_dict(), tmp_path / "price.safetensors")
    options = ("--factory", "tests.examples.newcomer:Price", "--weights", tmp_path / "price.safetensors")
    assert first_hour(*options, "--data", STREETS) == {"body.0", "body.2"}
    assert load_job_file("job.yaml").model.weights.endswith("price.safetensors")
