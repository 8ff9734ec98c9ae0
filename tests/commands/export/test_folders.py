"""CSV, JSON and FiftyOne: what is in the files is what the run has; nothing is overwritten unasked."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pytest
from PIL import Image

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands.export.export import ExportSettings, export
from pcace_dist.commands.export.tables import flat
from pcace_dist.storage.files import Storage
from tests.reporting.square import GROUPS
from tests.servers import moto_server, s3_environment


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def loaded(path: Path) -> Any:
    return json.loads(path.read_text())


def test_csv_files_hold_the_tables_of_the_run(square_run: Path, tmp_path: Path) -> None:
    run = open_run(str(square_run))
    exported = export(run, ExportSettings("csv", out=str(tmp_path / "out")))
    assert set(exported.written) == set(content(tmp_path / "out"))
    for name, table in {"rankings": run.ranking(), "exemplars": run.exemplars(), "bad_rows": run.bad_rows()}.items():
        assert table is not None
        types = pcsv.ConvertOptions(column_types=table.schema, strings_can_be_null=True, null_values=[""])
        assert pcsv.read_csv(tmp_path / "out" / f"{name}.csv", convert_options=types).equals(table)
    summary = dict(csv.reader((tmp_path / "out" / "summary.csv").read_text().splitlines()))
    assert summary["images"] == str(run.summary["images"]) and summary["fingerprint"] == run.summary["fingerprint"]
    assert summary["versions.torch"] == run.summary["versions"]["torch"]
    assert (tmp_path / "out" / "job.yaml").read_text() == run.job_text()


def test_json_files_hold_the_same_and_say_what_the_fields_are(square_run: Path, tmp_path: Path) -> None:
    run = open_run(str(square_run))
    export(run, ExportSettings("json", out=str(tmp_path / "out")))
    assert loaded(tmp_path / "out" / "rankings.json") == run.ranking().to_pylist()
    assert {row["group"] for row in loaded(tmp_path / "out" / "rankings.json")} == set(GROUPS)
    assert loaded(tmp_path / "out" / "bad_rows.json") == []
    assert loaded(tmp_path / "out" / "summary.json") == run.summary
    assert loaded(tmp_path / "out" / "job.json")["group_by"] == "region"
    fields = {(row["file"], row["column"]): row for row in loaded(tmp_path / "out" / "fields.json")}
    assert all(fields["rankings.json", name]["meaning"] for name in run.ranking().column_names)
    assert all(fields["summary.json", name]["meaning"] for name in run.summary)


@pytest.mark.parametrize("kind", ["csv", "json", "fiftyone"])
def test_the_same_bytes_each_time(kind: str, square_run: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export(open_run(str(square_run)), ExportSettings(kind, out=str(tmp_path / name), top=2))
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_what_is_there_stays_without_force(
    square_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(square_run), "--to", "csv"]) == 0
    assert "squares-csv: 7 files" in capsys.readouterr().out
    (tmp_path / "squares-csv" / "rankings.csv").write_text("mine")
    assert main(["export", str(square_run), "--to", "csv"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("pcace export: --out squares-csv: is not empty (") and error.endswith("or --force")
    assert (tmp_path / "squares-csv" / "rankings.csv").read_text() == "mine"
    assert main(["export", str(square_run), "--to", "csv", "--force"]) == 0
    assert (tmp_path / "squares-csv" / "rankings.csv").read_text() != "mine"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--to", "csv", "--out", "taken"], "--out taken: is a file; write the name of a folder"),
        (["--to", "csv", "--out", "hf://a/b/c"], "--out hf://a/b/c: hf:// is read only"),
        (["--to", "csv", "--tracking-uri", "x"], "--tracking-uri: goes with --to mlflow, not with csv"),
        (["--to", "mlflow", "--out", "s3://b/x"], "--out s3://b/x: --to mlflow needs a local folder"),
        (["--to", "mlflow", "--out", "x", "--tracking-uri", "y"], "--out and --tracking-uri: are two places"),
    ],
)
def test_wrong_settings_are_one_line(
    options: list[str],
    message: str,
    square_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    assert main(["export", str(square_run), *options]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_missing_package_is_named_with_what_installs_it(
    square_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = "pcace_dist.errors.util.find_spec"
    monkeypatch.setattr(find, lambda name: None if name in ("wandb", "mlflow") else object())
    for kind in ("wandb", "mlflow"):
        assert main(["export", str(square_run), "--to", kind]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "extra" in line]
        assert line.startswith(f"pcace export: pcace export --to {kind} needs packages of the extra `{kind}`")


def test_fiftyone_gets_the_images_of_the_best_channels(square_run: Path, tmp_path: Path) -> None:
    run = open_run(str(square_run))
    exported = export(run, ExportSettings("fiftyone", out=str(tmp_path / "out"), top=1))
    assert exported.written[-2:] == ("samples.json", "metadata.json")
    samples = loaded(tmp_path / "out" / "samples.json")["samples"]
    files = content(tmp_path / "out")
    scores = {row["score"] for row in run.ranking(top=1).to_pylist() if row["channel"] == 0}
    exemplars = run.exemplars()
    assert exemplars is not None
    places = {row["row"]: row for row in exemplars.filter(pc.equal(exemplars["channel"], 0)).to_pylist()}
    assert len(samples) == len(files) - 2
    of_channel_0 = 0
    for sample in samples:
        assert Image.open(io.BytesIO(files[sample["filepath"]])).size == (32, 32)
        assert sample["ranked_group"] in GROUPS
        for own in [one for one in sample["channels"]["classifications"] if one["label"] == "look/0"]:
            of_channel_0 += 1
            exemplar = places[int(sample["row"].rpartition("#")[2])]
            assert (own["place"], own["mean_activation"]) == (exemplar["place"], exemplar["mean_activation"])
            assert own["rank"] == 1 and own["score"] in scores
            assert sample["ground_truth"]["label"] == "1"  # of an image with a square
    assert of_channel_0 == len(places)
    assert "version" not in loaded(tmp_path / "out" / "metadata.json")  # then FiftyOne infers the fields


def test_no_image_goes_out_where_none_may_be_shown(
    square_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(square_run, tmp_path / "run"))
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(text.replace("shown: images", "shown: none"))
    assert main(["export", str(run), "--to", "fiftyone", "--out", str(tmp_path / "out")]) == 2
    assert f"{run}: was ranked with `shown: none`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    exported = export(open_run(str(run)), ExportSettings("json", out=str(tmp_path / "out")))
    assert "exemplars.json" in exported.written
    for row in loaded(tmp_path / "out" / "exemplars.json"):
        assert (row["file"], row["row_group"], row["row"]) == (None, None, None) and row["mean_activation"] is not None


@pytest.mark.jobs
def test_a_run_on_s3_is_exported_to_s3(square_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    export(open_run(str(square_run)), ExportSettings("csv", out=str(tmp_path / "here")))
    with moto_server() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        storage = Storage()
        bucket = storage.s3_client("s3://bucket")
        bucket.create_bucket(Bucket="bucket")  # type: ignore[attr-defined]
        for name, data in content(square_run).items():
            if not name.startswith("attempts/"):
                storage.put_bytes(data, f"s3://bucket/squares/{name}")
        options = ["--to", "csv", "--out", "s3://bucket/tables"]
        assert main(["export", "s3://bucket/squares", *options]) == 0
        there = {file.url: storage.read_bytes(file.url) for file in storage.list("s3://bucket/tables")}
        assert there == {f"s3://bucket/tables/{name}": data for name, data in content(tmp_path / "here").items()}
        assert main(["export", "s3://bucket/squares", *options]) == 2  # not empty


def test_a_place_that_cannot_be_written_names_the_option_of_this_verb(
    square_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["export", str(square_run), "--to", "csv", "--force", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("; choose another folder with --out")


def test_nested_keys_are_joined_and_lists_stay() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1], "e": {}}
