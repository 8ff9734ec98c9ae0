"""The main job end to end on a local Ray: exactness, resumption, planted truth, bad rows, what comes out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.api import rank
from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.errors import JobError, OutputError, UserError
from pcace_dist.run.bottleneck import IN_REDUCE, ON_WORKER
from pcace_dist.run.rank import run_job
from tests.planted import RHO, planted_network, write_planted

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "examples" / "mnist"

COLUMNS = [
    "target",
    "group",
    "layer",
    "channel",
    "images",
    "rank",
    "layer_rank",
    "rank_low",
    "rank_high",
    "rank_low_given_plan",
    "rank_high_given_plan",
    "score",
    "score_squared",
    "score_low",
    "score_high",
    "score_low_given_plan",
    "score_high_given_plan",
    "score_in_sample",
    "score_first_component",
    "pearson",
    "mean_activation",
    "activation_variance",
    "weight_norm",
    "clamped",
    "support",
    "effect",
    "effect_low",
    "effect_high",
    "effect_sd",
    "effect_rank",
    "effect_rank_low",
    "effect_rank_high",
    "effect_status",
    "status",
]


def mnist_job(output: Path, **changes: Any) -> dict[str, Any]:
    """The embedded example with a small pilot; batch 48 leaves a last batch that is not full in every unit."""
    return {
        "dataset": {"path": str(MNIST / "data"), "label": "label"},
        "model": {
            "factory": "examples.mnist.model:mnist_cnn",
            "weights": str(MNIST / "weights.safetensors"),
            "input": {"mode": "L", "mean": [0.1307], "std": [0.3081]},
        },
        "layers": "all",
        "target": {"logit": "label"},
        "group_by": "label",
        "statistics": {"pilot": 512},
        "compute": {"batch": 48},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


def planted_job(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(data), "label": "label"},
        "model": {"factory": "tests.planted:planted_network", "weights": "factory", "input": {"mode": "L"}},
        "layers": "all",
        "target": [{"column": "exponential"}, {"column": "square"}],
        "statistics": {"components": 1, "pilot": 1024},
        "workers": {"max": 2},
        "output": str(output),
    } | changes


@pytest.fixture(scope="module")
def mnist_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mnist") / "run"
    assert run_job(parse_job(mnist_job(output))) == 0
    return output


@pytest.fixture(scope="module")
def planted_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    write_planted(folder / "data", 4000)
    assert run_job(parse_job(planted_job(folder / "data", folder / "run"))) == 0
    return folder / "run"


def test_the_output_has_exactly_the_promised_files_and_columns(mnist_run: Path) -> None:
    assert {p.name for p in mnist_run.iterdir()} >= {
        "job.yaml",
        "plan",
        "ledger",
        "attempts",
        "rankings.parquet",
        "jackknife.parquet",
        "bad_rows.parquet",
        "summary.json",
    }
    table = pq.read_table(mnist_run / "rankings.parquet")
    assert table.column_names == COLUMNS
    assert table.schema.field("group").type == pa.int64()
    assert table.schema.field("rank").type == pa.int32()
    keys = table.select(["group", "layer", "channel"]).to_pylist()
    assert keys == sorted(keys, key=lambda k: (k["group"], k["layer"], k["channel"]))
    assert pq.read_table(mnist_run / "bad_rows.parquet").column_names == [
        "file",
        "row_group",
        "row",
        "id",
        "stage",
        "reason",
    ]


def test_every_group_ranks_every_channel_once(mnist_run: Path) -> None:
    frame = pq.read_table(mnist_run / "rankings.parquet").to_pandas()
    channels = len(frame[frame.group == 0])
    assert channels >= 24
    for _, rows in frame.groupby("group"):
        ranked = rows[rows.status == "ok"]
        assert sorted(ranked["rank"]) == list(range(1, len(ranked) + 1))
        assert (ranked.rank_low <= ranked["rank"]).all() and (ranked["rank"] <= ranked.rank_high).all()
        assert ranked.score.between(0, 1).all()
        assert (ranked.score_low <= ranked.score).all() and (ranked.score <= ranked.score_high).all()
        best = ranked.sort_values("rank").score_squared.to_numpy()
        assert (np.diff(best) <= 0).all()


def test_the_pseudo_values_are_published_row_by_row_of_the_ranking(mnist_run: Path) -> None:
    run = open_run(str(mnist_run))
    ranking, jackknife = run.ranking(), run.jackknife()
    keys = ["target", "group", "layer", "channel"]
    assert jackknife.select(keys).equals(ranking.select(keys))
    assert run.summary["data"]
    for row, pseudo in zip(ranking.to_pylist(), jackknife["pseudo_values"].to_pylist(), strict=True):
        assert (pseudo is None) == (row["status"] != "ok")
        if pseudo is not None:
            assert len(pseudo) == 16
            assert np.isclose(np.mean(pseudo), row["score_squared"])


def test_the_summary_counts_every_image_once(mnist_run: Path) -> None:
    summary = json.loads((mnist_run / "summary.json").read_text())
    rows = sum(pq.read_metadata(p).num_rows for p in (MNIST / "data").glob("*.parquet"))
    assert (summary["outcome"], summary["exit_code"]) == ("done", 0)
    assert (summary["images"], summary["bad_rows"]) == (rows, 0)
    assert rows >= 4000
    for key in (
        "format_version",
        "fingerprint",
        "units",
        "attempts",
        "workers",
        "seconds",
        "images_per_second",
        "stages",
        "precision",
        "decode",
        "batch",
        "numeric_classes",
        "versions",
    ):
        assert summary[key] is not None


def test_the_summary_says_where_the_time_went(mnist_run: Path) -> None:
    summary = json.loads((mnist_run / "summary.json").read_text())
    stages, workers = summary["stages"], summary["worker_stages"]
    assert {"prepare", "ray", "start", "pilot", "main_pass", "reduce", "rank", "publish"} <= set(stages)
    assert {"read", "decode", *ON_WORKER, *IN_REDUCE} == set(workers)
    assert all(value >= 0 for value in [*stages.values(), *workers.values()])
    assert workers["forward"] > 0 and workers["decode"] > 0 and workers["flush"] > 0 and workers["solve"] > 0
    # a worker is always in one stage: together they are its time, and that is no more than the pass took
    assert abs(sum(workers[stage] for stage in ON_WORKER) - summary["worker_seconds"]) < 0.01
    assert summary["worker_seconds"] <= summary["workers"] * stages["main_pass"] + 0.01
    assert workers["sums"] + workers["solve"] <= summary["workers"] * stages["reduce"] + 0.01
    assert abs(sum(summary["shares"].values()) - 1) < 0.01
    assert summary["bottleneck"]["stage"] in summary["shares"] | {"read": 0, "decode": 0}
    assert len(summary["bottleneck"]["advice"]) > 5


def test_one_worker_gives_the_same_rankings_as_two(mnist_run: Path, tmp_path: Path) -> None:
    assert run_job(parse_job(mnist_job(tmp_path / "run", workers={"max": 1}))) == 0
    assert pq.read_table(tmp_path / "run/rankings.parquet").equals(pq.read_table(mnist_run / "rankings.parquet"))


def test_a_finished_run_gives_its_code_at_once_and_writes_nothing(mnist_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in mnist_run.rglob("*")}
    assert run_job(parse_job(mnist_job(mnist_run))) == 0
    assert {p: p.stat().st_mtime_ns for p in mnist_run.rglob("*")} == before


def test_an_output_that_holds_another_job_is_refused(mnist_run: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds another job \(it differs in statistics.knots\)"):
        run_job(parse_job(mnist_job(mnist_run, statistics={"pilot": 512, "knots": 17})))
    (tmp_path / "letter.txt").write_text("not a run")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        run_job(parse_job(mnist_job(tmp_path)))


@pytest.mark.jobs
def test_killed_at_any_moment_and_resumed_gives_the_same_rankings(mnist_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = tmp_path / "job.json"
    job.write_text(json.dumps(mnist_job(output)))
    command = [sys.executable, "-m", "pcace_dist", "rank", str(job)]
    for ledger_records in (1, 2):
        before = records(output)
        kill_when(command, lambda wanted=before + ledger_records: records(output) >= wanted)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(output / "rankings.parquet").equals(pq.read_table(mnist_run / "rankings.parquet"))
    kinds = [json.loads(p.read_text())["kind"] for p in sorted((output / "ledger").iterdir())]
    assert kinds.count("open") == 3
    assert kinds.count("manifest") == 1


def records(output: Path) -> int:
    return len(list((output / "ledger").glob("*.json"))) if (output / "ledger").exists() else 0


def kill_when(command: list[str], reached: Any) -> None:
    """Start a driver and SIGKILL it, with its whole Ray, as soon as a condition holds."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, f"the driver ended by itself, with {process.returncode}"
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for member in family:
        if member.is_running():
            member.kill()


