"""Jobs over arrays of NumPy (model.input.mode tensor): packed from a CSV, checked, ranked, shown."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pcace_dist
from pcace_dist.packing.pack import pack

ROWS, BANDS, SIDE = 120, 4, 6


def bands() -> nn.Module:
    """The one logit is what channel 1 of `maps` holds, which is band 3."""
    model = nn.Sequential()
    model.add_module("maps", nn.Conv2d(BANDS, 3, 1, bias=False))
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model.get_parameter("maps.weight").copy_(torch.eye(BANDS)[[0, 3, 2], :, None, None])
        model.get_parameter("head.weight").copy_(torch.tensor([[0.0, 1.0, 0.0]]))
    return model


def image(row: int) -> np.ndarray:
    random = np.random.default_rng(row)
    return (100 * random.normal(size=(BANDS, 1, 1)) + random.normal(size=(BANDS, SIDE, SIDE))).astype(np.float32)


def packed(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    """Shards of arrays that a CSV names."""
    for name, array in arrays.items():
        np.save(folder / name, array)
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path"], *([name] for name in arrays)])
    report = pack(str(folder / "list.csv"), str(folder / "shards"), image_column="path")
    assert report.rows == len(arrays) and not report.bad
    return report.dest


def job(folder: Path, more: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """The images, and `more` behind them."""
    arrays = {f"{row}.npy": image(row) for row in range(ROWS)} | (more or {})
    return {
        "dataset": {"path": packed(folder, arrays)},
        "model": {
            "factory": f"{__name__}:bands",
            "weights": "factory",
            "input": {"mode": "tensor", "mean": [1.0] * BANDS, "std": [100.0] * BANDS},
        },
        "layers": "maps",
        "target": {"output": 0},
        "statistics": {"components": 1, "pilot": 64},
        "max_bad_rows": 0.1,
        "output": str(folder / "run"),
    }


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCACE_EXECUTOR", "inline")


def test_arrays_are_ranked_as_images_are(tmp_path: Path) -> None:
    """What is of another size or number of bands is set aside, behind the rows that the pilot takes."""
    wide, two = np.zeros((BANDS, SIDE, SIDE + 1), np.float32), np.zeros((2, SIDE, SIDE), np.float32)
    run = pcace_dist.rank(job(tmp_path, {"wide.npy": wide, "two.npy": two}))
    assert run.ranking(top=1)["channel"].to_pylist() == [1]
    assert run.ranking(top=1)["effect"].to_pylist()[0] == pytest.approx(1, abs=0.01)
    exemplars = run.exemplars()
    assert exemplars is not None
    of_channel = exemplars.filter(exemplars["channel"].to_numpy() == 1)
    largest = max(range(ROWS), key=lambda row: image(row)[3].mean())
    assert of_channel["row"][0].as_py() == largest
    assert of_channel["mean_activation"][0].as_py() == pytest.approx((image(largest)[3].mean() - 1) / 100, rel=1e-3)
    reasons = run.bad_rows()["reason"].to_pylist()
    assert len(reasons) == 2 and "size 7x6 is not the plan's 6x6" in reasons[0]
    assert "shape (2, 6, 6), where (4, H, W) is wanted" in reasons[1]
    assert "<img" in run._repr_html_()


def test_check_and_report_show_them_to_people(tmp_path: Path) -> None:
    keys = job(tmp_path)
    checked = pcace_dist.check(keys, images=100, out=tmp_path / "sheet")
    assert checked.exit_code == 0 and checked.sheet is not None and Path(checked.sheet).stat().st_size > 1000
    page = pcace_dist.report(pcace_dist.rank(keys), device="cpu")
    assert page.notes == ("no images that excite the channels: for tensors it is not known which values are usual",)
    assert page.images > 0
