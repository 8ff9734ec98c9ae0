"""Runs that take over another's work: the same bytes as a full run with that plan; nothing forwarded without need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pcace_dist.artifacts.attempt import read_attempt_file
from pcace_dist.artifacts.run import Run
from pcace_dist.errors import UserError
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.run import extend
from pcace_dist.worker.engine import Engine
from tests.digits import bytes_of, ranked, records
from tests.planted import PlantedNetwork, planted_network, write_planted

pytestmark = pytest.mark.usefixtures("in_process")

SMALL, LARGE = 40, 150  # rows of a file that shares units with others, and of one that does not


@pytest.fixture(autouse=True)
def many_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit is an attempt of its own."""
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many images have been forwarded since the last call, check rows and pilot left out."""
    seen: list[int] = []
    process = Engine.process

    def counted(self: Engine, *args: Any) -> Any:
        report = process(self, *args)
        seen.append(report.forwarded)
        return report

    def since() -> int:
        total = sum(seen)
        seen.clear()
        return total

    monkeypatch.setattr(Engine, "process", counted)
    yield since


class Folder:
    """A data set that grows and shrinks, and the runs over it."""

    def __init__(self, path: Path, *, keep_codes: bool = False, bad: bool = True) -> None:
        self.path = path
        self.data = path / "data"
        self.data.mkdir(parents=True)
        self._keep = keep_codes
        self._bad = bad
        self._files = 0
        self._runs = 0

    def add(self, rows: int) -> Path:
        """A file of so many rows, one of them broken."""
        self._files += 1
        made = self.path / "made"
        write_planted(made, rows, seed=self._files, shards=1, row_group=60)
        table = pq.read_table(made / "part-00000.parquet")
        if self._bad:
            images = table["image"].to_pylist()
            images[rows // 2] = b"not an image"
            table = table.set_column(0, "image", pa.array(images, pa.binary()))
        name = f"{self._files * 7 % 10}-{self._files:03d}.parquet"  # new files come between old ones
        pq.write_table(table, self.data / name, row_group_size=60)
        return self.data / name

    def withdraw(self, file: Path) -> None:
        file.unlink()

    def run(self, **changes: Any) -> Run:
        self._runs += 1
        statistics = {"components": 1, "pilot": 300, "keep_codes": self._keep} | changes.pop("statistics", {})
        job = {
            "dataset": {"path": str(self.data), "label": "label"},
            "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
            "layers": "all",
            "target": [{"column": "exponential"}, {"logit": 0}],
            "group_by": "label",
            "statistics": statistics,
            "workers": {"max": 2},
            "max_bad_rows": 1.0,
            "output": str(self.path / f"run-{self._runs:02d}"),
        }
        return ranked(job | changes)

    def extended(self, base: Run, **changes: Any) -> Run:
        return self.run(extend=base.path, **changes)

    def full(self, base: Run) -> Run:
        """All of today's files through the model, with the base's plan."""
        return self.run(statistics={"plan": base.path})


def assert_same(first: Run, second: Run) -> None:
    for name in ("rankings.parquet", "bad_rows.parquet", "jackknife.parquet"):
        assert bytes_of(first, name) == bytes_of(second, name), name
    for key in ("images", "bad_rows", "plan", "data"):
        assert first.summary[key] == second.summary[key], key


def inherited(run: Run) -> int:
    """Attempts that a run has taken over."""
    return sum(len(body["receipts"]) for body in records(Path(run.path), "inherit"))


@pytest.fixture(params=[False, True], ids=["sums", "codes"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path, keep_codes=request.param)


def test_only_new_files_are_forwarded(folder: Folder, forwarded: Callable[[], int]) -> None:
    for _ in range(3):
        folder.add(LARGE)
    base = folder.run()
    assert forwarded() == 3 * (LARGE - 1)
    folder.add(LARGE)
    more = folder.extended(base)
    assert forwarded() == LARGE - 1
    assert inherited(more) == base.summary["attempts"] > 2
    assert_same(more, folder.full(base))


def test_nothing_new_means_nothing_forwarded(folder: Folder, forwarded: Callable[[], int]) -> None:
    folder.add(LARGE)
    folder.add(LARGE)
    base = folder.run()
    forwarded()
    again = folder.extended(base)
    assert forwarded() == 0
    assert_same(again, base)


def test_a_file_that_is_gone_is_retracted_and_never_read(folder: Folder, forwarded: Callable[[], int]) -> None:
    gone = folder.add(LARGE)
    folder.add(LARGE)
    base = folder.run()
    folder.withdraw(gone)
    forwarded()
    less = folder.extended(base)
    assert forwarded() == 0, "the other file's attempts stand"
    assert_same(less, folder.full(base))


def test_survivors_of_a_shared_unit_come_from_codes_or_are_forwarded(
    tmp_path: Path, forwarded: Callable[[], int]
) -> None:
    for keep_codes in (False, True):
        folder = Folder(tmp_path / str(keep_codes), keep_codes=keep_codes)
        files = [folder.add(SMALL) for _ in range(6)]  # three to a unit
        base = folder.run()
        forwarded()
        folder.withdraw(sorted(files)[1])
        less = folder.extended(base)
        assert forwarded() == (0 if keep_codes else 2 * (SMALL - 1)), "two survivors, the other unit stands"
        assert inherited(less) == 1
        assert_same(less, folder.full(base))


def test_survivors_are_forwarded_for_ace_which_codes_do_not_suffice_for(
    tmp_path: Path, forwarded: Callable[[], int]
) -> None:
    folder = Folder(tmp_path, keep_codes=True)
    files = [folder.add(SMALL) for _ in range(3)]  # one unit
    folder.add(LARGE)
    ace = {"estimator": "ace"}
    base = folder.run(statistics=ace)
    forwarded()
    folder.withdraw(files[0])
    less = folder.extended(base, statistics=ace)
    assert forwarded() == 2 * (SMALL - 1)
    assert_same(less, folder.run(statistics=ace | {"plan": base.path}))


def test_survivors_are_forwarded_where_the_kept_codes_have_rotted(tmp_path: Path, forwarded: Callable[[], int]) -> None:
    folder = Folder(tmp_path, keep_codes=True)
    files = [folder.add(SMALL) for _ in range(6)]
    base = folder.run()
    for codes in Path(base.path).glob("attempts/*/codes.parquet"):
        damaged = bytearray(codes.read_bytes())
        damaged[4:-8] = bytes(len(damaged) - 12)
        codes.write_bytes(damaged)
    folder.withdraw(sorted(files)[1])
    forwarded()
    less = folder.extended(base)
    assert forwarded() == 5 * (SMALL - 1), "no attempt is taken over without its codes"
    assert inherited(less) == 0
    assert_same(less, folder.full(base))


def test_a_file_that_changed_is_a_gone_one_and_a_new_one(folder: Folder, forwarded: Callable[[], int]) -> None:
    changed = folder.add(LARGE)
    folder.add(LARGE)
    base = folder.run()
    table = pq.read_table(changed)
    pq.write_table(table.take(np.arange(len(table))[::-1][:-20]), changed, row_group_size=60)
    forwarded()
    other = folder.extended(base)
    assert forwarded() == LARGE - 20 - 1
    assert_same(other, folder.full(base))


def test_a_file_of_another_date_counts_as_changed(tmp_path: Path, forwarded: Callable[[], int]) -> None:
    folder = Folder(tmp_path)
    touched = folder.add(LARGE)
    base = folder.run()
    os.utime(touched, ns=(1, 1))
    forwarded()
    assert bytes_of(folder.extended(base)) == bytes_of(base)
    assert forwarded() == LARGE - 1


@pytest.mark.parametrize("seed", range(3))
def test_any_chain_of_additions_and_withdrawals_is_a_full_run(
    folder: Folder, forwarded: Callable[[], int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    files = [folder.add(int(rows)) for rows in random.choice([SMALL, LARGE], 5)]
    first = last = folder.run()
    withdrawn: list[tuple[Path, bytes, int]] = []
    for _ in range(4):
        for place in sorted(random.permutation(len(files))[: random.integers(0, 3)], reverse=True):
            file = files.pop(place)
            withdrawn.append((file, file.read_bytes(), file.stat().st_mtime_ns))
            folder.withdraw(file)
        files += [folder.add(int(rows)) for rows in random.choice([SMALL, LARGE], random.integers(0, 3))]
        if withdrawn and random.random() < 0.5:  # what was withdrawn comes back as it was
            file, data, when = withdrawn.pop()
            file.write_bytes(data)
            os.utime(file, ns=(when, when))
            files.append(file)
        if not files:
            files.append(folder.add(LARGE))
        last = folder.extended(last)
    assert_same(last, folder.full(first))
    attempts = [receipt["attempt"] for body in records(Path(last.path), "inherit") for receipt in body["receipts"]]
    assert len(attempts) == len(set(attempts))


@pytest.mark.parametrize("keep", ["copied", "manifest", "inherit"])
def test_interrupted_while_taking_over_and_resumed(folder: Folder, monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    folder.add(LARGE)
    folder.add(SMALL)
    base = folder.run()
    folder.add(LARGE)
    with monkeypatch.context() as patch:
        if keep == "copied":
            patch.setattr(extend, "read_attempt_file", dying_at_the_third(read_attempt_file))
        else:
            patch.setattr(Ledger, "append", dying_after(keep))
        with pytest.raises(RuntimeError, match="died"):
            folder.extended(base)
    interrupted = {"output": str(folder.path / "run-02")}
    more = folder.run(extend=base.path, **interrupted)
    assert len(records(Path(more.path), "open")) == 2
    assert len(records(Path(more.path), "inherit")) == 1
    assert_same(more, folder.full(base))


def dying_at_the_third(call: Callable[..., bytes]) -> Callable[..., bytes]:
    calls: list[int] = []

    def die(*args: Any) -> bytes:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("died")
        return call(*args)

    return die


def dying_after(kind: str) -> Callable[..., None]:
    append = Ledger.append

    def die(self: Ledger, record_kind: str, body: dict[str, Any]) -> None:
        append(self, record_kind, body)
        if record_kind == kind:
            raise RuntimeError("died")

    return die


def test_an_inherited_attempt_that_rots_is_redone(folder: Folder) -> None:
    folder.add(LARGE)
    folder.add(LARGE)
    base = folder.run()
    folder.add(SMALL)
    more = folder.extended(base)
    copy = Path(more.path)
    sorted((copy / "ledger").iterdir())[-1].unlink()  # its done
    block = sorted((copy / "attempts").glob("g*/block-00000.arrow"))[0]
    block.write_bytes(b"garbage")
    folder._runs -= 1
    again = folder.run(extend=base.path)
    assert again.path == more.path and len(records(copy, "retract")) == 1
    assert_same(again, folder.full(base))


def test_an_attempt_of_the_base_that_rots_is_not_taken_over(folder: Folder, forwarded: Callable[[], int]) -> None:
    folder.add(LARGE)
    base = folder.run()
    sound = folder.full(base)
    next(Path(base.path).glob("attempts/*/block-00000.arrow")).write_bytes(b"garbage")
    forwarded()
    more = folder.extended(base)
    assert 0 < forwarded() < LARGE
    assert inherited(more) == base.summary["attempts"] - 1
    assert_same(more, sound)


def other_network() -> PlantedNetwork:
    """The planted network with another weight."""
    network = planted_network()
    with torch.no_grad():
        network.read.weight[0, 0, 0, 0] += 1
    return network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_by": None}, r"extend .*: has group_by label where this job has None"),
        ({"statistics": {"folds": 8}}, r"extend .*: has statistics\.folds 16 where this job has 8"),
        ({"statistics": {"keep_codes": True}}, r"extend .*: has statistics\.keep_codes False where"),
        ({"target": {"logit": 0}}, r"extend .*: has target "),
        ({"compute": {"batch": 7}}, r"extend .*: has compute\.batch auto where this job has 7"),
        ({"stop": {"top": 2}}, r"extend: a run that takes over another has no use for stop"),
        ({"statistics": {"plan": "BASE"}}, r"statistics\.plan: a run that extends another has that run's plan"),
        ({"extend": "NOWHERE"}, r"extend .*nowhere: is not a finished run"),
        (
            {"model": {"factory": "tests.run.test_extend:other_network", "weights": "factory"}},
            r"extend .*: was ranked with other model\.weights",
        ),
    ],
    ids=str,
)
def test_a_base_that_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = Folder(tmp_path)
    folder.add(LARGE)
    base = folder.run()
    changes = {"extend": base.path} | changes
    if "model" in changes:
        changes["model"]["input"] = {"mode": "L"}
    if changes["extend"] == "NOWHERE":
        changes["extend"] = str(tmp_path / "nowhere")
    if changes.get("statistics", {}).get("plan"):
        changes["statistics"] = {"plan": base.path}
    with pytest.raises(UserError, match=message) as refused:
        folder.run(**changes)
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)


def test_the_base_may_be_gone_once_the_work_is_done(tmp_path: Path) -> None:
    """What was taken over was copied: the extended run stands, and can be extended, without its base."""
    folder = Folder(tmp_path)
    folder.add(LARGE)
    base = folder.run()
    folder.add(LARGE)
    more = folder.extended(base)
    expected = folder.full(more)
    shutil.rmtree(base.path)
    assert_same(folder.extended(more), expected)
