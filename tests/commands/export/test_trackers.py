"""Real MLflow and wandb: what they hold of an exported run, and that a result is there once."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import yaml

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands.export.mlflow_run import _key
from pcace_dist.commands.export.record import RunRecord
from pcace_dist.commands.export.wandb_run import identifier

pytestmark = [pytest.mark.apps, pytest.mark.filterwarnings("default")]


@pytest.fixture
def run(square_run: Path, tmp_path: Path) -> Path:
    """A copy, which gets a page."""
    return Path(shutil.copytree(square_run, tmp_path / "squares"))


def export(run: Path, *options: str) -> int:
    return main(["export", str(run), *options])


def test_mlflow_has_params_metrics_tags_and_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    assert export(run, "--to", "mlflow", "--out", str(tmp_path / "store")) == 0
    assert "without a page: `pcace report " in capsys.readouterr().out
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/store/mlflow.db")
    experiment = client.get_experiment_by_name("pcace")
    (tracked,) = client.search_runs([experiment.experiment_id])
    opened = open_run(str(run))
    best = opened.ranking(target="logit:label")
    assert tracked.info.status == "FINISHED" and tracked.info.run_name == "squares"
    assert tracked.data.params["model.factory"] == "tests.reporting.square:square_network"
    assert tracked.data.params["statistics.components"] == "2"
    assert tracked.data.metrics["images"] == 400 and tracked.data.metrics["channels"] == 4
    assert tracked.data.metrics["best_score/logit:label/look"] == pc.max(best["score"]).as_py()
    assert tracked.data.metrics["best_effect/logit:label/look"] == pc.max(best["effect"]).as_py()
    assert tracked.data.tags["pcace.fingerprint"] == opened.summary["fingerprint"]
    assert tracked.data.tags["pcace.version.torch"] == opened.summary["versions"]["torch"]
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"rankings.parquet", "rankings.csv", "job.yaml", "summary.json"} <= names and "report.html" not in names
    copied = Path(client.download_artifacts(tracked.info.run_id, "rankings.parquet", str(tmp_path)))
    assert copied.read_bytes() == (run / "rankings.parquet").read_bytes()


def test_a_result_is_in_mlflow_once_and_gets_what_is_new(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/own.db"
    (tmp_path / "elsewhere").mkdir()
    options = ["--to", "mlflow", "--tracking-uri", uri, "--experiment", "channels"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        assert export(run, *options) == 0
        assert export(run, *options) == 0
        assert "has this result already; nothing is new" in capsys.readouterr().out
        (run / "report.html").write_text("<p>a page</p>")
        assert export(run, *options) == 0
        assert "has this result already; added report.html" in capsys.readouterr().out
        client = MlflowClient(tracking_uri=uri)
        (tracked,) = client.search_runs([client.get_experiment_by_name("channels").experiment_id])
        assert "report.html" in {file.path for file in client.list_artifacts(tracked.info.run_id)}


def test_what_mlflow_refuses_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(run, "--to", "mlflow", "--tracking-uri", "nonsense://x") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("pcace export: --to mlflow: ") and line.endswith("see --tracking-uri")


def test_keys_are_what_mlflow_takes() -> None:
    assert _key("best_score/logit:3/<b>") == "best_score/logit:3/_b_" and len(_key("x" * 1000)) == 250


def test_wandb_offline_has_config_summary_table_and_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "of-wandb"))
    (run / "report.html").write_text("<p>a page</p>")
    assert export(run, "--to", "wandb", "--out", str(tmp_path / "out")) == 0
    (folder,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    record = RunRecord(open_run(str(run)))
    assert folder.name.endswith(identifier(record))
    (table,) = (folder / "files" / "media" / "table").glob("rankings*.json")
    shown = json.loads(table.read_text())
    assert len(shown["data"]) == len(record.shown()[0]) == 2 * 3 * 4
    assert shown["columns"] == record.ranking.column_names
    assert list((folder / "files" / "media" / "html").glob("report*.html"))
    kept = records(folder)
    assert yaml.safe_load(kept["config"]["job"])["group_by"] == "region"
    assert json.loads(kept["summary"]["images"]) == 400
    assert {"rankings.parquet", "job.yaml", "report.html"} <= kept["files"]
    capsys.readouterr()
    assert export(run, "--to", "wandb", "--out", str(tmp_path / "out")) == 0
    assert "has this result already" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*"))) == 1


def test_a_setting_of_wandb_that_is_wrong_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb").teardown()  # it reads its settings once in a process
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert export(run, "--to", "wandb", "--out", str(tmp_path / "out")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("pcace export: --to wandb: WANDB_MODE: Input should be ")
    assert not (tmp_path / "out").exists()


def records(folder: Path) -> dict[str, Any]:
    """Config, summary and names of an artifact's files, from what wandb has written."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"config": {}, "summary": {}, "files": set()}
    for data in written_records(next(folder.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found["config"] |= {own.key: own.value_json for own in record.run.config.update}
        found["summary"] |= {own.key or own.nested_key[0]: own.value_json for own in record.summary.update}
        found["files"] |= {own.path for own in record.artifact.manifest.contents}
        found["files"] |= {own.path for own in record.request.log_artifact.artifact.manifest.contents}
    return found


def written_records(data: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """Records of a file of LevelDB's log format, which wandb writes behind a header of 7 bytes: checksum (4 bytes),
    length (2), kind (1: whole, 2: first part, 3: middle, 4: last)."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:  # the rest of a block that has no room for a header
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.mark.parametrize("to", ["mlflow", "wandb"])
def test_a_file_in_the_folders_place_is_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    (tmp_path / "taken").write_text("")
    assert export(run, "--to", to, "--out", str(tmp_path / "taken")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"--out {tmp_path}/taken: File exists" in error
