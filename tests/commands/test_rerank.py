"""A schedule, tick by tick: nothing new, new data, new weights, a crash in the middle, two at once.

After every tick: its exit code, and a pointer that names a complete run.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from pcace_dist.analysis.history import read_history
from pcace_dist.analysis.thresholds import MaxMoved, Thresholds
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands import schedule
from pcace_dist.commands.hooks import Hooks
from pcace_dist.commands.rerank import Options, _as_begun, rerank
from pcace_dist.config.job import Job, parse_job
from pcace_dist.errors import OutputError, TakenOver
from pcace_dist.ledger.ledger import Record
from pcace_dist.run.rank import run_job
from pcace_dist.storage.files import Storage
from pcace_dist.storage.store import open_store
from tests.planted import planted_network, write_planted
from tests.reporting.opened import OpenedReport
from tests.run.test_main_job import wait_until

ROOT = Path(__file__).resolve().parents[2]
ROWS = 800


def write_weights(folder: Path, *, without: int | None = None) -> None:
    """The planted network's weights; one channel may read nothing of the images but another's block."""
    network = planted_network()
    if without is not None:
        with torch.no_grad():
            network.read.weight[without] = network.read.weight[(without + 4) % 8]
    save_file(network.state_dict(), str(folder / "weights.safetensors"))


def job_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(folder / "data")},
        "model": {
            "factory": "tests.planted:planted_network",
            "weights": str(folder / "weights.safetensors"),
            "input": {"mode": "L"},
        },
        "layers": "all",
        "target": {"column": "exponential"},
        "statistics": {"components": 1, "pilot": 512},
        "workers": {"max": 1},
        "output": str(folder / "weekly"),
    } | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "data", ROWS, shards=2)
    write_weights(tmp_path)
    return tmp_path


def parsed(folder: Path) -> Job:
    return parse_job(job_of(folder))


def pointer(folder: Path) -> str:
    """The run that latest.json names; it must be complete."""
    name = str(json.loads((folder / "weekly" / "latest.json").read_text())["run"])
    summary = json.loads((folder / "weekly" / name / "summary.json").read_text())
    assert summary["outcome"] == "done"
    return name


def runs(folder: Path) -> list[str]:
    return sorted(f"runs/{path.name}" for path in (folder / "weekly" / "runs").iterdir() if any(path.iterdir()))


def add_shard(folder: Path, name: str, seed: int) -> None:
    write_planted(folder / "more", 200, seed=seed, shards=1)
    os.rename(folder / "more" / "part-00000.parquet", folder / "data" / name)


def test_five_ticks(without_ray: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = Options(thresholds=Thresholds(max_moved=MaxMoved.parse("0")))

    first = rerank(parsed(folder), strict)
    assert (first.exit_code, first.comparison) == (0, None)
    one = pointer(folder)
    assert runs(folder) == [one]

    with monkeypatch.context() as patched:  # 1: nothing new
        patched.setattr("pcace_dist.commands.rerank.run_job", lambda job: pytest.fail("a run was started"))
        nothing = rerank(parsed(folder), strict)
    assert (nothing.exit_code, nothing.entry, pointer(folder)) == (0, None, one)

    add_shard(folder, "part-00009.parquet", seed=5)  # 2: new data
    grown = rerank(parsed(folder), strict)
    two = pointer(folder)
    assert grown.exit_code == 0 and grown.entry is not None and grown.comparison is not None
    assert (grown.entry.why, grown.entry.previous, grown.entry.verdict) == ("other data", one, "same")
    assert two != one and open_run(str(folder / "weekly")).summary["images"] == ROWS + 200
    kinds = [json.loads(path.read_text())["kind"] for path in records(folder / "weekly" / two)]
    assert "inherit" in kinds, "only the new file was computed"

    write_weights(folder, without=0)  # 3: new weights, and channel 0 is another one
    changed = rerank(parsed(folder), strict)
    three = pointer(folder)
    assert changed.exit_code == 3 and changed.entry is not None and changed.comparison is not None
    assert (changed.entry.why, changed.entry.verdict) == ("new weights", "moved")
    assert [(row["channel"], row["movement"]) for row in changed.comparison.moved()] == [(0, "fell")]
    assert (folder / "weekly" / three / "comparison.json").exists()

    write_weights(folder)  # 4: a crash in the middle of the run, then the same command again
    add_shard(folder, "part-00010.parquet", seed=6)
    crashed = start(folder)
    wait_until(lambda: any(len(records(path)) >= 2 for path in unfinished(folder)))
    kill(crashed)
    assert pointer(folder) == three
    left = [f"runs/{path.name}" for path in unfinished(folder)]
    again = rerank(parsed(folder), strict)
    four = pointer(folder)
    assert again.exit_code == 3 and again.entry is not None, "channel 0 is back"
    assert [four] == left, "the unfinished run was gone on with"
    assert [json.loads(path.read_text())["kind"] for path in records(folder / "weekly" / four)].count("open") == 2

    add_shard(folder, "part-00011.parquet", seed=7)  # 5: two at once
    codes = sorted(tick.wait(timeout=300) for tick in [start(folder), start(folder)])
    five = pointer(folder)
    assert codes in ([0, 0], [0, 5]), "one works; the other finds it at work, or finds nothing new"
    assert five not in (one, two, three, four)
    history = read_history(str(folder / "weekly"))
    assert [entry.run for entry in history.entries] == [one, two, three, four, five]
    assert [entry.exit_code for entry in history.entries] == [0, 0, 3, 3, 0]
    assert history.latest == five and history.kept == {one, two, three, four, five}


def start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "job.json").write_text(json.dumps(job_of(folder)))
    command = [sys.executable, "-m", "pcace_dist", "rerank", str(folder / "job.json")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a driver with its whole Ray."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    for member in family:
        if member.is_running():
            member.kill()


def records(run: Path) -> list[Path]:
    return sorted((run / "ledger").glob("*.json"))


def unfinished(folder: Path) -> list[Path]:
    found = (folder / "weekly" / "runs").iterdir()
    return [run for run in found if not any('"kind":"done"' in path.read_text() for path in records(run))]


@pytest.mark.jobs
def test_nothing_new_needs_no_ray(local_ray: None, folder: Path) -> None:
    assert rerank(parsed(folder)).exit_code == 0
    (folder / "job.json").write_text(json.dumps(job_of(folder)))
    code = (
        "import sys\n"
        "sys.modules['ray'] = None\n"
        "from pcace_dist.cli.main import main\n"
        f"sys.exit(main(['rerank', {str(folder / 'job.json')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing new" in done.stdout


@pytest.mark.jobs
def test_a_tick_that_died_before_the_pointer_moved_is_taken_up(
    local_ray: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(schedule.ScheduleLock, "publish", die)
        with pytest.raises(KeyboardInterrupt):
            rerank(parsed(folder))
    assert not (folder / "weekly" / "latest.json").exists()
    assert rerank(parsed(folder)).exit_code == 0
    assert pointer(folder) == runs(folder)[0]
    assert len(read_history(str(folder / "weekly")).entries) == 1


@pytest.mark.jobs
def test_a_tick_while_another_is_at_work_does_nothing(
    local_ray: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(folder / "weekly"))
    (folder / "job.json").write_text(json.dumps(job_of(folder)))
    with schedule.lock(store, Storage({})):
        assert main(["rerank", str(folder / "job.json")]) == 5
    assert "another tick is at work (process" in capsys.readouterr().err
    assert not (folder / "weekly" / "runs").exists()


@pytest.mark.jobs
def test_only_the_holder_moves_the_pointer_and_only_from_what_it_saw(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with schedule.lock(store, Storage({})) as tick:
        seen = tick.latest()
        tick.publish({"run": "runs/a"}, seen)
        with pytest.raises(TakenOver, match="moved by another tick"):
            tick.publish({"run": "runs/b"}, seen)
        with schedule.lock(store, Storage({}), take_over=True) as other:
            other.publish({"run": "runs/c"}, other.latest())
            with pytest.raises(TakenOver):
                tick.publish({"run": "runs/d"}, tick.latest())
    assert schedule.Schedule(store).latest()["run"] == "runs/c"


@pytest.mark.jobs
def test_the_last_runs_are_kept_and_older_and_abandoned_ones_go(local_ray: None, folder: Path) -> None:
    options = Options(keep=2)
    names = []
    store = open_store(str(folder / "weekly"))
    for seed in range(3):
        add_shard(folder, f"part-1000{seed}.parquet", seed=20 + seed)
        rerank(parsed(folder), options)
        names.append(pointer(folder))
        with schedule.lock(store, Storage({})) as tick:
            tick.begin(f"2020-01-0{seed + 1}-abandoned")
        store.put(f"runs/2020-01-0{seed + 1}-abandoned/ledger/00000001.json", b"{}")
    assert set(runs(folder)) == {*names[1:], "runs/2020-01-03-abandoned"}
    assert [entry.run for entry in read_history(str(folder / "weekly")).entries] == names


# -- what a schedule removes


def removed(folder: Path, name: str) -> bool:
    with schedule.lock(open_store(str(folder)), Storage({})) as tick:
        return tick.remove(name)


def written_run(folder: Path, name: str, weights: str = "w") -> Path:
    """Some files of a run below runs/, as version 0.1.0 left them: without a mark."""
    run = folder / "runs" / name
    (run / "ledger").mkdir(parents=True)
    bodies: dict[str, dict[str, Any]] = {"open": {"holder": {}}, "manifest": {"weights": weights}}
    for n, (kind, body) in enumerate(bodies.items(), start=1):
        record = Record(n, kind, 1, "nonce", 0.0, body)
        (run / record.key).write_bytes(record.to_bytes())
    (run / "attempts" / "e00001-a0001-f00001").mkdir(parents=True)
    (run / "attempts" / "e00001-a0001-f00001" / "block-00000.arrow").write_bytes(b"")
    (run / "rankings.parquet").write_bytes(b"")
    return run


def write_entry(folder: Path, name: str, weights: str = "w") -> None:
    entry = dict.fromkeys(schedule.POINTER, 1) | {"run": f"runs/{name}", "weights": weights}
    (folder / "history").mkdir(exist_ok=True)
    number = len(list((folder / "history").iterdir())) + 1
    (folder / "history" / f"{number:08d}.json").write_text(json.dumps(entry))


def test_folders_that_the_schedule_has_not_made_are_left_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precious = written_run(tmp_path, "precious")
    notes = tmp_path / "runs" / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("all of it")
    for name in ("precious", "notes"):
        assert not removed(tmp_path, name)
        assert f"runs/{name}/ is left: nothing shows that this schedule has made it" in caplog.text
    assert (precious / "rankings.parquet").exists() and (notes / "thesis.txt").exists()


def test_a_folder_that_was_there_before_is_not_marked(tmp_path: Path) -> None:
    written_run(tmp_path, "2026-01-01-key")
    with schedule.lock(open_store(str(tmp_path)), Storage({})) as tick:
        tick.begin("2026-01-01-key")
        assert not tick.owns("2026-01-01-key")
        tick.begin("2026-01-02-key")
        assert tick.owns("2026-01-02-key")


def test_a_run_of_0_1_0_goes_if_the_history_names_it_with_its_weights(tmp_path: Path) -> None:
    for name, recorded in (("mine", "w"), ("replaced", "another's")):
        written_run(tmp_path, name)
        write_entry(tmp_path, name, recorded)
    written_run(tmp_path, "never-published")
    assert [removed(tmp_path, name) for name in ("mine", "replaced", "never-published")] == [True, False, False]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["never-published", "replaced"]


def test_files_that_no_run_has_written_stay_in_a_folder_that_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with schedule.lock(open_store(str(tmp_path)), Storage({})) as tick:
        tick.begin("old")
    run = written_run(tmp_path, "old")
    (run / "notes.txt").write_text("mine")
    (run / "select" / "codes" / "ledger").mkdir(parents=True)
    for made in ("select.json", "select.parquet", "select/codes/job.yaml", "select/codes/ledger/00000001.json"):
        (run / made).write_bytes(b"")
    assert not removed(tmp_path, "old")
    assert [path.name for path in run.rglob("*") if path.is_file()] == ["notes.txt"]
    assert "runs/old/notes.txt: left, for no run has written it" in caplog.text
    (run / "notes.txt").unlink()
    assert removed(tmp_path, "old") and not (tmp_path / "schedule" / "runs" / "old.json").exists()


def test_a_finished_run_whose_ranking_is_gone_is_not_taken_for_an_unfinished_one(tmp_path: Path) -> None:
    begun, wanted = (parse_job(job_of(tmp_path, extend=base)) for base in ("runs/one", "runs/two"))
    with schedule.lock(open_store(str(tmp_path)), Storage({})) as tick:
        tick.begin("key")
        run = written_run(tmp_path, "key")
        (run / "job.yaml").write_text(begun.to_yaml())
        (run / "rankings.parquet").unlink()
        done = Record(3, "done", 1, "nonce", 0.0, {"exit_code": 0})
        (run / done.key).write_bytes(done.to_bytes())
        assert _as_begun(tick, "key", wanted) == begun and (run / done.key).exists()
        (run / done.key).unlink()
        assert _as_begun(tick, "key", wanted) == wanted and not run.exists()


def test_a_damaged_pointer_is_that_of_the_last_entry(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("one", "two"):
        write_entry(tmp_path, name)
    for content in (b"", b"[[[[", b"null", b'{"run": 3}', b"\xff"):
        store.put("latest.json", content)
        found = schedule.Schedule(store).latest()
        assert (found["run"], found.damaged) == ("runs/two", True)
    (tmp_path / "history" / "00000002.json").write_bytes(b"1e400")
    with pytest.raises(OutputError, match=r"history/00000002\.json: cannot be read"):
        schedule.Schedule(store).latest()


@pytest.mark.jobs
def test_data_that_go_back_bring_back_the_run_that_knew_them(local_ray: None, folder: Path) -> None:
    rerank(parsed(folder))
    one = pointer(folder)
    add_shard(folder, "part-00030.parquet", seed=30)
    rerank(parsed(folder))
    assert pointer(folder) != one
    (folder / "data" / "part-00030.parquet").unlink()
    back = rerank(parsed(folder))
    assert (back.exit_code, pointer(folder), len(runs(folder))) == (0, one, 2)
    assert [entry.run for entry in read_history(str(folder / "weekly")).entries][::2] == [one, one]


@pytest.mark.jobs
def test_hooks_are_told_of_drift_and_may_fail(
    local_ray: None, folder: Path, webhook: tuple[str, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, received = webhook
    told = folder / "told.json"
    strict = Thresholds(max_moved=MaxMoved.parse("0"))
    rerank(parsed(folder), Options(thresholds=strict, hooks=Hooks(f"cat > {told}", address)))
    assert not told.exists() and not received, "the first run is no drift"
    write_weights(folder, without=1)
    done = rerank(
        parsed(folder), Options(thresholds=strict, hooks=Hooks(f'cat > {told}; test -f "$PCACE_COMPARISON"', address))
    )
    assert done.exit_code == 3
    assert json.loads(told.read_text())["moved"] == 1
    assert json.loads(received[0])["drift"] == ["1 of 8 channels moved, more than --max-moved 0"]
    assert capsys.readouterr().err.count("--hook") == 0
    write_weights(folder)
    done = rerank(parsed(folder), Options(thresholds=strict, hooks=Hooks("exit 9")))
    assert done.exit_code == 3 and pointer(folder) == done.entry.run  # type: ignore[union-attr]
    assert "--hook: ended with exit code 9; the run is published all the same" in capsys.readouterr().err


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server on this machine, and what was posted to it."""
    received: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/drift", received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.jobs
