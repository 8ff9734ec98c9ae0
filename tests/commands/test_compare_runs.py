"""Whole runs compared: the same weights twice, a network with shuffled channels, and one with a changed channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcace_dist.analysis.compare import compare_runs
from pcace_dist.analysis.matched import compare_matched
from pcace_dist.api import rank
from pcace_dist.artifacts.run import Run
from tests.run.test_main_job import MNIST, mnist_job

SHUFFLE = torch.from_numpy(np.random.default_rng(0).permutation(32))


def ranked(folder: Path, name: str, weights: Path | None = None) -> Run:
    """The example over all digits together."""
    job = mnist_job(folder / name, group_by=None, statistics={"pilot": 2048})
    if weights is not None:
        job["model"] = job["model"] | {"weights": str(weights)}
    return rank(job)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def first(local_ray: None, folder: Path) -> Run:
    return ranked(folder, "first")


@pytest.mark.jobs
def test_the_same_weights_twice_are_the_same(first: Run, folder: Path) -> None:
    found = compare_runs(first, ranked(folder, "again"))
    assert found.verdict == "same" and found.overall["kendall"] == pytest.approx(1)
    assert found.notes == ("the same weights", "the same data", "the same plan")
    assert (found.channels["p_value"].to_numpy() == 1).all()


@pytest.mark.jobs
def test_shuffled_channels_are_recognised_by_matching(first: Run, folder: Path) -> None:
    state = load_file(str(MNIST / "weights.safetensors"))
    state["conv3.weight"], state["conv3.bias"] = state["conv3.weight"][SHUFFLE], state["conv3.bias"][SHUFFLE]
    classify = state["classify.weight"].reshape(10, 32, 9)[:, SHUFFLE].reshape(10, -1)
    save_file(
        {name: tensor.contiguous() for name, tensor in (state | {"classify.weight": classify}).items()},
        str(folder / "shuffled.safetensors"),
    )
    shuffled = ranked(folder, "shuffled", folder / "shuffled.safetensors")
    plain = compare_runs(first, shuffled)
    assert plain.verdict == "moved"
    assert {row["layer"] for row in plain.moved()} == {"conv3"}
    matched = compare_matched(first, shuffled, plain)
    assert matched.comparison.verdict == "same"
    assert (matched.layers["conv3"].permutation == torch.argsort(SHUFFLE).numpy()).all()
    assert (matched.layers["conv2"].permutation == np.arange(16)).all()
    assert matched.counts["found"] == 56


@pytest.mark.jobs
def test_a_changed_channel_is_the_one_that_is_not_found_again(first: Run, folder: Path) -> None:
    state = load_file(str(MNIST / "weights.safetensors"))
    other = torch.randn(16, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state["conv3.weight"][5] = 0.1 * other
    save_file(state, str(folder / "changed.safetensors"))
    changed = ranked(folder, "changed", folder / "changed.safetensors")
    found = compare_runs(first, changed)
    assert found.noise.paired and found.noise.pilots == (2048, 2048)
    matched = compare_matched(first, changed, found)
    assert matched.lost == [("conv3", 5)]
