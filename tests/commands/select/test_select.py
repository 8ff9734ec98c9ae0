"""Sets of whole runs, from the command line: against the kept codes as plain pyarrow reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

import pcace_dist
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands.select import one_more_pass, select
from pcace_dist.errors import JobError
from pcace_dist.statistics.sets.carried import carrying_order, layer_loss, removal_order
from tests.digits import MNIST, digits_job, ranked, write_digits
from tests.statistics.sets.laws import carried_shares, lost_shares, told_of_rows

pytestmark = pytest.mark.usefixtures("in_process")

ROWS, CHANNELS = 600, {"conv1": 8, "conv2": 16}


@pytest.fixture(scope="module")
def runs(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same ranking with kept codes and without, one from the codes, and one without effects."""
    folder = tmp_path_factory.mktemp("select")
    write_digits(folder / "data", ROWS)
    kept = {"statistics": {"keep_codes": True}}
    ranked(digits_job(folder / "data", folder / "kept", group_by="odd", **kept))
    ranked(digits_job(folder / "data", folder / "plain", group_by="odd"))
    ranked(digits_job(folder / "kept", folder / "asked", statistics={"knots": 5}, layers=["conv2"]))
    ranked(digits_job(folder / "data", folder / "off", effect={"gradient": "off"}, layers=["conv1"], **kept))
    return folder


def selected(run: Path, output: Path, *more: str) -> tuple[pa.Table, dict[str, Any]]:
    assert main(["select", str(run), "--output", str(output), *more]) == 0
    return pq.read_table(output / "select.parquet"), json.loads((output / "select.json").read_text())


def kept_columns(run: Path, name: str, layer: str, kind: str) -> tuple[pa.Table, Any]:
    """All rows, and the integers of a block of channels (n, channels, ...)."""
    parts = [pq.read_table(path) for path in sorted((run / "attempts").glob("*/codes.parquet"))]
    table = pa.concat_tables(parts)
    column = f"{name}:{layer}[0:{CHANNELS[layer]}]"
    held = np.stack([np.frombuffer(value, kind) for value in table[column].to_pylist()])
    return table, held.reshape(len(held), CHANNELS[layer], -1)


def covariance(run: Path, layer: str, odd: bool) -> Any:
    """Of the output and what goes through the channels, in the output's unit, from the kept values."""
    table, held = kept_columns(run, "effects", layer, "<i2")
    group = np.array(table["column:odd"].to_pylist()) == odd
    y = table["effect:logit:label"].to_numpy()[group]
    effects = open_run(str(run)).ranking(layer=layer, group=odd)["effect"].to_numpy()
    through = held[group, :, 0].astype(float)
    # the grids' units are those with which the published effects come out
    along = np.array([np.cov(column, y, bias=True)[0, 1] for column in through.T]) / np.var(y)
    units = np.where(along == 0, 0, effects / np.where(along == 0, 1, along))
    return np.cov(np.column_stack([y, through * units]).T, bias=True)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("layer", CHANNELS)
def test_sets_are_those_of_the_kept_values(runs: Path, tmp_path: Path, layer: str, odd: bool) -> None:
    table, _ = selected(runs / "kept", tmp_path, "--layer", layer, "--group", str(odd))
    exact = covariance(runs / "kept", layer, odd)
    order = np.argsort(table["place"].to_numpy())
    removal = np.argsort(table["removal_place"].to_numpy())
    assert len(table) == CHANNELS[layer] and set(table["group"].to_pylist()) == {odd}
    assert order[:3].tolist() == carrying_order(exact)[:3].tolist()
    assert removal[:3].tolist() == removal_order(exact)[:3].tolist()
    # out of fold: not quite those of all rows
    assert np.abs(table["share"].to_numpy()[order] - carried_shares(exact, order)).max() < 0.06
    assert np.abs(table["lost"].to_numpy()[removal] - lost_shares(exact, removal)).max() < 0.06
    assert table["share"].to_numpy()[order][-1] == pytest.approx(1)


