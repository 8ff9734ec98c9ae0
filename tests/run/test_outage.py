"""Whole runs, in this process, whose storage goes away: the same bytes, or exit code 5 and then the same bytes."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pcace_dist.config.job import parse_job
from pcace_dist.errors import Stopped, StoreUnavailable, UserError
from pcace_dist.ledger.ledger import Ledger, RunState
from pcace_dist.run.rank import run_job
from pcace_dist.storage import files as storage
from pcace_dist.storage import retry as patience
from pcace_dist.storage import store as stores
from pcace_dist.storage.files import StoredFile
from pcace_dist.storage.store import LocalStore
from tests.planted import write_planted
from tests.run.test_main_job import planted_job

ROWS = 600
STATISTICS = {"components": 1, "pilot": 100}  # the pilot leaves the main pass something to read
FAILURES = [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE]

pytestmark = pytest.mark.usefixtures("in_process", "quick_pauses")


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "STOPPING_SECONDS", 0.2)
    monkeypatch.setenv("PCACE_STORAGE_PATIENCE", "60")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    write_planted(folder, ROWS, row_group=50)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, in_process: None) -> bytes:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert go(data, output) == 0
    return rankings(output)


def go(data: Path, output: Path, **more: Any) -> int:
    return run_job(parse_job(planted_job(data, output, statistics=STATISTICS)), **more)


def rankings(output: Path) -> bytes:
    return (output / "rankings.parquet").read_bytes()


def bad_rows(output: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(output / "bad_rows.parquet").to_pylist())


def state_of(output: Path) -> RunState:
    return Ledger(LocalStore(output)).load()


class Away:
    """Fails operations `since` one, so many times."""

    def __init__(self, error: Callable[[], Exception], since: int, times: int) -> None:
        self.error, self.since, self.times = error, since, times
        self.seen = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.seen += 1
            if self.since < self.seen <= self.since + self.times:
                raise self.error()


def failing_reads(patch: pytest.MonkeyPatch, away: Away) -> None:
    real = storage._read_local

    def read(path: str, file: StoredFile, start: int, length: int) -> bytes:
        if path.endswith(".parquet"):
            away()
        return real(path, file, start, length)

    patch.setattr(storage, "_read_local", read)


def failing_writes(patch: pytest.MonkeyPatch, away: Away) -> None:
    real = stores._open_in_folder

    def open_in_folder(path: Path, mode: Any) -> Any:
        away()
        return real(path, mode)

    patch.setattr(stores, "_open_in_folder", open_in_folder)


def oserror(number: int) -> Callable[[], Exception]:
    return lambda: OSError(number, os.strerror(number))


@pytest.mark.parametrize("error", [*map(oserror, FAILURES), MemoryError], ids=[*map(os.strerror, FAILURES), "memory"])
def test_data_that_are_away_for_a_while_cost_no_row(
    data: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    away = Away(error, since=12, times=40)
    failing_reads(monkeypatch, away)
    assert go(data, tmp_path / "run") == 0
    assert away.seen > 52 and bad_rows(tmp_path / "run") == []
    assert rankings(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("since", [4, 12, 16])
def test_data_that_stay_away_end_the_run_with_5_and_the_same_command_goes_on(
    data: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    monkeypatch.setenv("PCACE_STORAGE_PATIENCE", "0.3")
    with monkeypatch.context() as patch:
        failing_reads(patch, Away(oserror(errno.EIO), since, times=10**9))
        with pytest.raises(StoreUnavailable, match=r"input/output error.*; the same command goes on") as caught:
            go(data, tmp_path / "run")
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    state = state_of(tmp_path / "run")
    assert not state.set_aside and all(c.bad == 0 for r in state.accepted_receipts() for c in r.units.values())
    assert go(data, tmp_path / "run") == 0
    assert rankings(tmp_path / "run") == undisturbed and bad_rows(tmp_path / "run") == []


@pytest.mark.parametrize("since", [2, 9, 16, 23, 30, 37])
def test_an_output_that_is_away_at_any_moment_loses_nothing(
    data: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    with monkeypatch.context() as patch:
        failing_writes(patch, Away(oserror(errno.ENOSPC), since, times=8))
        assert go(data, tmp_path / "waited") == 0
    assert rankings(tmp_path / "waited") == undisturbed
    monkeypatch.setenv("PCACE_STORAGE_PATIENCE", "0.2")
    with monkeypatch.context() as patch:
        failing_writes(patch, Away(oserror(errno.ENOSPC), since, times=10**9))
        try:
            go(data, tmp_path / "ended")
        except StoreUnavailable as error:
            assert error.exit_code == 5 and "no space left on device, free some space" in str(error)
    assert go(data, tmp_path / "ended", take_over=True) == 0, "its lease could not be released"
    assert rankings(tmp_path / "ended") == undisturbed


def test_a_stop_ends_the_wait_and_the_run(
    data: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        away = Away(oserror(errno.EIO), since=14, times=10**9)
        failing_reads(patch, away)
        timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises((Stopped, StoreUnavailable)) as caught:
            go(data, tmp_path / "run")
        timer.join()
    assert caught.value.exit_code == 5 and away.seen > 14
    assert go(data, tmp_path / "run") == 0
    assert rankings(tmp_path / "run") == undisturbed


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Path]:
    """The same data with one row group that cannot be read, as 0.1.0 saw data whose storage was away."""
    write_planted(tmp_path / "data", ROWS, row_group=50)
    yield tmp_path / "data"


def damage(path: Path, group: int) -> Callable[[], None]:
    """Flip bytes of a row group; what is returned mends it. Size and time stay."""
    whole, stamp = path.read_bytes(), path.stat()
    chunk = pq.read_metadata(path).row_group(group).column(0)
    at = chunk.data_page_offset
    broken = whole[:at] + bytes(200) + whole[at + 200 :]

    def write(content: bytes) -> None:
        path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    write(broken)
    return lambda: write(whole)


def test_rows_set_aside_as_unreadable_are_read_again_when_asked_for(damaged: Path, tmp_path: Path) -> None:
    first = sorted(damaged.iterdir())[1]
    assert go(damaged, tmp_path / "whole") == 0
    mend = damage(first, 2)
    job = planted_job(damaged, tmp_path / "run", statistics=STATISTICS, max_bad_rows=0.5)
    assert run_job(parse_job(job)) == 0
    assert [(row["file"], row["row_group"], row["stage"]) for row in bad_rows(tmp_path / "run")] == [
        (first.name, 2, "read")
    ]
    before = state_of(tmp_path / "run")
    mend()
    assert run_job(parse_job(job)) == 0 and state_of(tmp_path / "run") == before, "nobody asked"
    assert run_job(parse_job(job), retry_bad="read") == 0
    after = state_of(tmp_path / "run")
    assert bad_rows(tmp_path / "run") == [] and after.done is not None and after.epoch == before.epoch + 1
    in_both = {r.attempt for r in before.accepted_receipts()} & {r.attempt for r in after.accepted_receipts()}
    images = sum(c.rows for r in after.accepted_receipts() for c in r.units.values())
    assert images == ROWS and len(in_both) < len(before.accepted_receipts())
    assert run_job(parse_job(job), retry_bad="read") == 0 and state_of(tmp_path / "run") == after, "nothing is left"


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("dataset.path", "s3://AKID:HUNTER2@bucket/data"),
        ("output", "s3://AKID:HUNTER2@bucket/run"),
        ("model.weights", "s3://AKID:HUNTER2@bucket/w.pt"),
    ],
)
def test_credentials_in_a_jobs_url_are_refused_and_not_printed(data: Path, tmp_path: Path, key: str, url: str) -> None:
    job = planted_job(data, tmp_path / "run", statistics=STATISTICS)
    *sections, last = key.split(".")
    node = job
    for section in sections:
        node = node[section]
    node[last] = url
    with pytest.raises(UserError, match="holds credentials") as caught:
        run_job(parse_job(job))
    assert "HUNTER2" not in str(caught.value) and not (tmp_path / "run").exists()
