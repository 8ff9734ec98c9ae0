"""The report of a run whose truth is known: what it holds, that it is escaped, what it does without data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.config.resolve import begun_in
from pcace_dist.errors import JobError, OutputError, UserError
from pcace_dist.reporting.evidence import growth
from pcace_dist.reporting.findings import Findings
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.row_choice import choose_errors, choose_rows, mean_activations
from pcace_dist.reporting.selection import select
from pcace_dist.reporting.source import open_report_source
from pcace_dist.run.rank import run_job
from tests.before import make_before
from tests.reporting.conftest import Reported, quietly, square_job
from tests.reporting.opened import OpenedReport, numbers, pixels
from tests.reporting.square import GROUPS, RING, SQUARE
from tests.servers import moto_server, s3_client, s3_environment
from tests.whole_jobs import jobs_without_ray

LAYER, PLANTED = "look", 0


@pytest.fixture(scope="module")
def opened(squares: Reported) -> OpenedReport:
    return OpenedReport(squares.page)


def squares_of(data: Path) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Left, top and label by file and row."""
    squares = {}
    for path in data.glob("*.parquet"):
        table = pq.read_table(path, columns=["left", "top", "label"])
        for row, values in enumerate(table.to_pylist()):
            squares[path.name, row] = (values["left"], values["top"], values["label"])
    return squares


def test_the_page_is_one_file_of_modest_size_without_addresses(squares: Reported, opened: OpenedReport) -> None:
    assert squares.page == squares.run / "report.html"
    assert squares.result.size == squares.page.stat().st_size < 5_000_000
    assert squares.result.notes == ()
    outside = opened.text
    for packed in ("packed-plotly", "packed-data"):
        outside = outside.replace(opened.scripts[packed], "")
    assert "http://" not in outside and "https://" not in outside
    assert "default-src 'none'" in outside


def test_numbers_are_those_of_the_rankings(squares: Reported, opened: OpenedReport) -> None:
    table = pq.read_table(squares.run / "rankings.parquet").to_pandas()
    assert [group["name"] for group in opened.data["groups"]] == sorted(GROUPS)
    for t, target in enumerate(opened.data["targets"]):
        for g, group in enumerate(opened.data["groups"]):
            rows = table[(table.target == target) & (table.group == group["name"])]
            shown = opened.data["ranking"][t][g]
            assert np.allclose(numbers(shown["score"]), rows.score, equal_nan=True)
            assert np.array_equal(numbers(shown["rank"]), rows["rank"].to_numpy(np.float32), equal_nan=True)
            assert group["images"] == rows.images.iloc[0]


def test_effects_are_those_of_the_rankings(squares: Reported, opened: OpenedReport) -> None:
    table = pq.read_table(squares.run / "rankings.parquet").to_pandas()
    group = opened.data["groups"][1]["name"]
    for shown, target in zip(opened.data["ranking"], opened.data["targets"], strict=True):
        rows = table[(table.target == target) & (table.group == group)]
        for name in ("effect", "effect_low", "effect_high", "effect_rank", "support"):
            assert np.allclose(numbers(shown[1][name]), rows[name].astype(float), equal_nan=True)
        statuses = [opened.data["effectStatuses"][int(code)] for code in numbers(shown[1]["effect_status"])]
        assert statuses == rows.effect_status.tolist()
    assert np.isfinite(numbers(opened.data["ranking"][0][1]["effect"])).any()
    assert not np.isfinite(numbers(opened.data["ranking"][1][1]["effect"])).any()


def test_a_run_without_ranked_channels_says_so_and_loads_no_model(unranked: Reported) -> None:
    result = unranked.result
    assert result.channels == result.images == 0
    assert set(result.seconds) == {"reading the run", "stability, evaluation, sets", "writing the page"}
    assert result.notes[0].startswith("column:label: no channel is ranked: ")
    page = OpenedReport(unranked.page)
    assert page.data["notes"] == list(result.notes) and page.data["pages"] == []