def test_planted_channels_come_first_and_scores_match_the_known_maximal_correlations(planted_run: Path) -> None:
    table = pq.read_table(planted_run / "rankings.parquet").to_pandas()
    monotone = table[table.target == "column:exponential"]
    assert list(monotone.sort_values("rank").channel[:4]) == [0, 1, 2, 3]
    for row, rho in zip(monotone.itertuples(), RHO, strict=True):
        assert row.score_low - 0.01 <= abs(rho) <= row.score_high + 0.01
    square = table[table.target == "column:square"]
    assert list(square.sort_values("rank").channel[:3]) == [0, 1, 2]
    for row, rho in zip(square.itertuples(), RHO, strict=True):
        assert row.score_low - 0.03 <= rho**2 <= row.score_high + 0.03
    assert abs(square.pearson.iloc[0]) < 0.1  # a straight line sees nothing of the square


def test_bad_rows_are_listed_and_the_rest_counts(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 1200, shards=1)
    path = tmp_path / "data" / "part-00000.parquet"
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[900], images[950], images[1000] = None, b"not an image", images[1000][:60]
    values = table["exponential"].to_pylist()
    values[1100] = float("nan")
    values[1101] = None
    table = table.set_column(0, "image", pa.array(images, pa.binary()))
    table = table.set_column(1, "exponential", pa.array(values, pa.float64()))
    pq.write_table(table, path, row_group_size=200)
    run = rank(planted_job(tmp_path / "data", tmp_path / "run"))
    bad = run.bad_rows().to_pylist()
    assert [(b["file"], b["row_group"], b["row"], b["stage"]) for b in bad] == [
        ("part-00000.parquet", 4, 900, "decode"),
        ("part-00000.parquet", 4, 950, "decode"),
        ("part-00000.parquet", 5, 1000, "decode"),
        ("part-00000.parquet", 5, 1100, "target"),
        ("part-00000.parquet", 5, 1101, "target"),
    ]
    assert bad[0]["id"] == "part-00000.parquet#900"
    assert all(b["reason"] for b in bad)
    assert (run.summary["images"], run.summary["bad_rows"], run.summary["exit_code"]) == (1195, 5, 0)
    strict = rank(planted_job(tmp_path / "data", tmp_path / "strict", max_bad_rows=0.001))
    assert (strict.summary["outcome"], strict.summary["exit_code"]) == ("too_many_bad_rows", 4)


