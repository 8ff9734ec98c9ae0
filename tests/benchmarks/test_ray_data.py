"""Ray Data's script computes what the engine computes, and deals its rows to all its actors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.benchmarks.instead import ray_data
from tests.benchmarks.jobs import network, ready
from tests.benchmarks.loader import axes_of, plain
from tests.benchmarks.photos import write_photos
from tests.benchmarks.ray_data import LAYER, ray_for

ROWS = 40


@pytest.mark.jobs
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's, of its own settings
def test_its_components_are_the_engines_and_both_actors_work(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", ROWS, size=(300, 260), file_rows=10)
    exact = {"precision": "float32", "batch": 8}
    found = ready(network(tmp_path / "run", photos, statistics={"pilot": ROWS}, compute=exact))
    with ray_for(2):
        theirs = ray_data.components(photos, plain, LAYER, axes_of(found, LAYER), actors=2, batch=4)
    assert theirs["id"].tolist() == list(range(ROWS)), "each image once"
    assert len(set(theirs["actor"].tolist())) == 2
    (unit,) = found.units
    found.engine.process(unit)
    accumulator, layer = found.engine.buffer.accumulators[None], found.plan.layer(LAYER)
    held, targets = accumulator.codes(LAYER), accumulator.rows.target_codes
    assert held is not None
    kept = held.codes
    codes = layer.encode(torch.from_numpy(theirs["components"]), torch.zeros(ROWS, layer.channels)).codes
    assert (codes.int() - kept.int()).abs().max() <= 1
    assert (codes != kept).float().mean() < 1e-3
    target_codes, _ = found.plan.encode_targets(theirs["target"][:, None])
    assert (target_codes.int() - targets.int()).abs().max() <= 1