def test_exemplars_of_the_planted_channel_show_the_square_and_the_overlay_marks_it(
    squares: Reported, opened: OpenedReport
) -> None:
    squares_by_row = squares_of(squares.data)
    exemplars = opened.channel(LAYER, PLANTED)["exemplars"]
    assert len(exemplars) == 8
    for tile in exemplars:
        row = opened.data["rows"][str(tile["row"])]
        left, top, label = squares_by_row[row["file"], row["row"]]
        inside = np.zeros((32, 32), bool)
        inside[top : top + SQUARE, left : left + SQUARE] = True
        image, overlay = opened.image(tile["row"]), pixels(tile["map"], "RGBA")[..., 3]
        assert label == row["label"] == 1
        assert image.shape == overlay.shape == (32, 32)
        assert image[inside].min() > 0.5 > image[~inside].max()
        assert inside[np.unravel_index(overlay.argmax(), overlay.shape)]
        assert overlay[inside].mean() > 5 * overlay[~inside].mean()


def test_an_exemplar_is_cut_to_what_the_strongest_position_sees_and_pixels_of_the_square_excite_it(
    squares: Reported, opened: OpenedReport
) -> None:
    squares_by_row = squares_of(squares.data)
    for number, tile in enumerate(opened.channel(LAYER, PLANTED)["exemplars"]):
        row = opened.data["rows"][str(tile["row"])]
        left, top, _ = squares_by_row[row["file"], row["row"]]
        x, y, wide, high = (round(share * 32, 3) for share in tile["box"])
        assert x <= left and y <= top and left + SQUARE <= x + wide and top + SQUARE <= y + high
        assert max(wide, high) <= RING + 1
        assert ("attribution" in tile) == (number < 4)
        if number < 4:
            found = pixels(tile["attribution"], "RGBA")[..., 3]
            assert found.shape == (high, wide)
            inside = np.zeros(found.shape, bool)
            inside[int(top - y) : int(top - y) + SQUARE, int(left - x) : int(left - x) + SQUARE] = True
            assert found[inside].min() > 0.5 and found[~inside].max() == 0


def test_images_of_other_classes_and_errors_of_the_model_are_those_that_activate_most(squares: Reported) -> None:
    source = open_report_source(str(squares.run))
    assert source.sample is not None
    selection = select(source.ranking, ReportOptions(top=1))
    means = mean_activations(source, source.sample, LAYER)[:, PLANTED]
    refs = source.sample.refs(np.arange(len(means)))

    def expected(rows: np.ndarray) -> list[tuple[tuple[str, int, int], float]]:
        return [(refs[row], means[row]) for row in rows[np.argsort(-means[rows], kind="stable")[:4]]]

    def shown(findings: Findings, group: int) -> list[tuple[tuple[str, int, int], float]]:
        return [(findings.pool.refs[number], value) for number, value in findings.wrong[(LAYER, PLANTED), group]]

    by_class = replace(source, job=source.job.model_copy(update={"group_by": "label"}))
    findings = Findings()
    choose_rows(by_class, selection, findings)
    assert shown(findings, 1) == expected(np.flatnonzero(source.sample.group != 1))
    findings = Findings()
    choose_rows(source, selection, findings)
    assert findings.wrong == {}
    wrong = np.arange(0, len(means), 7)
    choose_errors(source, selection, findings, wrong)
    active = wrong[(source.sample.group[wrong] == 2) & (means[wrong] > means.mean())]
    assert shown(findings, 2) == expected(active) and len(active) > 4


