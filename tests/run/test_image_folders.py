"""A folder of images as dataset.path: the ranking of the same images in shards; frozen at the first start; restarts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.run import Run
from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.errors import Stopped, UserError
from pcace_dist.packing.pack import pack
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.rank import run_job
from tests.digits import digits_job, digits_table, ranked, records
from tests.servers import moto_server, s3_environment
from tests.whole_jobs import in_process

__all__ = ["in_process"]

pytestmark = pytest.mark.usefixtures("in_process")

ROWS = 300


def write_images(folder: Path, rows: int = ROWS) -> Path:
    """Digits as files, a folder for each class, called as it is."""
    for number, row in enumerate(digits_table(0, rows).select(["image", "label"]).to_pylist()):
        path = folder / f"digit {row['label']}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
    return folder


def job(data: Path | str, output: Path, **changes: Any) -> dict[str, Any]:
    return digits_job(data, output, **changes)


def refusal(asked: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        run_job(parse_job(asked))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(table: pa.Table, *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in table.to_pylist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def run(folder: Path, in_process: None) -> Iterator[Run]:
    yield ranked(job(folder, folder.parent / "run", group_by="class"))


def test_the_ranking_is_that_of_the_same_images_in_shards(folder: Path, run: Run) -> None:
    pack(str(folder), str(folder.parent / "shards"))
    packed = ranked(job(folder.parent / "shards", folder.parent / "of-shards", group_by="class"))
    assert run.ranking() == packed.ranking()
    assert dict(run.names.names) == {index: f"digit {index}" for index in range(10)} == dict(packed.names.names)
    assert run.summary["images"] == ROWS


def test_rows_are_named_by_their_files(run: Run) -> None:
    (files,) = {path.name for path in Path(run.path, "data").iterdir()}
    assert {row["file"] for row in run.exemplars().to_pylist()} == {files}  # type: ignore[union-attr]
    assert pq.read_schema(Path(run.path, "data", files)).names == ["image", "path", "label", "class"]


def test_report_and_evaluate_read_the_files(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", run.path, "--no-synthesis", "--top", "1", "--groups", "digit 3"]) == 0
    assert "could not be read" not in capsys.readouterr().out
    assert Path(run.path, "report.html").stat().st_size > 100_000


def test_a_run_goes_on_with_the_images_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    data = write_images(tmp_path / "photos")
    asked = job(data, tmp_path / "run", group_by="class")

    def stop(_: MainPass) -> None:
        raise Stopped("as a test wants it")

    with monkeypatch.context() as patch:
        patch.setattr(MainPass, "run", stop)
        with pytest.raises(Stopped):
            run_job(parse_job(asked))
    (data / "digit 3" / "later.png").write_bytes((data / "digit 3").glob("*.png").__next__().read_bytes())
    (data / "a new class").mkdir()
    (data / "a new class" / "later.png").write_bytes(b"no image")
    assert ranked(asked).ranking() == run.ranking()
    assert len(records(tmp_path / "run", "manifest")) == 1
    assert len(list((tmp_path / "run" / "data").iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "said"), [(Path.unlink, "is gone"), (lambda path: os.utime(path, (1, 1)), "has changed")]
)
def test_an_image_that_is_gone_or_changed_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    data = write_images(tmp_path / "photos")
    asked = job(data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(MainPass, "run", lambda _: (_ for _ in ()).throw(Stopped("as a test wants it")))
        with pytest.raises(Stopped):
            run_job(parse_job(asked))
    victim = sorted(data.rglob("*.png"))[7]
    change(victim)
    name = victim.relative_to(data).as_posix()
    assert refusal(asked) == f"dataset.path: {name} {said} since the run began; restore it, or use a new output"


def test_a_driver_that_ended_before_its_run_was_opened_is_no_obstacle(tmp_path: Path) -> None:
    data = write_images(tmp_path / "photos", 100)
    (tmp_path / "run" / "data").mkdir(parents=True)
    for name in (f"{'0' * 32}.parquet", f"{'0' * 32}.parquet.tmp-12"):
        (tmp_path / "run" / "data" / name).write_bytes(b"half")
    assert ranked(job(data, tmp_path / "run")).summary["images"] == 100
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "data" / "mine.parquet").write_bytes(b"")
    assert refusal(job(data, tmp_path / "other")).endswith("is not empty and holds no run; use another output")


def test_a_csv_with_paths(tmp_path: Path) -> None:
    data = write_images(tmp_path / "photos", 200)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in data.rglob("*.png"))
    lines = [f"{name},{int(name.split('/')[1][6:])},{number % 7}" for number, name in enumerate(files)]
    (tmp_path / "list.csv").write_text("file,digit,x\n" + "\n".join(lines) + "\nphotos/gone.png,3,1\n")
    dataset = {"image": "file", "label": "digit"}
    asked = job(tmp_path / "list.csv", tmp_path / "run", dataset=dataset, target=[{"logit": "label"}, {"column": "x"}])
    run = ranked(asked)
    assert run.summary["images"] == 200
    assert run.summary["files_left_out"] == [
        {"reason": "no such file", "files": 1, "names": ["photos/gone.png"], "usual": False}
    ]


def test_classes_of_the_job_number_the_folders(tmp_path: Path) -> None:
    data = write_images(tmp_path / "photos", 100)
    for number in range(10):
        (data / f"digit {number}").rename(data / "nzotsefvhi"[9 - number])
    names = ["i", "h", "v", "f", "e", "s", "t", "o", "z", "n"]
    run = ranked(job(data, tmp_path / "run", dataset={"classes": names}))
    assert dict(run.names.names) == dict(enumerate(names))
    assert refusal(job(data, tmp_path / "other", dataset={"classes": names[1:]})).startswith("dataset.path: ")


def test_a_tick_of_a_schedule_ranks_a_folder_again_only_where_it_has_changed(tmp_path: Path) -> None:
    from pcace_dist.commands.rerank import Options, rerank

    data = write_images(tmp_path / "photos", 200)
    asked = parse_job(job(data, tmp_path / "weekly"))
    options = Options(report=False)
    assert rerank(asked, options).entry is not None
    assert rerank(asked, options).entry is None
    (data / "digit 3" / "later.png").write_bytes(next((data / "digit 3").glob("*.png")).read_bytes())
    again = rerank(asked, options).entry
    assert again is not None and again.images == 201
    assert "data" not in os.listdir(tmp_path / "weekly")


def test_a_glob_of_images(tmp_path: Path, folder: Path) -> None:
    some = ranked(job(folder / "*" / "00*.png", tmp_path / "run"))
    assert some.summary["images"] == 100
    assert dict(some.names.names) == {index: f"digit {index}" for index in range(10)}
    assert pq.read_table(next(Path(some.path, "data").iterdir()))["path"][0].as_py().startswith("digit 0/00")


def test_tars_name_the_command_that_packs_them(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes(b"")
    for path in ("tars", "tars/a.tar", "tars/*.tar"):
        assert f"; `pcace pack {tmp_path / path} DEST` makes Parquet" in refusal(job(tmp_path / path, tmp_path / "run"))


def test_several_folders_of_images_are_refused_with_what_would_do(tmp_path: Path) -> None:
    data = write_images(tmp_path / "photos", 20)
    several = job(data, tmp_path / "run")
    several["dataset"]["path"] = [str(data / "digit 0"), str(data / "digit 1")]
    assert "`pcace pack" in refusal(several)


def test_extend_is_for_parquet_files(run: Run, folder: Path) -> None:
    asked = job(folder, folder.parent / "extended", group_by="class", extend=run.path)
    assert refusal(asked) == (
        f"extend: dataset.path {folder} is a folder of images; extend runs over Parquet files, which `pcace pack` makes"
    )


def test_a_folder_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, run: Run) -> None:
    with moto_server() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="images")
        for path in folder.rglob("*.png"):
            client.upload_file(str(path), "images", f"photos/{path.relative_to(folder).as_posix()}")
        in_bucket = ranked(job("s3://images/photos", tmp_path / "run", group_by="class"))
    assert in_bucket.ranking() == run.ranking()
    rows = pq.read_table(next(Path(in_bucket.path, "data").iterdir()))["image"].to_pylist()
    assert all(len(row["version"]) == 32 for row in rows), "ETags"


def test_an_estimate_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    from pcace_dist.commands.measure import estimate

    said = estimate(parse_job(job(folder, tmp_path / "run")), workers=(1,))
    assert said["images"] == ROWS
    assert said["bytes"] > 50 * ROWS, "of the images, not of their list"
    assert not (tmp_path / "run").exists()
