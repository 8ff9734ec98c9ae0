"""What docs/pruning.md says, run as it stands: both tools prune the channels in no set, and the network runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pcace_dist.cli.main import main
from tests.digits import digits_job, ranked, write_digits

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.filterwarnings("ignore")  # Torch-Pruning's own
def test_torch_and_torch_pruning_take_the_masks(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "data", 300, files=1)
    layers = ["conv1", "conv2", "conv3"]
    ranked(digits_job(tmp_path / "data", tmp_path / "runs" / "mnist", layers=layers, statistics={"keep_codes": True}))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert main(["select", "runs/mnist", "--share", "0.8"]) == 0
    found: dict[str, Any] = {}
    for snippet in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pruning.md").read_text(), re.S):
        exec(snippet, found)
    masks, masked, smaller = found["masks"], found["model"], found["smaller"]
    assert list(masks) == layers and all(chosen["prune"] for chosen in masks.values())
    whole = found["mnist_cnn"]()
    whole.load_state_dict(found["load_file"]("examples/mnist/weights.safetensors"))
    for layer, chosen in masks.items():
        before, after, cut = (net.get_submodule(layer).weight for net in (whole, masked, smaller))
        alive = after.flatten(1).abs().sum(1) > 0
        assert alive.nonzero().flatten().tolist() == chosen["keep"]
        assert torch.equal(after[chosen["keep"]], before[chosen["keep"]])
        assert len(cut) == len(chosen["keep"])
    assert torch.equal(smaller.conv1.weight, whole.conv1.weight[masks["conv1"]["keep"]])
    images = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(smaller(images), masked(images), atol=1e-4)
    assert not torch.allclose(whole(images), masked(images), atol=1e-2)
