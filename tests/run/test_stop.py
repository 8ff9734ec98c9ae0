"""`stop`: a run ends at the first look at which the top is settled, and is then a run over just those units."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.run import Run
from pcace_dist.errors import JobError, Stopped
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run.model_run import ModelRun
from pcace_dist.run.status import status_of
from tests.digits import bytes_of, ranked, records
from tests.planted import write_planted

pytestmark = pytest.mark.usefixtures("in_process")

ROWS, UNIT = 6400, 128
EASY = {"top": 3, "confidence": 0.999}  # correlations 0.9, 0.75, 0.6 against 0.4 and less
HARD = {"top": 6, "tolerance": 0.0}  # channels 5 to 8 are independent of the target: never settled


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stop") / "data"
    write_planted(folder, ROWS, shards=2, row_group=UNIT)
    return folder


def job(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(data)},
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": {"column": "exponential"},
        "statistics": {"components": 1, "pilot": 600},
        "output": str(output),
    } | changes


@pytest.fixture(scope="module")
def settled(in_process: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ranked(job(data, tmp_path_factory.mktemp("settled") / "run", stop=EASY))


def test_a_clear_top_is_settled_early_and_the_summary_says_what_was_saved(settled: Run) -> None:
    summary = settled.summary
    assert summary["outcome"] == "done" and summary["stop"]["settled"] is True
    assert summary["images"] < ROWS / 2
    assert summary["images"] + summary["stop"]["rows_spared"] == ROWS
    looks = summary["stop"]["looks"]
    assert [look["look"] for look in looks] == list(range(1, len(looks) + 1))
    assert looks[-1]["open_pairs"] == 0 and all(look["open_pairs"] > 0 for look in looks[:-1])
    assert looks[-1]["images"] == summary["images"]
    assert (looks[-1]["surely"], looks[-1]["possibly"]) == (3, 3)
    assert all(look["surely"] <= 3 <= look["possibly"] for look in looks)
    assert f"stop:     look {len(looks)}, " in "\n".join(status_of(settled.path).lines())
    assert set(settled.ranking(top=3)["channel"].to_pylist()) == {0, 1, 2}  # who is in it is settled, not the order
    record = records(Path(settled.path), "settled")
    assert len(record) == 1 and record[0]["look"] == len(looks)


def test_a_settled_run_is_a_run_over_just_its_units(settled: Run, tmp_path: Path) -> None:
    """The rows of the units that were read, as a data set of their own, ranked with that plan."""
    spared = set(records(Path(settled.path), "settled")[0]["units"])
    units = [unit for unit in records(Path(settled.path), "manifest")[0]["units"] if unit["id"] not in spared]
    row_groups = [row_group for unit in units for row_group in unit["pieces"]]
    read = [pq.ParquetFile(row_group["url"]).read_row_group(row_group["row_group"]) for row_group in row_groups]
    (tmp_path / "read").mkdir()
    pq.write_table(pa.concat_tables(read), tmp_path / "read" / "all.parquet", row_group_size=UNIT)
    settings = {"components": 1, "plan": settled.path}
    same = ranked(job(tmp_path / "read", tmp_path / "run", statistics=settings))
    assert bytes_of(same) == bytes_of(settled)


def test_what_never_settles_reads_everything(data: Path, tmp_path: Path) -> None:
    run = ranked(job(data, tmp_path / "run", stop=HARD))
    whole = ranked(job(data, tmp_path / "whole", statistics={"components": 1, "plan": run.path}))
    assert run.summary["stop"]["settled"] is False and run.summary["stop"]["rows_spared"] == 0
    assert run.summary["images"] == ROWS
    assert len(run.summary["stop"]["looks"]) == 6
    assert bytes_of(run) == bytes_of(whole)


def test_attempts_do_not_cross_a_look(settled: Run) -> None:
    units = [unit["id"] for unit in records(Path(settled.path), "manifest")[0]["units"]]
    place = {unit: index for index, unit in enumerate(units)}
    receipts = [receipt for body in records(Path(settled.path), "accept") for receipt in body["receipts"]]
    ends = [look["images"] // UNIT for look in settled.summary["stop"]["looks"]]
    for receipt in receipts:
        places = [place[unit] for unit in receipt["units"]]
        assert len({sum(end <= p for end in ends) for p in places}) == 1


def test_the_order_of_the_units_is_the_seeds(settled: Run, data: Path, tmp_path: Path) -> None:
    def order(run: Path) -> list[str]:
        return [unit["id"] for unit in records(run, "manifest")[0]["units"]]

    again = ranked(job(data, tmp_path / "again", stop=EASY, workers={"max": 1}))
    other = ranked(job(data, tmp_path / "other", stop=EASY, compute={"seed": 1}))
    assert order(Path(again.path)) == order(Path(settled.path)) != order(Path(other.path))
    assert sorted(order(Path(other.path))) == sorted(order(Path(settled.path)))
    assert bytes_of(again) == bytes_of(settled)


@pytest.mark.parametrize("moment", ["manifest", "accept", "third accept", "settled", "second look"])
def test_interrupted_at_any_moment_it_ends_at_the_same_look(
    settled: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        if moment == "second look":
            patch.setattr(ModelRun, "_settled", stopped_at_the_second(ModelRun._settled))
        else:
            kind = moment.split()[-1]
            patch.setattr(Ledger, "append", dying_at(kind, 3 if moment.startswith("third") else 1))
        with pytest.raises((RuntimeError, Stopped), match="died"):
            ranked(job(data, output, stop=EASY, workers={"max": 1}))  # a record for every unit
    run = ranked(job(data, output, stop=EASY))
    assert len(records(output, "open")) == 2
    assert run.summary["images"] == settled.summary["images"]
    assert run.summary["stop"]["settled"] is True
    assert run.summary["stop"]["rows_spared"] == settled.summary["stop"]["rows_spared"]
    assert bytes_of(run) == bytes_of(settled)


def dying_at(kind: str, times: int) -> Callable[..., None]:
    append = Ledger.append
    seen: list[str] = []

    def die(self: Ledger, record_kind: str, body: dict[str, Any]) -> None:
        append(self, record_kind, body)
        seen.append(record_kind)
        if seen.count(kind) == times:
            raise RuntimeError("died")

    return die


def stopped_at_the_second(look: Callable[..., bool]) -> Callable[..., bool]:
    looks: list[int] = []

    def stop(*args: Any) -> bool:
        looks.append(1)
        if len(looks) == 2:
            raise Stopped("died")
        return look(*args)

    return stop


def test_an_attempt_that_rots_after_the_run_was_settled_is_redone(settled: Run, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(settled.path, output)
    sorted((output / "ledger").iterdir())[-1].unlink()  # its done
    next((output / "attempts").glob("*/block-00000.arrow")).write_bytes(b"garbage")
    run = ranked(job(data, output, stop=EASY))
    kinds = [json.loads(path.read_text())["kind"] for path in sorted((output / "ledger").iterdir())]
    assert kinds.count("settled") == 1 and kinds.count("retract") == 1
    assert bytes_of(run) == bytes_of(settled)


def test_every_group_must_be_settled(data: Path, tmp_path: Path) -> None:
    """Halves by label need more images than all together."""
    split = ranked(job(data, tmp_path / "run", stop=EASY, group_by="label"))
    alone = ranked(job(data, tmp_path / "alone", stop=EASY))
    assert split.summary["images"] >= alone.summary["images"]


def test_a_top_of_all_channels_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^stop\.top 8: the layers have 8 channels; write less, or leave stop out$"):
        ranked(job(data, tmp_path / "run", stop={"top": 8}))