def test_every_group_has_its_own_exemplars_and_images_over_the_whole_range(
    squares: Reported, opened: OpenedReport
) -> None:
    held = opened.channel(LAYER, PLANTED)
    source = open_report_source(str(squares.run))
    sample, plan = source.sample, source.plan.layer(LAYER)
    assert sample is not None
    means = sample.means(LAYER)[:, PLANTED]  # of every row of this small run
    for g, group in enumerate(opened.data["groups"]):
        strongest, spread = held["ofGroup"][str(g)], held["spread"][str(g)]
        assert (len(strongest), len(spread)) == (4, 6)
        shown = [opened.data["rows"][str(tile["row"])] for tile in (*strongest, *spread)]
        assert {row["group"] for row in shown} == {group["name"]}
        values = [tile["value"] for tile in spread]
        assert values == sorted(values, reverse=True) and values[0] <= strongest[0]["value"]
        best = float(plan.mean_centre[PLANTED]) + float(plan.mean_unit[PLANTED]) * means[sample.group == g].max()
        assert strongest[0]["value"] == pytest.approx(best, rel=1e-3)
        assert values[-1] == pytest.approx(0, abs=1e-5)  # ReLU: images without a square


def test_a_run_from_codes_shows_the_pictures_of_its_source(squares: Reported, tmp_path: Path) -> None:
    kept = {"components": 2, "pilot": 200, "keep_codes": True}
    question = square_job(tmp_path / "kept", tmp_path / "answer", target={"column": "amount"}, group_by=None)
    question["statistics"] = {"components": 2, "pilot": 200}
    with jobs_without_ray():
        assert run_job(parse_job(square_job(squares.data, tmp_path / "kept", statistics=kept))) == 0
        assert run_job(parse_job(question)) == 0
    result = quietly(tmp_path / "answer", top=1)
    page, squares_by_row = OpenedReport(Path(result.path)), squares_of(squares.data)
    held = page.channel(LAYER, PLANTED)
    assert result.notes == () and len(held["exemplars"]) == 8 and held["synthetic"] is not None
    for tile in held["exemplars"]:
        row = page.data["rows"][str(tile["row"])]
        assert squares_by_row[row["file"], row["row"]][2] == 1 and "map" in tile
        assert "group" not in row  # this run has none
    shutil.rmtree(tmp_path / "kept")
    result = quietly(tmp_path / "answer", top=1)
    assert result.images == 0 and "whose codes were ranked, is gone or keeps no exemplars" in result.notes[0]