def test_infinite_activations_are_bad_rows_of_the_stage_model(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 600, shards=1)
    job = planted_job(tmp_path / "data", tmp_path / "run", max_bad_rows=1)
    job["model"] = job["model"] | {"factory": "tests.run.test_main_job:network_that_overflows"}
    run = rank(job)
    bad = run.bad_rows().to_pylist()
    assert bad and {b["stage"] for b in bad} == {"model"}
    assert {b["reason"] for b in bad} == {"an activation is NaN or infinite"}
    assert run.summary["images"] == 600 - len(bad)


def network_that_overflows() -> Any:
    """A planted network that divides by zero on dark images."""
    network = planted_network()

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        return output / (inputs[0].mean((1, 2, 3), keepdim=True) > 0.42)

    network.read.register_forward_hook(hook)
    return network


def test_the_pilot_names_labels_beyond_the_outputs(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 300, shards=1)
    path = tmp_path / "data" / "part-00000.parquet"
    table = pq.read_table(path)
    labels = table["label"].to_pylist()
    labels[0] = 7
    pq.write_table(table.set_column(3, "label", pa.array(labels)), path)
    with pytest.raises(UserError, match="label 7 is beyond the model's 2 outputs"):
        run_job(parse_job(planted_job(tmp_path / "data", tmp_path / "run", target={"logit": "label"})))


