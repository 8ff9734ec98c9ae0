"""What people would write instead computes what the engine computes: a comparison with a wrong competitor is worth
nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import transforms

from pcace_dist.statistics.ace import ace
from tests.benchmarks.instead import dataloader, published
from tests.benchmarks.instead.axes import fit_axes
from tests.benchmarks.jobs import ROOT, Ready, digits, ready
from tests.benchmarks.loader import axes_of
from tests.benchmarks.main_pass import bare_decode, bare_forward, stored
from tests.benchmarks.photos import write_photos

LAYER = "conv3"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ready, dataloader.Photos]:
    """One file of the example's images: a job that has its plan, and the script's data."""
    job = digits(
        tmp_path_factory.mktemp("run") / "out",
        data=ROOT / "examples/mnist/data/part-00000.parquet",
        compute={"precision": "float32"},
    )
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.1307], [0.3081])])
    return ready(job), dataloader.Photos(Path(job["dataset"]["path"]), transform, mode="L")


@pytest.fixture(scope="module")
def components(example: tuple[Ready, dataloader.Photos]) -> Tensor:
    found, data = example
    return dataloader.activations(data, found.engine.model, LAYER, axes_of(found, LAYER), processes=0)[0]


def test_the_dataloader_scripts_components_are_the_engines(
    example: tuple[Ready, dataloader.Photos], components: Tensor
) -> None:
    found, _ = example
    layer = found.plan.layer(LAYER)
    found.engine.process(found.units[0])
    accumulator = found.engine.buffer.accumulators[None]
    held = accumulator.codes(LAYER)
    assert held is not None
    kept = held.codes
    mine = layer.encode(components[: len(kept)], torch.zeros(len(kept), layer.channels)).codes
    assert len(kept) == found.units[0].rows
    assert (mine.int() - kept.int()).abs().max() <= 1
    assert (mine != kept).float().mean() < 1e-3


def test_pooled_activations_are_the_means_of_the_maps(example: tuple[Ready, dataloader.Photos]) -> None:
    found, data = example
    maps = dataloader.maps_of(data, found.engine.model, LAYER, 40)
    few = torch.utils.data.Subset(data, range(40))
    pooled, outputs = dataloader.activations(few, found.engine.model, LAYER, None, processes=0)
    torch.testing.assert_close(pooled[:, :, 0], maps.mean((2, 3)))
    assert pooled.shape == (40, 32, 1) and outputs.shape == (40, 10)


def test_the_limits_bare_pass_is_the_models(example: tuple[Ready, dataloader.Photos]) -> None:
    found, data = example
    images = torch.stack([bare_decode(one, "L", False) for one in data.images[:40]])
    given = found.engine.spec.model.input
    mine = bare_forward(found.engine.model, images, given.mean, given.std, "float32")
    torch.testing.assert_close(mine, found.engine.model(torch.stack([data[i] for i in range(40)])))


def test_the_axes_of_the_scripts_are_principal_axes() -> None:
    maps = torch.randn(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    mine = fit_axes(maps, 2).project(maps)
    for channel in range(3):
        theirs = PCA(2).fit_transform(StandardScaler().fit_transform(maps[:, channel].flatten(1).numpy()))
        np.testing.assert_allclose(np.abs(mine[:, channel].numpy()), np.abs(theirs), atol=1e-4)


def test_the_package_and_the_vectorised_ace_agree(components: Tensor, example: tuple[Ready, dataloader.Photos]) -> None:
    x = components[:200, :4].double().numpy()
    target = np.square(x[:, 0, 0]) + x[:, 1, 1]
    theirs = [dataloader.ace_of_channel(x[:, channel], target) for channel in range(2)]
    np.testing.assert_allclose(ace(x[:, :2], target, alpha=0.0).score, theirs, atol=0.01)


def test_the_published_procedure_gives_the_first_components_score(example: tuple[Ready, dataloader.Photos]) -> None:
    found, data = example
    images = torch.stack([data[index] for index in range(200)])
    mine = published.score_of_channel(images, found.engine.model, LAYER, 5, components=3)
    maps = published.maps_of_channel(images, found.engine.model, LAYER, 5)
    x = fit_axes(maps.unsqueeze(1), 3).project(maps.unsqueeze(1)).double().numpy()
    y = published.largest_logit(images, found.engine.model).double().numpy()
    assert mine == pytest.approx(ace(x, y, alpha=0.0).first_component[0], abs=0.02)


def test_generated_photographs_are_as_large_as_real_ones(tmp_path: Path) -> None:
    images = stored(write_photos(tmp_path / "made", 4, file_rows=3))
    assert len(images) == 4 and len(list((tmp_path / "made").iterdir())) == 2
    assert all(90_000 < len(data) < 130_000 for data in images)
    assert bare_decode(images[0], "RGB", False).shape == (3, 375, 500)
    assert bare_decode(images[0], "RGB", True).shape == (3, 224, 224)


def test_photographs_of_ones_own_are_taken_over_and_over(tmp_path: Path) -> None:
    made = write_photos(tmp_path / "made", 3, size=(16, 16))
    assert stored(write_photos(tmp_path / "taken", 5, source=made)) == [*stored(made), *stored(made)[:2]]
    with pytest.raises(ValueError, match="no Parquet file"):
        write_photos(tmp_path / "none", 1, source=tmp_path / "nowhere")