def contrast(image: np.ndarray) -> np.ndarray:
    """For every place where a ring of RING pixels fits: the mean of the square within less the mean of the ring."""
    ring, square = sliding_window_view(image, (RING, RING)), slice((RING - SQUARE) // 2, (RING + SQUARE) // 2)
    inside = ring[..., square, square].sum((2, 3))
    around = (ring.sum((2, 3)) - inside) / (RING**2 - SQUARE**2)
    return np.asarray(inside / SQUARE**2 - around)


def test_the_synthetic_image_of_the_planted_channel_shows_bright_squares(opened: OpenedReport) -> None:
    drawn = [pixels(opened.channel(LAYER, channel)["synthetic"]) for channel in range(4)]
    shown = [float(contrast(image).max()) for image in drawn]
    assert shown[PLANTED] > 0.35  # of a contrast that is bounded
    assert shown[PLANTED] > 1.3 * max(shown[1:])


def test_class_evidence_of_the_planted_network_lies_on_the_square(squares: Reported, opened: OpenedReport) -> None:
    squares_by_row = squares_of(squares.data)
    seen = 0
    for entry in opened.data["cam"]["entries"]:
        row = opened.data["rows"][str(entry["row"])]
        left, top, label = squares_by_row[row["file"], row["row"]]
        if label == entry["output"] == 1:
            grad_cam = np.array(entry["cam"])
            y, x = np.unravel_index(grad_cam.argmax(), grad_cam.shape)
            assert top <= y < top + SQUARE and left <= x < left + SQUARE
            seen += 1
    assert seen >= 3


def test_extremes_and_curves_are_there_for_every_group_and_target(opened: OpenedReport) -> None:
    held = opened.channel(LAYER, PLANTED)
    keys = {f"{t}/{g}" for t in range(2) for g in range(3)}
    assert set(held["curves"]) == set(held["extremes"]) == set(held["steps"]) == keys
    for ends in held["extremes"].values():
        high, low = ([tile["value"] for tile in ends[end]] for end in ("high", "low"))
        assert high == sorted(high, reverse=True) and low == sorted(low) and low[-1] <= high[-1]
    curve = held["curves"]["1/0"]
    assert np.polyfit(curve["y"], curve["theta"], 1)[0] > 0
    assert sum(curve["yDensity"]) == curve["rows"] == sum(curve["density"][0])
    x, y = curve["scatter"]
    assert np.corrcoef(x, y)[0, 1] > 0.8


def test_a_group_of_which_the_sample_holds_few_images_has_no_steps(squares: Reported) -> None:
    source = open_report_source(str(squares.run))
    assert source.sample is not None
    source.sample.group[100:] = -1
    steps = growth(source, source.plan.layers[0], np.array([0, 1]), 0)
    assert [one.score.shape for one in steps] == [(0, 2)] * 2


def test_the_last_step_of_the_growth_is_the_runs_own_score(squares: Reported, opened: OpenedReport) -> None:
    steps = opened.channel(LAYER, PLANTED)["steps"]["0/0"]  # the sample is the whole of this small run
    score = numbers(opened.data["ranking"][0][0]["score"])[PLANTED]
    assert steps["images"][-1] == opened.data["groups"][0]["images"]
    assert steps["score"][-1] == pytest.approx(float(score), abs=1e-3)
    assert steps["images"] == sorted(steps["images"]) and len(steps["images"]) == 2
    row = open_run(str(squares.run)).ranking(target="logit:label", layer=LAYER).to_pylist()[PLANTED]
    given_plan = [row["score_low_given_plan"], row["score_high_given_plan"]]
    assert steps["own"] == pytest.approx(given_plan, abs=1e-3)  # as the steps are
    assert [steps["low"][-1], steps["high"][-1]] == pytest.approx(given_plan, abs=1e-3)


def test_places_targets_and_predictions_are_on_the_map(squares: Reported, opened: OpenedReport) -> None:
    places = opened.data["places"]
    assert places["columns"] == ["latitude", "longitude"]
    assert numbers(places["latitude"]).min() >= 48 and numbers(places["longitude"]).max() <= 13
    names = [entry["name"] for entry in places["values"]]
    assert names[:3] == ["target logit:label", "target column:amount", "prediction (model output)"]
    assert "mean activation of look/0" in names
    target, predicted = numbers(places["values"][0]["values"]), numbers(places["values"][2]["values"])
    squares_by_row = np.isfinite(predicted)
    assert squares_by_row.sum() == 512  # the logit of the label is what the model predicts for it
    assert np.allclose(target[squares_by_row], predicted[squares_by_row], atol=0.05)


def test_the_comparison_holds_the_other_runs_ranks(squares: Reported, opened: OpenedReport) -> None:
    assert len(opened.data["compared"]) == 6
    assert opened.data["judged"].startswith("the score moved, at a false discovery rate of 5 %")
    assert not any(numbers(one["moved"]).any() for one in opened.data["compared"])  # only the pilot differs
    other = pq.read_table(squares.run.parent / "other" / "rankings.parquet").to_pandas()
    for one in opened.data["compared"]:
        target = opened.data["targets"][one["target"]]
        rows = other[(other.target == target) & (other.group == opened.data["groups"][one["group"]]["name"])]
        assert np.array_equal(numbers(one["rank"]), rows["rank"].to_numpy(np.float32), equal_nan=True)


def test_hostile_names_are_text_and_nothing_else(opened: OpenedReport) -> None:
    assert "<script>window.hacked" not in opened.text and "<img src=x" not in opened.text
    assert "onerror=hacked" not in opened.text.replace(opened.scripts["packed-data"], "")
    assert any("<img src=x" in row["file"] for row in opened.data["rows"].values())


def test_the_same_run_gives_the_same_page(squares: Reported, tmp_path: Path) -> None:
    quietly(squares.run, output=str(tmp_path / "a.html"), top=1)
    quietly(squares.run, output=str(tmp_path / "b.html"), top=1)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_options_leave_out_what_they_say(squares: Reported, tmp_path: Path) -> None:
    quietly(squares.run, output=str(tmp_path / "a.html"), top=1, groups=(GROUPS[0],), synthesis=False)
    page = OpenedReport(tmp_path / "a.html")
    assert [group["name"] for group in page.data["groups"]] == [GROUPS[0]]
    assert page.channel(LAYER, PLANTED)["synthetic"] is None
    assert page.data["compared"] == []


def test_a_place_that_takes_no_page_is_a_one_line_error(squares: Reported, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="; choose another folder with --output"):
        quietly(squares.run, top=1, synthesis=False, output=str(tmp_path / "file" / "page.html"))


def test_unknown_groups_layers_and_devices_are_one_line_errors(
    squares: Reported, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no group 'nowhere'; there are: "):
        quietly(squares.run, groups=("nowhere",))
    with pytest.raises(UserError, match=r"no layer 'conv\*'; there are: look"):
        quietly(squares.run, layers=("conv*",))
    with pytest.raises(UserError, match="--device 'tpu': is not cpu, cuda or auto"):
        quietly(squares.run, device="tpu")
    assert main(["report", "/nowhere/run"]) == 2
    assert "holds no" in capsys.readouterr().err


def test_without_the_data_the_page_has_numbers_and_says_why_there_are_no_pictures(
    squares: Reported, tmp_path: Path
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(squares.run, moved)
    text = (moved / "job.yaml").read_text().replace(str(squares.data), str(tmp_path / "gone"))
    (moved / "job.yaml").write_text(text)
    result = quietly(moved)
    assert result.images == 0 and any(note.startswith("no pictures: dataset.path") for note in result.notes)
    page = OpenedReport(moved / "report.html")
    assert page.data["notes"] == list(result.notes)
    assert page.channel(LAYER, PLANTED)["curves"]


def test_relative_paths_are_those_of_the_directory_the_run_was_started_in(
    squares: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, elsewhere = tmp_path / "runs/squares", tmp_path / "elsewhere"
    shutil.copytree(squares.run, run)
    shutil.copytree(squares.data, tmp_path / "data")
    (elsewhere / "data").mkdir(parents=True)  # of another project
    text = (run / "job.yaml").read_text().replace(str(squares.data), "data").replace(str(squares.run), "runs/squares")
    (run / "job.yaml").write_text(text)
    monkeypatch.chdir(elsewhere)
    for path in ("../runs/squares", f"{run}/"):
        result = quietly(Path(path), synthesis=False, top=1)
        assert result.notes == () and result.images > 0


def test_where_a_run_was_started_is_told_by_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def begun(run: str, output: str) -> str:
        return begun_in(run, parse_job(square_job(Path("data"), Path("run")) | {"output": output}))

    assert (
        begun("/home/me/runs/street", "runs/street") == begun("/home/me/runs/street/", "./runs/street/") == "/home/me"
    )
    assert begun("runs/street", "runs/street") == str(tmp_path)
    assert begun("/runs/street", "runs/street") == "/"
    for run, output in (
        ("/elsewhere/moved", "runs/street"),
        ("/a/other-runs/street", "/runs/street"),
        ("/a/xruns/street", "runs/street"),
        ("s3://bucket/runs/street", "s3://bucket/runs/street"),
        ("/home/street", "../street"),
    ):
        assert begun(run, output) == str(tmp_path)


def test_a_run_with_an_absolute_output_finds_its_relative_data_from_anywhere(
    squares: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = tmp_path / "run", tmp_path / "begun"
    shutil.copytree(squares.run, run)
    begun.mkdir()
    (begun / "data").symlink_to(squares.data)
    text = (run / "job.yaml").read_text().replace(str(squares.data), "data").replace(str(squares.run), str(run))
    (run / "job.yaml").write_text(text)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["directory"] == os.getcwd()
    monkeypatch.setattr(Run, "summary", summary | {"directory": str(begun)})
    monkeypatch.chdir(run)
    result = quietly(run, synthesis=False, top=1)
    assert result.notes == () and result.images > 0
    monkeypatch.setattr(Run, "summary", summary | {"directory": str(tmp_path / "gone")})
    assert open_run(str(run)).directory == str(run)


def test_options_that_cannot_be_met_are_refused_before_anything_is_computed(squares: Reported, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"is a folder; name a file, such as .*report\.html"):
        quietly(squares.run, output=str(tmp_path))
    with pytest.raises(JobError, match="--no-images shows none"):
        quietly(squares.run, blur=True, images=False)


def test_a_run_of_an_earlier_version_without_exemplars_still_has_a_page(squares: Reported, tmp_path: Path) -> None:
    old = tmp_path / "run"
    shutil.copytree(squares.run, old)
    for name in ("exemplars.parquet", "sample.parquet", "transforms.parquet"):
        (old / name).unlink()
    with pytest.raises(UserError, match=r"exemplars\.parquet: is missing; `pcace rank`"):
        quietly(old)
    make_before(old)
    result = quietly(old)
    assert result.images == 0 and "keeps no exemplars" in result.notes[0]


def test_the_weights_must_be_those_that_were_ranked(squares: Reported, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(squares.run, other)
    text = (other / "job.yaml").read_text().replace("square_network", "SquareNetwork")
    (other / "job.yaml").write_text(text)
    with pytest.raises(UserError, match="are not the weights that this run ranked"):
        quietly(other)


def test_the_command_prints_where_the_page_is(squares: Reported, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    command = [sys.executable, "-m", "pcace_dist", "report", str(squares.run), "--top", "1", "--no-synthesis"]
    done = subprocess.run([*command, "--output", str(target)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{target}: ")
    assert "pcace report: images and their activation maps" in done.stderr


def test_the_report_needs_neither_ray_nor_the_service(squares: Reported, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['ray'] = None\n"
        "from pcace_dist.reporting.build import build_report\n"
        "from pcace_dist.reporting.options import ReportOptions\n"
        f"options = ReportOptions(top=1, synthesis=False, output={str(tmp_path / 'p.html')!r})\n"
        f"build_report({str(squares.run)!r}, options)\n"
        "rooms = ('pcace_dist.run', 'pcace_dist.worker', 'pcace_dist.executors')\n"
        "assert not [name for name in sys.modules if name.startswith(rooms)]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


def test_the_source_reads_layers_by_glob(squares: Reported) -> None:
    source = open_report_source(str(squares.run), layers=("lo*",))
    assert source.ranking.layers == (("look", 4),)
    assert json.dumps(square_job(squares.data, squares.run))


def test_a_run_and_its_data_on_s3_give_a_page_on_s3(squares: Reported, tmp_path: Path) -> None:
    with moto_server() as endpoint:
        client = s3_client(endpoint)
        client.create_bucket(Bucket="bucket")
        for folder, prefix in ((squares.data, "images"), (squares.run, "run")):
            for path in folder.rglob("*"):
                if path.is_file() and "attempts" not in path.parts:
                    client.upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(folder)}")
        job = (squares.run / "job.yaml").read_text().replace(str(squares.data), "s3://bucket/images")
        client.put_object(Bucket="bucket", Key="run/job.yaml", Body=job.encode())
        command = [sys.executable, "-m", "pcace_dist", "report", "s3://bucket/run", "--top", "1", "--no-synthesis"]
        environment = s3_environment(endpoint)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("s3://bucket/run/report.html: "), done.stdout
        client.download_file("bucket", "run/report.html", str(tmp_path / "page.html"))
    assert len(OpenedReport(tmp_path / "page.html").channel(LAYER, PLANTED)["exemplars"]) == 8