@pytest.mark.jobs
def test_a_stopped_run_is_flushed_and_goes_on(mnist_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = tmp_path / "job.json"
    job.write_text(json.dumps(mnist_job(output)))
    command = [sys.executable, "-m", "pcace_dist", "rank", str(job)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while records(output) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 5, errors
    stopped = json.loads((output / "summary.json").read_text())
    assert (stopped["outcome"], stopped["exit_code"]) == ("stopped", 5)
    kinds = [json.loads(p.read_text())["kind"] for p in sorted((output / "ledger").iterdir())]
    assert kinds[:2] == ["open", "manifest"]
    assert (stopped["images"] > 0) == ("accept" in kinds)
    assert run_job(parse_job(mnist_job(output))) == 0
    assert pq.read_table(output / "rankings.parquet").equals(pq.read_table(mnist_run / "rankings.parquet"))


def test_a_lost_attempt_is_retracted_and_redone(mnist_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(mnist_run, output)
    last = sorted((output / "ledger").iterdir())[-1]
    assert json.loads(last.read_text())["kind"] == "done"
    last.unlink()
    attempt = next((output / "attempts").iterdir())
    (output / "attempts" / "e00001-zombie-f00009").mkdir()
    (output / "attempts" / "e00001-zombie-f00009" / "rows.arrow").write_bytes(b"written by a worker that was given up")
    block = attempt / "block-00000.arrow"
    block.write_bytes(block.read_bytes()[:-7] + b"garbage")
    assert run_job(parse_job(mnist_job(output))) == 0
    assert pq.read_table(output / "rankings.parquet").equals(pq.read_table(mnist_run / "rankings.parquet"))
    assert not any((output / "attempts").glob("*zombie*/*")), "garbage is removed after done"
    assert "retract" in [json.loads(p.read_text())["kind"] for p in (output / "ledger").iterdir()]


def test_the_run_is_read_back_by_group_layer_and_top(mnist_run: Path) -> None:
    run = open_run(str(mnist_run))
    top = run.ranking(top=3, group=7)
    assert top["rank"].to_pylist() == [1, 2, 3]
    layer = top["layer"][0].as_py()
    assert set(run.ranking(layer=layer)["layer"].to_pylist()) == {layer}
    with pytest.raises(UserError, match="no group '11'; did you mean 1"):
        run.ranking(group=11)


def test_a_job_refused_by_the_pilot_can_be_mended_and_run_in_the_same_output(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 400, shards=1)
    broken = planted_job(tmp_path / "data", tmp_path / "run", dataset={"path": str(tmp_path / "data")})
    broken["model"] = broken["model"] | {"input": {"mode": "L", "resize": [8, 8]}}
    with pytest.raises(UserError, match=r"model\.input"):
        run_job(parse_job(broken))
    assert run_job(parse_job(planted_job(tmp_path / "data", tmp_path / "run"))) == 0


@pytest.mark.jobs
def test_a_run_that_a_living_driver_holds_is_refused_and_can_be_taken_over(local_ray: None, tmp_path: Path) -> None:
    output = tmp_path / "run"
    write_planted(tmp_path / "data", 400, shards=1)
    job = tmp_path / "job.json"
    job.write_text(json.dumps(planted_job(tmp_path / "data", output, workers={"max": 1, "resources": {"unicorn": 1}})))
    command = [sys.executable, "-m", "pcace_dist", "rank", str(job)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (output / "lease.json").exists())
        with pytest.raises(OutputError, match=rf"is held by process {first.pid} on .* since 20.*--take-over"):
            run_job(parse_job(planted_job(tmp_path / "data", output)))
        assert run_job(parse_job(planted_job(tmp_path / "data", output)), take_over=True) == 0
        finished = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 5, errors
        assert "another driver" in errors
        assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == finished
    finally:
        first.kill()
        first.wait()


def wait_until(reached: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_that_cannot_be_placed_are_a_clear_error(local_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 300, shards=1)
    workers = {"max": 1, "resources": {"unicorn": 1}, "start_timeout": 3}
    with pytest.raises(UserError, match=r"1 CPU, 1 unicorn each could start within .* 3 s; the cluster has 4 CPU"):
        run_job(parse_job(planted_job(tmp_path / "data", tmp_path / "run", workers=workers)))


def test_a_run_waits_for_its_least_number_of_workers(local_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 300, shards=1)
    run = rank(planted_job(tmp_path / "data", tmp_path / "run", workers={"min": 2, "max": 2}))
    assert run.summary["workers"] == 2


def test_the_papers_estimator_runs_through_the_same_job(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 400)
    settings = {"components": 1, "pilot": 400, "estimator": "ace", "scale": "standard"}
    two = rank(planted_job(tmp_path / "data", tmp_path / "two", statistics=settings))
    one = rank(planted_job(tmp_path / "data", tmp_path / "one", statistics=settings, workers={"max": 1}))
    table = two.ranking(target="column:exponential").to_pandas()
    assert one.ranking().equals(two.ranking())
    assert list(table.sort_values("rank").channel[:3]) == [0, 1, 2]
    assert abs(table.score[0] - RHO[0]) < 0.06
    assert np.allclose(table.score, table.score_first_component)  # one component: the sum is the first
    assert table.score_low.isna().all() and table.rank_low.isna().all()
    assert two.jackknife()["pseudo_values"].null_count == len(two.ranking())  # it has no jackknife


def test_the_papers_estimator_refuses_more_images_than_it_takes(without_ray: None, tmp_path: Path) -> None:
    write_planted(tmp_path / "data", 10_100, row_group=2000)
    job = planted_job(tmp_path / "data", tmp_path / "run", statistics={"components": 1, "estimator": "ace"})
    with pytest.raises(UserError, match="takes at most 10,000 images and the data set has 10,100"):
        run_job(parse_job(job))


# -- a run that is cut off and goes on: with other settings, and after its last record


@pytest.fixture(scope="module")
def often_flushed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of five units, each an attempt of its own, with its data beside it."""
    folder = tmp_path_factory.mktemp("often")
    write_planted(folder / "data", 600, shards=1, row_group=128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCACE_FLUSH_SECONDS", "0.001")
        assert run_job(parse_job(small_job(folder, folder / "run"))) == 0
    return folder


def small_job(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    settings = {"statistics": {"components": 1, "pilot": 300}, "workers": {"max": 1}} | changes
    return planted_job(folder / "data", output, **settings)


def kinds_of(run: Path) -> list[str]:
    return [json.loads(path.read_text())["kind"] for path in sorted((run / "ledger").iterdir())]


def cut_off(run: Path, records: int) -> None:
    """As if the driver had been killed so many records before its end."""
    for path in sorted((run / "ledger").iterdir())[-records:]:
        path.unlink()


def test_a_small_flush_interval_makes_an_attempt_of_every_unit(often_flushed: Path) -> None:
    summary = json.loads((often_flushed / "run" / "summary.json").read_text())
    assert summary["attempts"] == summary["units"] == 5
    assert kinds_of(often_flushed / "run").count("accept") == 5


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "inf", "nan", ""])
def test_a_wrong_flush_interval_is_named(
    often_flushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", seconds)
    with pytest.raises(JobError, match=f"^PCACE_FLUSH_SECONDS '{seconds}': is not a number of seconds above 0$"):
        run_job(parse_job(small_job(often_flushed, tmp_path / "run")))
    assert JobError.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.jobs
def test_exactness_may_change_on_resume_and_the_summary_remembers(often_flushed: Path, tmp_path: Path) -> None:
    """Two threads are another numeric class: admitted with `off`, and named still when `strict` goes on afterwards."""
    output = tmp_path / "run"
    shutil.copytree(often_flushed / "run", output)
    cut_off(output, 3)
    off = {"compute": {"exact": "off"}, "workers": {"max": 1, "cpus": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCACE_FLUSH_SECONDS", "0.001")
        assert run_job(parse_job(small_job(often_flushed, output, **off))) == 0
    cut_off(output, 2)
    assert run_job(parse_job(small_job(often_flushed, output))) == 0
    assert kinds_of(output).count("manifest") == 1
    classes = json.loads((output / "summary.json").read_text())["numeric_classes"]
    assert [one["threads"] for one in classes] == [1, 2]
    assert pq.read_table(output / "rankings.parquet").equals(pq.read_table(often_flushed / "run" / "rankings.parquet"))
    assert run_job(parse_job(small_job(often_flushed, output, **off))) == 0, "the same job: its code at once"
    assert kinds_of(output)[-1] == "done"


def test_a_driver_that_died_between_done_and_the_summary_left_a_whole_run(often_flushed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(often_flushed / "run", output)
    before = (output / "summary.json").read_text()
    for state in (None, {"outcome": "running", "exit_code": None}):
        (output / "summary.json").unlink()
        if state is not None:
            (output / "summary.json").write_text(json.dumps(state))
        assert run_job(parse_job(small_job(often_flushed, output))) == 0
        assert (output / "summary.json").read_text() == before
