"""The ImageNet example from raw files over pack and rank to the report; under the marker apps all that `make imagenet`
does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from examples.imagenet.efficientnet import efficientnet_lite0
from examples.imagenet.photographs import write_crops
from examples.imagenet.random_weights import write_weights
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import load_job_file
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.models.layers import resolve_layers
from tests.examples.images import CLASSES, write_folders
from tests.faults.harness import environment

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "examples/imagenet").glob("*.yaml"))


def pcace(*arguments: str) -> str:
    """Run a command as a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pcace_dist", *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.stem))
def test_every_job_names_layers_that_its_network_has(path: Path) -> None:
    job = load_job_file(str(path))
    room, _, name = job.model.factory.partition(":")
    with torch.device("meta" if room == "torchvision" else "cpu"):
        network = torchvision.models.get_model(name) if room == "torchvision" else efficientnet_lite0()
    assert resolve_layers(network, job.layer_patterns)
    assert job.output == f"runs/imagenet/{path.stem}"


def test_the_example_has_four_jobs() -> None:
    assert [path.stem for path in JOBS] == ["efficientnet", "resnet18", "resnet50", "vgg16"]


def test_the_weights_are_real(tmp_path: Path) -> None:
    """On crops of a flower it is surer of a class, and of fewer classes, than with weights drawn at random."""
    write_crops(tmp_path, 6)
    spec = ImageSpec(resize=224, crop=224)
    images = torch.stack([decode(file.read_bytes(), spec) for file in sorted((tmp_path / "flower").iterdir())])
    with torch.inference_mode():
        largest = [
            network.eval()(images / 127.5 - 1).softmax(1).amax(1).mean()
            for network in (efficientnet_lite0(), torchvision.models.efficientnet_b0())
        ]
    assert largest[0] > 0.1 and largest[0] > 20 * largest[1]


@pytest.mark.apps
def test_folders_of_synsets_are_packed_ranked_per_class_and_over_all_and_reported(tmp_path: Path) -> None:
    shards, weights, run = tmp_path / "shards", tmp_path / "resnet18.safetensors", tmp_path / "run"
    write_folders(tmp_path / "train", 240, 4, CLASSES[:2])
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n00000001 not here\n" + "".join(f"{c} fish {c}\n" for c in CLASSES)
    )
    assert main(["pack", str(tmp_path / "train"), str(shards), "--verify", "decode", "--shard-rows", "60"]) == 0
    assert sorted(set(pq.read_table(shards)["label"].to_pylist())) == [1, 2]
    write_weights("resnet18", weights)
    job = ["rank", "examples/imagenet/resnet18.yaml"]
    changed = [
        f"dataset.path={shards}",
        f"model.weights={weights}",
        "model.input.resize=64",
        "model.input.crop=64",
        "layers=[layer4.1.conv2]",
        "statistics.components=2",
        "statistics.knots=5",
        "workers.max=1",
    ]
    sets = [part for change in changed for part in ("--set", change)]
    pcace(*job, *sets, "--set", f"output={run}")
    ranking = open_run(str(run)).ranking()
    assert sorted(set(ranking["group"].to_pylist())) == [1, 2] and ranking.num_rows == 2 * 512
    assert set(ranking["images"].to_pylist()) == {120} and "ok" in ranking["status"].to_pylist()

    over_all = ["group_by=null", "statistics.keep_codes=false", f"output={tmp_path / 'all'}"]
    sets += [part for change in over_all for part in ("--set", change)]
    assert main([*job, *sets, "--from-codes", str(run)]) == 0
    assert set(open_run(str(tmp_path / "all")).ranking()["images"].to_pylist()) == {240}
    pcace("report", str(run), "--no-synthesis", "--top", "1")
    assert (run / "report.html").stat().st_size > 1_000_000


@pytest.mark.apps
def test_make_imagenet_does_what_the_readme_says(tmp_path: Path) -> None:
    out = tmp_path / "imagenet"
    command = [
        "make",
        "--old-file=.venv/.installed",
        "imagenet",
        f"BIN={Path(sys.executable).parent}",
        f"IMAGENET={out}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "240 images in 1 shard" in done.stdout
    for name, channels in (("efficientnet", 112 + 320 + 1280), ("resnet18", 1024), ("vgg16", 1024)):
        run = open_run(str(out / name))
        assert run.summary["images"] == 240 and run.summary["bad_rows"] == 0
        assert run.ranking().num_rows == channels
    assert (out / "efficientnet/report.html").stat().st_size > 1_000_000
