"""One pass answers for every group and target what a run of its own would, with the same plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcace_dist.artifacts.run import Run
from tests.digits import digits_job, ranked, write_digits

pytestmark = pytest.mark.usefixtures("in_process")

LOGITS = [{"logit": logit} for logit in range(10)]


@pytest.fixture(scope="module")
def hundred(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("hundred")
    write_digits(folder / "data", 1500)
    return ranked(digits_job(folder / "data", folder / "run", group_by="label", target=LOGITS))


def test_ten_digits_by_ten_logits_are_a_hundred_rankings(hundred: Run) -> None:
    table = hundred.ranking()
    assert len(table) == 10 * 10 * 24
    assert set(table["status"].to_pylist()) <= {"ok", "constant"}
    assert table["target"].to_pylist() == [f"logit:{logit}" for logit in range(10) for _ in range(10 * 24)]


@pytest.mark.parametrize("digit", range(10))
def test_each_is_that_of_a_run_of_its_own(hundred: Run, tmp_path: Path, digit: int) -> None:
    logit = digit * 3 % 10
    settings: dict[str, Any] = {"plan": hundred.path}
    data = Path(hundred.path).parent / "data"
    filtered = {"filter": {"label": digit}}
    alone = ranked(digits_job(data, tmp_path / "run", dataset=filtered, target={"logit": logit}, statistics=settings))
    # without effects: their axes go by group, and this run has none; nor does its plan know another pilot's digits
    by_group = {"group", "score_low", "score_high", "rank_low", "rank_high"}
    names = alone.ranking().column_names
    columns = [name for name in names if name not in by_group and not name.startswith("effect")]
    assert alone.ranking().select(columns).equals(hundred.ranking(group=digit, target=f"logit:{logit}").select(columns))


def test_groups_that_are_too_small_say_so(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 300, files=1)
    run = ranked(digits_job(tmp_path / "data", tmp_path / "run", group_by="writer"))
    table = run.ranking()
    assert len(table) == 75 * 24, "seventy-five writers of four images"
    assert set(table["status"].to_pylist()) <= {"too_few_images", "constant"}
    assert table["rank"].null_count == table["score"].null_count == len(table)
    assert table["group"].to_pylist() == sorted(table["group"].to_pylist())