def test_a_schedule_wants_an_output_of_its_own(local_ray: None, folder: Path) -> None:
    assert run_job(parsed(folder)) == 0
    with pytest.raises(OutputError, match="holds a run of `pcace rank`"):
        rerank(parsed(folder))


@pytest.mark.jobs
def test_a_tick_of_which_no_channel_is_ranked_can_be_followed(without_ray: None, folder: Path) -> None:
    dataset = {"path": str(folder / "data"), "filter": {"label": 1}}
    flat = parse_job(job_of(folder, target={"column": "label"}, dataset=dataset))
    assert rerank(flat).exit_code == 4
    add_shard(folder, "part-00020.parquet", seed=9)
    assert rerank(flat).exit_code == 4
    assert [entry.kendall for entry in read_history(str(folder / "weekly")).entries] == [None, None]


@pytest.mark.jobs
def test_history_shows_every_published_run(without_ray: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(folder / "weekly")]) == 2
    rerank(parsed(folder))
    add_shard(folder, "part-00020.parquet", seed=9)
    rerank(parsed(folder), Options(report=True))
    report = OpenedReport(folder / "weekly" / pointer(folder) / "report.html").data
    assert [run["why"] for run in report["history"]["runs"]] == ["first run", "other data"]
    assert report["against"] == str(folder / "weekly" / report["history"]["runs"][0]["run"])
    assert main(["history", str(folder / "weekly")]) == 0
    printed = capsys.readouterr().out
    assert "first run" in printed and "other data" in printed and "same" in printed
