"""A finished run read back: the best rows are the same whether the others are read or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pcace_dist.artifacts.rankings import best_of
from tests.analysis.runs import write_run


@pytest.mark.parametrize("layer", [None, "conv2"])
def test_the_best_rows_are_those_of_the_whole_ranking(tmp_path: Path, layer: str | None) -> None:
    squared = {"conv1": np.array([0.1, 0.9, np.nan, 0.5]), "conv2": np.array([0.5, 0.5, 0.8])}
    run = write_run(tmp_path / "run", squared, groups=(None, "a", "b"), targets=("logit:1", "logit:0"))
    best = run.ranking(top=2, layer=layer)
    assert len(best) == 12 and best.equals(best_of(run.ranking(layer=layer), 2))
    assert run.finished_at == 0.0