def test_the_summary_has_sizes_with_intervals_overlaps_and_masks(runs: Path, tmp_path: Path) -> None:
    table, content = selected(runs / "kept", tmp_path, "--share", "0.8")
    assert [(one["layer"], one["group"]) for one in content["sets"]] == [
        (layer, group) for group in (False, True) for layer in CHANNELS
    ]
    for one in content["sets"]:
        rows = [r for r in table.to_pylist() if (r["layer"], r["group"]) == (one["layer"], one["group"])]
        size = one["sizes"]["0.8"]
        assert size["low"] <= size["channels"] <= size["high"] <= one["of"] and set(one["sizes"]) == {"0.5", "0.8"}
        assert size["channels"] == len(one["channels"]) == sum(row["selected"] for row in rows)
        assert one["whole"] == pytest.approx(
            layer_loss(covariance(runs / "kept", one["layer"], one["group"])), abs=1e-3
        )
        assert one["images"] == rows[0]["images"] and one["images"] < ROWS
    both = [set(one["channels"]) for one in content["sets"] if one["layer"] == "conv2"]
    overlaps = [one for one in content["overlap"] if one["layer"] == "conv2"]
    assert [one["nearest"] for one in overlaps] == [True, False]
    assert overlaps[0]["overlap"] == overlaps[0]["mean"] == len(both[0] & both[1]) / len(both[0] | both[1])
    mask = content["masks"]["conv2"]
    assert set(mask["keep"]) == both[0] | both[1] and sorted(mask["keep"] + mask["prune"]) == list(range(16))
    assert mask["mask"] == [int(channel in mask["keep"]) for channel in range(16)]


def test_without_kept_codes_one_more_pass_gives_the_same_bytes_once(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for by in ("effect", "score"):
        selected(runs / "kept", tmp_path / "kept", "--by", by)
        selected(runs / "plain", tmp_path / "plain", "--by", by)
        assert (tmp_path / "kept" / "select.parquet").read_bytes() == (
            tmp_path / "plain" / "select.parquet"
        ).read_bytes()
    assert (tmp_path / "plain" / "select" / "codes" / "codes" / "index.json").is_file()
    whole = (tmp_path / "plain" / "select.parquet").read_bytes()
    monkeypatch.setattr(select, "default_memory", lambda _: 1)  # a pass over the codes for each ranking
    selected(runs / "plain", tmp_path / "plain", "--by", "score")
    assert (tmp_path / "plain" / "select.parquet").read_bytes() == whole


def test_the_pass_stands_for_the_run_by_any_path(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "plain", tmp_path / "moved")
    said = []
    paths = [(tmp_path, "moved"), (tmp_path, "./moved"), (tmp_path / "moved", "."), (runs, tmp_path / "moved")]
    for place, path in paths:
        monkeypatch.chdir(place)
        assert main(["select", str(path)]) == 0
        said.append("one more pass" in capfd.readouterr().err)
    (tmp_path / "moved").rename(tmp_path / "again")
    assert main(["select", str(tmp_path / "again")]) == 0
    assert said == [True, False, False, False] and "one more pass" not in capfd.readouterr().err


def test_other_data_than_those_of_the_run_are_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_more_pass, "run_job", lambda job: ranked(digits_job(runs / "data", job.output)))
    (runs / "data" / "part-00600.parquet").unlink(missing_ok=True)
    write_digits(runs / "data", 50, files=1, start=600)
    assert main(["select", str(runs / "plain"), "--output", str(tmp_path)]) == 2
    (runs / "data" / "part-00600.parquet").unlink()
    assert "model or data have changed; rank it anew" in capsys.readouterr().err


def test_a_run_that_was_stopped_early_needs_its_codes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(str(runs / "plain"))
    summary = run.summary | {"stop": {"settled": True}}
    monkeypatch.setattr(type(run), "summary", summary)
    with pytest.raises(JobError, match="was stopped early and kept no codes; rank it with"):
        one_more_pass.rows_by_a_pass(run, run.path)


def test_a_run_from_codes_is_asked_with_the_codes_of_the_other(runs: Path, tmp_path: Path) -> None:
    """Its groups, folds and knots are its own."""
    table, content = selected(runs / "asked", tmp_path)
    assert [(one["layer"], one["group"], one["images"]) for one in content["sets"]] == [("conv2", None, ROWS)]
    assert table["likeness"].null_count == 0
    selected(runs / "asked", tmp_path, "--by", "score")


