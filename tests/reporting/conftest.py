"""One small finished run with a planted truth, and its report, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.reporting.build import ReportResult, build_report
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.progress import ReportProgress
from pcace_dist.run.rank import run_job
from tests.reporting.square import write_squares
from tests.whole_jobs import jobs_without_ray


@dataclass(frozen=True)
class Reported:
    """A finished run and its report."""

    run: Path
    data: Path
    result: ReportResult

    @property
    def page(self) -> Path:
        return Path(self.result.path)


def square_job(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(data), "label": "label"},
        "model": {"factory": "tests.reporting.square:square_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": ["look"],
        "target": [{"logit": "label"}, {"column": "amount"}],
        "group_by": "region",
        "statistics": {"components": 2, "pilot": 256},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


def quietly(run: Path, **options: Any) -> ReportResult:
    return build_report(str(run), ReportOptions(**options), progress=ReportProgress(quiet=True))


@pytest.fixture(scope="package")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reported]:
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder / "data")
    smaller = {"components": 2, "pilot": 200}
    with jobs_without_ray():
        assert run_job(parse_job(square_job(folder / "data", folder / "run"))) == 0
        assert run_job(parse_job(square_job(folder / "data", folder / "other", statistics=smaller))) == 0
    result = quietly(folder / "run", against=str(folder / "other"))
    yield Reported(folder / "run", folder / "data", result)


EMBEDDINGS, MLP, VALUES = "vit.embeddings", "vit.layers.0.mlp.fc1", "vit.layers.1.attention.v_proj"


@pytest.fixture(scope="package")
def squares_vit(squares: Reported) -> Reported:
    """The same images ranked through a transformer."""
    run = squares.run.parent / "vit"
    model = {"factory": "tests.reporting.square:square_vit", "weights": "factory", "input": {"mode": "L"}}
    changes = {"layers": [EMBEDDINGS, MLP, VALUES], "target": {"column": "amount"}, "group_by": None}
    with jobs_without_ray():
        assert run_job(parse_job(square_job(squares.data, run, model=model, **changes))) == 0
    return Reported(run, squares.data, quietly(run, synthesis=False, top=3))


@pytest.fixture(scope="package")
def unranked(squares: Reported) -> Reported:
    """A run of which no channel is ranked, as its target is constant."""
    run = squares.run.parent / "unranked"
    job = square_job(squares.data, run, target={"column": "label"}, group_by=None)
    job["dataset"] |= {"filter": {"label": 0}}
    with jobs_without_ray():
        assert run_job(parse_job(job)) == 4
    return Reported(run, squares.data, quietly(run))
