"""`model.input: auto`: a photograph comes to the model as its own library brings it there, or the job is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
import torch
from PIL import Image
from torch import Tensor, nn

from pcace_dist.cli.main import main
from pcace_dist.config.job import Job, load_job_file, read_job
from pcace_dist.config.resolve import images_of
from pcace_dist.datasets.images import decode
from pcace_dist.errors import JobError
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.library.preprocessing import Preprocessing, preprocessing_of
from pcace_dist.run.input_of_model import with_input_of_model
from pcace_dist.run.layers_of_job import NO_CONVOLUTION
from pcace_dist.run.prepare import identify
from tests.models.library_models import (
    FROM_PRETRAINED,
    clip,
    saved_processor,
    saved_vit,
    small_timm,
    vit,
)

PHOTOGRAPHS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
SIZES = [(640, 427), (500, 375), (375, 500), (333, 500), (231, 517), (97, 64)]  # width, height


def asked(factory: str = "mynet:build", *overrides: str, kwargs: str = "{}", output: str = "runs/x") -> Job:
    text = f"""
    dataset: {{path: shards}}
    model: {{factory: "{factory}", kwargs: {kwargs}, weights: factory, input: auto}}
    layers: all
    target: {{logit: predicted}}
    output: {output}
    """
    return read_job(text, overrides=overrides)


def of_processor(folder: Path, name: str, **settings: Any) -> tuple[Job, nn.Module]:
    """A job whose model lies in a folder together with this image processor."""
    place = saved_processor(folder, name, **settings)
    return asked(FROM_PRETRAINED, kwargs=f"{{pretrained_model_name_or_path: {place}}}"), vit()


def photographs() -> list[bytes]:
    """Two photographs as JPEGs of many sizes."""
    files = []
    for path in PHOTOGRAPHS:
        for size in SIZES:
            held = io.BytesIO()
            Image.open(path).resize(size).save(held, "JPEG", quality=92)
            files.append(held.getvalue())
    return files


def levels_apart(job: Job, model: nn.Module) -> Tensor:
    """Of each photograph as the job decodes it and as the library does: mean and largest difference, of 255 levels."""
    found = library(job, model)
    said = with_input_of_model(job, model)
    spec, given = images_of(said), said.model.input
    normalise, levels = Normalise(given.mean, given.std), 255 * torch.tensor(given.std).view(-1, 1, 1)
    apart = []
    for data in photographs():
        ours, theirs = normalise(decode(data, spec)[None])[0], found.transform(Image.open(io.BytesIO(data)))
        difference = (ours - theirs).abs() * levels
        apart.append(torch.stack([difference.mean(), difference.max()]))
    return torch.stack(apart)


def library(job: Job, model: nn.Module) -> Preprocessing:
    found = preprocessing_of(model, job.model.factory, job.model.kwargs, job.model.weights)
    assert found is not None
    return found


# -- the same pixels


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessor", {}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}),  # DINOv2's
        ("CLIPImageProcessor", {}),
        ("SiglipImageProcessor", {}),
        ("ConvNextImageProcessor", {}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        ("DeiTImageProcessor", {}),
        ("LevitImageProcessor", {}),
        ("PoolFormerImageProcessor", {}),
        ("MobileNetV2ImageProcessor", {}),
        ("EfficientNetImageProcessor", {"resample": 0}),
        ("SegformerImageProcessor", {}),
        ("BeitImageProcessor", {"do_center_crop": True, "size": {"height": 256, "width": 256}}),
        ("ViTImageProcessor", {"do_resize": False, "do_normalize": False}),
    ],
)
def test_photographs_are_transformers_to_the_pixel(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    apart = levels_apart(*of_processor(tmp_path, name, **settings))
    assert apart[:, 1].max() < 0.01  # what is left is the rounding of (x - mean) / std


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "fcn_resnet50", "ssdlite320_mobilenet_v3_large"])
def test_photographs_are_torchvisions_within_two_levels(name: str) -> None:
    """It resizes with Pillow."""
    apart = levels_apart(asked(f"torchvision:{name}"), nn.Identity())
    assert apart[:, 0].max() < 0.02 and apart[:, 1].max() < 2.01


@pytest.mark.parametrize(
    "config", [{}, {"interpolation": "bicubic"}, {"crop_mode": "squash", "interpolation": "bicubic"}]
)
def test_photographs_are_timms_within_four_levels(config: dict[str, str]) -> None:
    """It resizes with Pillow too."""
    apart = levels_apart(asked("timm:create_model"), small_timm(pretrained_cfg_overlay=config))
    assert apart[:, 0].max() < 0.3 and apart[:, 1].max() < 4.01


# -- what is refused


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("MobileViTImageProcessor", {}),  # swaps red and blue
        ("PerceiverImageProcessor", {}),  # crops before it resizes
        ("TextNetImageProcessor", {}),  # rounds sides to multiples of 32
        ("ViTImageProcessor", {"resample": 1}),  # Lanczos
        ("ViTImageProcessor", {"size": {"shortest_edge": 300, "longest_edge": 400}}),
        ("ViTImageProcessor", {"do_pad": True, "pad_size": {"height": 300, "width": 300}}),
    ],
)
def test_what_our_keys_cannot_say_is_refused(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    job, model = of_processor(tmp_path, name, **settings)
    words = rf"^model.input auto: transformers' {name} of .* does something else .*; write model.input, .* wrapper"
    with pytest.raises(JobError, match=words) as caught:
        with_input_of_model(job, model)
    assert "\n" not in str(caught.value)


def test_timms_border_is_refused() -> None:
    with pytest.raises(JobError, match="timm's data config of test_resnet does something else to images"):
        with_input_of_model(asked("timm:create_model"), small_timm(pretrained_cfg_overlay={"crop_mode": "border"}))


def test_a_model_that_brings_nothing_gets_the_lines_to_write() -> None:
    for model in (nn.Identity(), clip()):
        with pytest.raises(
            JobError, match=r"mynet:build brings no preprocessing .*; write .*: model.input: {resize: 2"
        ):
            with_input_of_model(asked(), model)


# -- the job


def test_only_what_is_auto_is_filled_in() -> None:
    said = with_input_of_model(asked("torchvision:resnet50", "model.input.crop=200"), nn.Identity())
    assert (said.model.input.resize, said.model.input.crop) == (232, 200) and not said.model.auto
    written = asked("torchvision:resnet50", "model.input={crop: 200}")
    assert with_input_of_model(written, nn.Identity()) is written


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    held = [io.BytesIO() for _ in range(240)]
    for seed, one in enumerate(held):
        pixels = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        Image.fromarray(pixels.numpy()).resize((80, 60), Image.Resampling.BICUBIC).save(one, "JPEG")
    table = {"image": [one.getvalue() for one in held], "odd": [float(seed % 2) for seed in range(len(held))]}
    pq.write_table(pa.table(table), tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A ViT and its image processor, as save_pretrained writes them."""
    saved_processor(tmp_path / "vit", "ViTImageProcessor", size={"height": 32, "width": 32})
    return saved_vit(tmp_path / "vit")


