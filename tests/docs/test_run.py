"""The Python blocks of the pages, run in order as they stand, on a run of the MNIST example."""

from __future__ import annotations

import ast
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from tests.docs.pages import ROOT, blocks
from tests.whole_jobs import in_process

__all__ = ["in_process"]
pytestmark = [pytest.mark.usefixtures("in_process"), pytest.mark.apps]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples and a finished runs/mnist that kept its codes."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "examples").symlink_to(ROOT / "examples")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["rank", "examples/mnist/job.yaml", "--set", "statistics.keep_codes=true", "--top", "1"]) == 0
        assert main(["select", "runs/mnist"]) == 0
    finally:
        os.chdir(before)
    return folder


def ran(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """The names that the page's Python blocks leave, one after the other."""
    for block in blocks("python"):
        if block.page == ROOT / "docs" / page:
            exec(compile(ast.parse(textwrap.dedent(block.text)), block.name, "exec"), names)
    return names


def test_kept_codes_are_read_as_codes_md_says(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mnist)
    codes = ran("codes.md", {})["codes"]
    assert codes.shape[:2] == (5000, 32) and codes.dtype == np.uint8


def test_a_sample_is_read_as_outputs_md_says(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mnist)
    codes = ran("outputs.md", {})["codes"]
    sample = open_run("runs/mnist").sample()
    assert sample is not None and codes.shape == (len(sample), 32, 5)


def test_masks_prune_as_pruning_md_says(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mnist)
    names = ran("pruning.md", {})
    images = torch.zeros(2, 1, 28, 28)
    assert names["model"](images).shape == names["smaller"](images).shape


def test_a_square_is_seen_as_why_it_works_md_says() -> None:
    scores = ran("why-it-works.md", {})["scores"]
    assert abs(scores.pearson).max() < 0.1 and scores.score[0] > 0.97 and scores.score[1] < 0.2


def test_a_model_in_memory_is_ranked_as_python_md_says() -> None:
    network = torch.nn.Sequential()
    network.layer4 = torch.nn.Sequential()
    network.layer4.add_module("0", torch.nn.Sequential())
    network.layer4[0].conv2 = torch.nn.Conv2d(1, 4, 3)
    network.head = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
    noise = torch.Generator().manual_seed(0)
    rows = [(torch.randn(1, 8, 8, generator=noise), row % 2) for row in range(256)]
    run = ran("python.md", {"model": network, "dataset": rows})["run"]
    assert set(run.ranking()["layer"].to_pylist()) == {"layer4.0.conv2"}
