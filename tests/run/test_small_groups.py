"""Too few images for a ranking, and groups that look alike: said in words, before the work where it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.errors import DatasetError
from tests.digits import digits_job, digits_table, ranked
from tests.reporting.opened import OpenedReport

pytestmark = pytest.mark.usefixtures("in_process")


def write(folder: Path, groups: list[Any], kind: pa.DataType | None = None) -> Path:
    """One file of as many digits as there are groups."""
    folder.mkdir(parents=True)
    table = digits_table(0, len(groups)).append_column("city", pa.array(groups, kind))
    pq.write_table(table, folder / "a.parquet", row_group_size=100)
    return folder


def test_groups_that_are_known_to_be_too_small_are_refused_before_the_pass(tmp_path: Path) -> None:
    data = write(tmp_path / "data", ["a"] * 30 + ["b"] * 38)
    with pytest.raises(DatasetError) as caught:
        ranked(digits_job(data, tmp_path / "run", group_by="city"))
    assert str(caught.value) == (
        "group_by city: none of the 2 groups has the 50 images that a ranking takes at least; the largest: b 38, a 30; "
        "make larger groups, or take more images (no setting takes fewer than 50)"
    )
    assert not (tmp_path / "run" / "attempts").exists()


def test_so_are_all_images_together(tmp_path: Path) -> None:
    data = write(tmp_path / "data", ["a"] * 40)
    with pytest.raises(
        DatasetError, match=r"^dataset: 40 images are too few for a ranking, which takes 50 at least; take more images"
    ):
        ranked(digits_job(data, tmp_path / "run"))


def test_a_run_without_any_ranking_ends_with_4_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data", [f"c{n // 40}" for n in range(320)])
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(digits_job(data, tmp_path / "run", group_by="city")))  # the pilot takes 256 of 320
    assert main(["rank", str(job)]) == 4
    printed = capsys.readouterr().out
    assert "logit:label: no channel is ranked: group c0 (40 images, too few images); group c1 (40 images" in printed
    assert "a channel is ranked from 50 images on" in printed
    assert "make larger groups, take more images (no setting takes fewer than 50)" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["outcome"], summary["exit_code"]) == ("nothing_ranked", 4)
    assert main(["rank", str(job)]) == 4, "asked again"
    assert main(["show", str(tmp_path / "run"), "--group", "c7"]) == 0
    assert "group c7 (40 images, too few images)" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "run"), "--across"]) == 0
    assert "no channel is ranked: group c0 (40 images" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "nothing can be evaluated: logit:label: no channel is ranked: group c0" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "--no-synthesis", "--top", "1"]) == 0
    assert "note: logit:label: no channel is ranked: group c0 (40 images" in capsys.readouterr().out
    notes = OpenedReport(tmp_path / "run" / "report.html").data["notes"]
    assert notes[0].startswith("logit:label: no channel is ranked: group c0 (40 images")
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 2
    assert "no channel of the first is ranked" in capsys.readouterr().err


def test_the_setting_that_would_do_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "data", ["a"] * 70 + ["b"] * 62)
    asked = digits_job(data, tmp_path / "run", group_by="city", statistics={"components": 5})
    with pytest.raises(DatasetError) as caught:
        ranked(asked)
    assert str(caught.value).endswith(
        "make larger groups, or take more images, or statistics.components: 3, which takes 64"
    )
    asked["statistics"] |= {"components": 3}
    assert ranked(asked).summary["outcome"] == "done"


def test_a_group_without_a_ranking_beside_others_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "data", ["large"] * 200 + ["small"] * 20)
    run = ranked(digits_job(data, tmp_path / "run", group_by="city"))
    assert run.summary["outcome"] == "done"
    assert main(["show", run.path, "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "logit:label, group large" in printed
    assert "logit:label: no channel is ranked: group small (20 images, too few images)" in printed


def test_null_and_texts_that_look_like_it_are_groups_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups: list[str | None] = [None, "", "null", "None", "'x'"]
    data = write(tmp_path / "data", [groups[n % 5] for n in range(500)])
    run = ranked(digits_job(data, tmp_path / "run", group_by="city"))
    assert main(["show", run.path, "--top", "1"]) == 0
    printed = capsys.readouterr().out
    names = {"null": None, "''": "", "'null'": "null", "None": "None", "''x''": "'x'"}
    for name, value in names.items():
        assert f"logit:label, group {name}\n" in printed.replace(" \n", "\n") or f"group {name}" in printed
        assert set(run.ranking(group=name)["group"].to_pylist()) == {value}
        assert len(run.ranking(group=name, top=1)) == 1
    assert len(run.ranking(top=1)) == 5, "one of each group"


def test_nan_counts_as_null(tmp_path: Path) -> None:
    data = write(tmp_path / "data", [[1.5, float("nan"), None][n % 3] for n in range(300)])
    run = ranked(digits_job(data, tmp_path / "run", group_by="city"))
    assert {group: len(run.ranking(group=group)) for group in ("1.5", "null")} == {"1.5": 24, "null": 24}
    assert sorted({images for images in run.ranking(group="null")["images"].to_pylist()}) == [200]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()])
def test_groups_of_any_layout_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    groups = pa.array(["a" if n % 2 else "b" for n in range(200)])
    cities = groups.cast(kind) if not pa.types.is_string_view(kind) else pa.array(groups.to_pylist(), kind)
    data = write(tmp_path / "data", cities)
    changes: dict[str, Any] = {"group_by": "city", "statistics": {"keep_codes": True}, "dataset": {"filter": {}}}
    run = ranked(digits_job(data, tmp_path / "run", **changes))
    assert set(run.ranking()["group"].to_pylist()) == {"a", "b"}


def test_what_is_left_out_of_the_data_is_in_the_summary_and_the_closing_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data", ["a"] * 100)
    for name in ("_SUCCESS", *(f"{number}.txt" for number in range(7))):
        (data / name).touch()
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(digits_job(data, tmp_path / "run")))
    assert main(["rank", str(job)]) == 0
    said = capsys.readouterr()
    assert "left out of dataset.path: 7 not a Parquet file: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more\n" in said.out
    assert (
        "pcace: dataset.path: left out: 7 not a Parquet file (0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more)" in said.err
    )
    assert "_SUCCESS" not in said.out + said.err, "nobody would take it for data"
    assert open_run(str(tmp_path / "run")).summary["files_left_out"] == [
        {"reason": "not a Parquet file", "files": 7, "names": [f"{n}.txt" for n in range(5)], "usual": False},
        {"reason": "hidden", "files": 1, "names": ["_SUCCESS"], "usual": True},
    ]