@pytest.fixture
def run_of(shards: Path, folder: str, tmp_path: Path) -> Callable[..., int]:
    """Runs `pcace rank` on the ViT."""
    file = tmp_path / "job.yaml"
    job = asked(FROM_PRETRAINED, kwargs=f"{{pretrained_model_name_or_path: {folder}}}", output=str(tmp_path / "run"))
    file.write_text(job.to_yaml())
    own = ["layers=vit.layers.1", f"dataset.path={shards}", "statistics.components=1", "statistics.keep_codes=true"]

    def run(*overrides: str) -> int:
        return main(["rank", str(file), *(part for one in (*own, *overrides) for part in ("--set", one))])

    return run


@pytest.mark.usefixtures("without_ray")
def test_a_run_records_what_auto_came_to_and_the_same_command_is_the_same_job(
    run_of: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_of() == 0
    assert "pcace: model.input: auto: resize: [32, 32]" in capsys.readouterr().err
    recorded = load_job_file(str(tmp_path / "run" / "job.yaml"))
    given = recorded.model.input
    assert not recorded.model.auto and given.resize == (32, 32) and given.mean == [0.5] * 3 and not given.scaled_decode
    assert run_of() == 0 and "finished on" in capsys.readouterr().out
    written = recorded.model_copy(update={"output": "elsewhere"})
    assert (
        identify(written).fingerprint
        == identify(
            load_job_file(
                str(tmp_path / "job.yaml"),
                [
                    f"dataset.path={recorded.dataset.path[0]}",
                    "layers=vit.layers.1",
                    "statistics.components=1",
                    "statistics.keep_codes=true",
                ],
            )
        ).fingerprint
    )
    # another processor in the folder is another job
    saved_processor(tmp_path / "vit", "ViTImageProcessor", size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6])
    assert run_of() == 2 and "the model's code has changed" in capsys.readouterr().err


@pytest.mark.usefixtures("without_ray")
def test_the_summary_names_what_all_leaves_out(run_of: Callable[..., int], tmp_path: Path) -> None:
    assert run_of("layers=all", "statistics.keep_codes=false") == 0
    left_out = json.loads((tmp_path / "run" / "summary.json").read_text())["layers_left_out"]
    assert {"layer": "vit.layers.0.mlp.fc1", "reason": NO_CONVOLUTION} in left_out and len(left_out) == 12


@pytest.mark.usefixtures("without_ray")
def test_kept_codes_are_asked_with_the_input_that_they_were_made_with(
    run_of: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_of() == 0
    asked_codes = (f"dataset.path={tmp_path / 'run'}", "statistics.keep_codes=false", "target={column: odd}")
    assert run_of(*asked_codes, f"output={tmp_path / 'again'}") == 0, capsys.readouterr().err
    assert load_job_file(str(tmp_path / "again" / "job.yaml")).model.input.resize == (32, 32)
