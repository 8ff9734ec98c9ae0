"""The jobs of examples/own_model are run with the real libraries, on weights that are made here: nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import load_job_file
from tests.models.library_models import saved_processor, saved_vit
from tests.whole_jobs import jobs_without_ray

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "examples/own_model"
IMAGES = ROOT / "examples/street/data/part-00000.parquet"


def ranked(name: str, output: Path, *overrides: str) -> list[tuple[str, int]]:
    """Layers and channels that the job ranks, on 80 images."""
    few = output.with_suffix(".parquet")
    pq.write_table(pq.read_table(IMAGES).slice(0, 80), few)
    own = (f"output={output}", f"dataset.path={few}", "statistics.components=1", *overrides)
    settings = [part for one in own for part in ("--set", one)]
    with jobs_without_ray():
        assert main(["rank", str(JOBS / f"{name}.yaml"), *settings]) == 0
    ranking = open_run(str(output)).ranking()
    assert set(ranking["status"].to_pylist()) == {"ok"}
    return list(zip(ranking["layer"].to_pylist(), ranking["channel"].to_pylist(), strict=True))


@pytest.mark.apps
def test_torchvisions_weights_are_found_where_it_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    channels = ranked("torchvision", tmp_path / "run", 'layers=["layer4.1.conv2"]')
    assert len(channels) == 512
    given = load_job_file(str(tmp_path / "run" / "job.yaml")).model.input
    assert (given.resize, given.crop, given.mean) == (256, 224, [0.485, 0.456, 0.406])
    again = ("model.kwargs={}", f"model.weights={file}", 'layers=["layer4.1.conv2"]')
    assert ranked("torchvision", tmp_path / "file", *again) == channels  # the file's name says whose it is


@pytest.mark.apps
def test_timms_weights_of_a_file(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18.a1_in1k").state_dict(), tmp_path / "net.safetensors")
    given = ("model.kwargs.pretrained=false", f"model.weights={tmp_path / 'net.safetensors'}")
    assert len(ranked("timm", tmp_path / "run", *given)) == 2 * 512
    said = load_job_file(str(tmp_path / "run" / "job.yaml")).model.input
    assert (said.resize, said.crop, said.interpolation) == (235, 224, "bicubic")


def test_transformers_folder(tmp_path: Path) -> None:
    place = saved_vit(tmp_path / "vit")
    saved_processor(tmp_path / "vit", "ViTImageProcessor", size={"height": 32, "width": 32})
    channels = ranked("transformers", tmp_path / "run", f"model.kwargs.pretrained_model_name_or_path={place}")
    assert {layer for layer, _ in channels} == {"vit.layers.0.mlp.fc1", "vit.layers.1.mlp.fc1"}
    assert len(channels) == 2 * 24 and load_job_file(str(tmp_path / "run/job.yaml")).model.input.resize == (32, 32)