def test_by_score_the_first_channel_is_the_best_and_what_the_set_tells_is_that_of_its_rows(
    runs: Path, tmp_path: Path
) -> None:
    table, content = selected(runs / "kept", tmp_path, "--by", "score", "--group", "True", "--layer", "conv2")
    run = open_run(str(runs / "kept"))
    ranking = run.ranking(layer="conv2", group=True)
    order = np.argsort(table["place"].to_numpy())
    assert ranking["layer_rank"].to_pylist()[order[0]] == 1
    assert table["lost"].null_count == len(table)
    rows, codes = kept_columns(runs / "kept", "codes", "conv2", "u1")
    group = np.array(rows["column:odd"].to_pylist())
    published = pq.read_table(runs / "kept" / "transforms.parquet").to_pylist()
    transforms = {row["channel"]: row for row in published if (row["group"], row["layer"]) == (True, "conv2")}
    phi = np.array([transforms[channel]["phi"] for channel in order[:3].tolist()]).reshape(3, 2, 9)
    position = codes[group][:, order[:3]] / 31  # 8 intervals of 31 levels
    told = np.stack([sum(np.interp(position[:, c, j], range(9), phi[c, j]) for j in range(2)) for c in range(3)], 1)
    y = rows["target:logit:label"].to_numpy()[group]
    knots = transforms[int(order[0])]["target_knots"]
    hats = np.stack([np.interp(y, knots, row) for row in np.eye(9)], 1)
    (one,) = content["sets"]
    reached = table["share"].to_numpy()[order[:3]] * one["whole"]
    exact = [told_of_rows(hats, told[:, : k + 1]) for k in range(3)]
    assert np.abs(reached - exact).max() < 0.06 and (reached < np.array(exact) + 0.01).all()


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (
            "off",
            [],
            "has nothing to select by effect: logit:label, conv1: effect_status off; --by score needs no effects",
        ),
        ("kept", ["--share", "1"], "share 1: is not above 0 and below 1, as 0.9 is"),
        ("kept", ["--share", "most"], "invalid float value: 'most'"),
        ("kept", ["--layer", "conv9"], "no layer 'conv9'"),
        ("nowhere", [], "holds no"),
    ],
)
def test_wrong_questions_are_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], run: str, arguments: list[str], message: str
) -> None:
    try:
        code = main(["select", str(runs / run), *arguments])
    except SystemExit as ended:
        code = int(str(ended.code))
    error = capsys.readouterr().err
    assert code == 2 and message in error and "Traceback" not in error


def test_people_see_a_table_and_programs_the_rows(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selected(runs / "kept", tmp_path, "--layer", "conv2")
    printed = capsys.readouterr().out
    assert "logit:label, by effect" in printed and "whole: the share of the output" in printed
    assert f"with masks: {tmp_path}/select.json" in printed
    assert printed.count("90 %") == 2 and printed.count("50 %") == 2
    selected(runs / "kept", tmp_path, "--layer", "conv2", "--share", "0.5")
    assert capsys.readouterr().out.count("50 %") == 2  # in the table's head and below it
    selected(runs / "kept", tmp_path, "--layer", "conv2", "--json")
    assert json.loads(capsys.readouterr().out) == pq.read_table(tmp_path / "select.parquet").to_pylist()


def test_copies_are_named_share_what_they_carry_and_are_told_once(runs: Path, tmp_path: Path) -> None:
    """Channel 5 of conv2 becomes a copy of channel 9, and conv3 reads half of what it read from each of the two."""
    weights = load_file(MNIST / "weights.safetensors")
    for name in ("conv2.weight", "conv2.bias"):
        weights[name][5] = weights[name][9]
    weights["conv3.weight"][:, 9] /= 2
    weights["conv3.weight"][:, 5] = weights["conv3.weight"][:, 9]
    save_file(weights, tmp_path / "copies.safetensors")
    job = digits_job(runs / "data", tmp_path / "run", layers=["conv2"], statistics={"keep_codes": True})
    job["model"] |= {"weights": str(tmp_path / "copies.safetensors")}
    ranked(job)
    table, content = selected(tmp_path / "run", tmp_path)
    pair = [row for row in table.to_pylist() if row["channel"] in (5, 9)]
    assert [row["twin"] for row in pair] == [9, 5] and pair[0]["likeness"] == pytest.approx(1)
    assert {"layer": "conv2", "channels": [5, 9]} in [
        {"layer": one["layer"], "channels": one["channels"]} for one in content["duplicates"]
    ]
    assert abs(pair[0]["place"] - pair[1]["place"]) > 1  # the first of them carries for both
    told, _ = selected(tmp_path / "run", tmp_path, "--by", "score")
    places = [row["place"] for row in told.to_pylist() if row["channel"] in (5, 9)]
    assert places[0] is not None and places[1] is None  # a copy has nothing to add


def test_python_gets_the_same(runs: Path, tmp_path: Path) -> None:
    table, content = selected(runs / "kept", tmp_path, "--share", "0.8", "--layer", "conv2")
    found = pcace_dist.select(str(runs / "kept"), share=0.8, layers="conv2")
    assert found.table().equals(table) and found.masks == content["masks"]
    assert not (runs / "kept" / "select.json").exists()
    with pytest.raises(JobError, match="by 'effects': sets are chosen by effect or score"):
        pcace_dist.select(str(runs / "kept"), by="effects")
