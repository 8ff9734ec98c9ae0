"""One batch through the model: the same bits whatever the padding, and errors that name the model's part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from pcace_dist.errors import ModelError, RowError
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.inputs import Normalise
from pcace_dist.models.precision import Numerics
from pcace_dist.models.settings import set_deterministic

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The settings of a worker, taken back afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_deterministic(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = False


def images_of(rows: int, size: int = 16, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (rows, channels, size, size), dtype=torch.uint8)


# -- inputs


def test_normalising_gives_the_bits_of_torchvision() -> None:
    images = images_of(4)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    assert torch.equal(Normalise(MEAN, STD)(images), reference(images))


def test_normalising_leaves_the_images_and_the_scale_of_floats() -> None:
    images = torch.rand(2, 1, 3, 3)
    before = images.clone()
    torch.testing.assert_close(Normalise([0.5], [2.0])(images), (before - 0.5) / 2)
    assert torch.equal(images, before)


@pytest.mark.parametrize("mean, std", [([0.5], [0.5, 0.5]), ([0.5], [0.0])])
def test_normalising_wants_one_mean_and_one_positive_std_for_each_channel(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="std above 0"):
        Normalise(mean, std)


# -- forward


def test_outputs_and_maps_are_those_of_the_bare_model() -> None:
    model = resnet18(weights=None).eval()
    images, seen = images_of(4, 32), dict[str, Tensor]()
    forward = Forward(model, "cpu", 4, MEAN, STD, ["layer1.0.conv1", "fc"])
    outputs = forward(images, lambda name, maps, _: seen.__setitem__(name, maps.clone()))
    with torch.no_grad():
        bare = model(Normalise(MEAN, STD)(images))
    assert torch.equal(outputs, bare)
    assert torch.equal(seen["fc"][:, :, 0], bare)
    assert seen["layer1.0.conv1"].shape == (4, 64, 64)
    assert torch.equal(forward(images), bare)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_a_row_gives_the_same_bits_in_a_batch_that_is_not_full(rows: int) -> None:
    model = resnet18(weights=None).eval()
    forward = Forward(model, "cpu", 8, MEAN, STD, ["conv1", "layer4.1.conv2"])
    images = images_of(8, 32)
    full, part = dict[str, Tensor](), dict[str, Tensor]()
    all_outputs = forward(images, lambda name, maps, _: full.__setitem__(name, maps.clone()))
    outputs = forward(images[:rows], lambda name, maps, _: part.__setitem__(name, maps.clone()))
    assert outputs.shape == (rows, 1000)
    assert torch.equal(outputs, all_outputs[:rows])
    for name, maps in full.items():
        assert torch.equal(part[name][:rows], maps[:rows])


def test_a_batch_has_one_row_at_least_and_the_batch_size_at_most() -> None:
    forward = Forward(nn.Flatten(), "cpu", 2, [0], [1], [])
    for rows in (0, 3):
        with pytest.raises(ValueError, match=f"{rows} images: this pass takes 1 to 2"):
            forward(images_of(rows, channels=1))
    with pytest.raises(ValueError, match="batch size 0"):
        Forward(nn.Flatten(), "cpu", 0, [0], [1], [])


def test_two_passes_over_one_model_do_not_hear_each_other() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    first, second = (Forward(model, "cpu", 2, [0], [1], ["0"]) for _ in range(2))
    heard: list[int] = []
    first(images_of(2, channels=1), lambda *_: heard.append(1))
    second(images_of(2, channels=1), lambda *_: heard.append(2))
    assert heard == [1, 2]


def test_images_that_the_model_cannot_take_name_model_input() -> None:
    forward = Forward(resnet18(weights=None).eval(), "cpu", 2, [0], [1], ["conv1"])
    with pytest.raises(
        ModelError,
        match=r"^model\.factory: the model fails on images of shape \(1, 16, 16\): "
        r"RuntimeError: .*; see model\.input",
    ) as error:
        forward(images_of(2, channels=1), lambda *_: None)
    assert "\n" not in str(error.value)


def test_an_error_of_the_receiver_stays_its_own() -> None:
    forward = Forward(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), "cpu", 2, [0], [1], ["0"])
    for mine in (ZeroDivisionError("mine"), RowError("model", "mine")):

        def receive(*_: object, mine: Exception = mine) -> None:
            raise mine

        with pytest.raises(type(mine), match="mine"):
            forward(images_of(2, channels=1), receive)


def test_running_out_of_memory_is_not_the_models_mistake() -> None:
    class Hungry(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Forward(Hungry(), "cpu", 1, [0], [1], [])(images_of(1, channels=1))


def test_outputs_that_are_not_one_row_an_image_are_refused() -> None:
    class Mixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(0, 2)

    with pytest.raises(ModelError, match=r"outputs of shape \(48, 16\) for a batch of 1 images"):
        Forward(Mixed(), "cpu", 1, MEAN, STD, [])(images_of(1))


# -- settings


def test_deterministic_settings_hold() -> None:
    set_deterministic(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_the_numeric_class_is_plain_and_tells_settings_apart() -> None:
    facts = numeric_class("cpu", numerics=Numerics(), batch_size=32, threads=1)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["torch"] == torch.__version__
    assert facts["model"]
    assert facts == numeric_class(torch.device("cpu"), numerics=Numerics(), batch_size=32, threads=1)
    assert facts != numeric_class("cpu", numerics=Numerics(), batch_size=64, threads=1)
    assert facts != numeric_class("cpu", numerics=Numerics(), batch_size=32, threads=2)
    assert facts != numeric_class("cpu", numerics=Numerics("bfloat16"), batch_size=32, threads=1)
