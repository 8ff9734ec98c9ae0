"""Whole jobs against every kind of target: the values are those of the formula, and every verb knows their names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.codes.stored import open_codes
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.config.job import parse_job
from pcace_dist.storage.files import Storage
from tests.digits import bytes_of, digits_job, ranked, write_digits
from tests.reporting.opened import OpenedReport
from tests.reporting.square import square_network, write_squares
from tests.statistics.mnist import images, network


class Segmenter(nn.Module):
    """Two classes at every position: the background, and what the matched filter for squares finds."""

    def __init__(self) -> None:
        super().__init__()
        self.look = square_network().look

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        evidence = self.look(images)[:, :1]
        return {"out": torch.cat([torch.full_like(evidence, 0.05), evidence], 1), "aux": -evidence}


pytestmark = pytest.mark.usefixtures("in_process")

TARGETS: list[dict[str, Any]] = [
    {"logit": "label"},
    {"logit": 3, "minus": 5},
    {"margin": "label"},
    {"loss": "label"},
]
NAMES = ["logit:label", "logit:3-5", "margin:label", "loss:label"]


@pytest.fixture(scope="module")
def folder(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and `run`, which has kept its codes."""
    folder = tmp_path_factory.mktemp("targets")
    write_digits(folder / "data", 600)
    ranked(job(folder))
    return folder


def job(folder: Path, output: str = "run", **changes: Any) -> dict[str, Any]:
    changes = {"target": TARGETS, "statistics": {"keep_codes": True}} | changes
    return digits_job(folder / "data", folder / output, **changes)


def test_values_are_those_of_the_formula_in_float64(folder: Path) -> None:
    label, logits = logits_by_hand(folder)
    own = logits[np.arange(len(label)), label]
    others = np.where(np.arange(10) == label[:, None], -np.inf, logits)
    expected = {
        "logit:label": own,
        "logit:3-5": logits[:, 3] - logits[:, 5],
        "margin:label": own - others.max(1),
        "loss:label": np.log(np.exp(logits).sum(1)) - own,
    }
    kept = open_codes(str(folder / "run"), Storage())
    assert kept is not None
    rows = kept.read_rows(["file", "row", *(f"target:{name}" for name in expected)])
    rows = rows.sort_by([("file", "ascending"), ("row", "ascending")])
    for name, values in expected.items():
        np.testing.assert_allclose(rows[f"target:{name}"], values, rtol=0, atol=1e-4)


def logits_by_hand(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels (n,) and logits (n, 10), float64, of the network without any of the service."""
    pictures, labels = images(folder / "data")
    with torch.inference_mode():
        return labels, network()((pictures.float() / 255 - 0.1307) / 0.3081).double().numpy()


def test_rankings_have_the_canonical_names_in_the_order_of_the_job(folder: Path) -> None:
    table = open_run(str(folder / "run")).ranking()
    assert list(dict.fromkeys(table["target"].to_pylist())) == NAMES
    assert set(table["status"].to_pylist()) == {"ok"}


def test_show_selects_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(folder / "run"), "--target", "logit:3-5", "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert "logit:3-5" in shown and "margin" not in shown
    assert main(["show", str(folder / "run"), "--target", "margin:3"]) == 2
    assert "did you mean margin:label?" in capsys.readouterr().err


def test_kept_codes_answer_the_same(folder: Path) -> None:
    target = [{"loss": "label"}, {"margin": "label"}]
    asked = job(folder, "asked", target=target, statistics={})
    (folder / "asked.yaml").write_text(json.dumps(asked))
    assert main(["rank", str(folder / "asked.yaml"), "--from-codes", str(folder / "run")]) == 0
    for name in ("loss:label", "margin:label"):
        again = open_run(str(folder / "asked")).ranking(target=name)
        assert again.equals(open_run(str(folder / "run")).ranking(target=name))


def test_extended_by_more_images_it_is_a_run_with_that_plan(folder: Path, tmp_path: Path) -> None:
    write_digits(folder / "more", 200, start=600, files=1)
    both = {"dataset": {"path": [str(folder / "data"), str(folder / "more")], "label": "label"}}
    longer = ranked(job(folder, "longer", extend=str(folder / "run"), **both))
    plan = {"keep_codes": True, "plan": str(folder / "run")}
    whole = ranked(job(folder, "whole", **both | {"statistics": plan}))
    assert bytes_of(longer) == bytes_of(whole)


def test_evaluation_watches_the_target_itself(folder: Path, tmp_path: Path) -> None:
    arguments = ["--target", "margin:label", "--layer", "conv2", "--draws", "2", "--replace", "mean"]
    assert main(["evaluate", str(folder / "run"), *arguments, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [curve["target"] for curve in found["curves"]] == ["margin:label"]
    best, random = (found["curves"][0]["areas"][order] for order in ("effect", "random"))
    assert best > random, "an order by what the model does with a channel; by score it is chance here"


def test_evaluation_watches_another_output(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(folder / "run"), "--target", "logit:3-5", "--layer", "conv1", "--draws", "2"]
    for option in ("--watch", "--effect"):
        assert main([*arguments, option, "logit:5-3", "--replace", "mean", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main([*arguments, "--watch", "logit:10-3"]) == 2
    assert "--watch logit:10-3: is none of the model's 10 outputs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--watch", "logit:label-3"])
    assert "minus goes with the index of an output" in capsys.readouterr().err


def test_report_compare_and_estimate_know_them(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    run = str(folder / "run")
    assert main(["report", run, "--no-synthesis", "--output", str(page)]) == 0
    assert OpenedReport(page).data["targets"] == NAMES
    assert main(["compare", run, run, "--target", "loss:label", "--output", str(tmp_path)]) == 0
    (tmp_path / "job.yaml").write_text(json.dumps(job(folder, "estimated")))
    assert main(["estimate", str(tmp_path / "job.yaml")]) == 0


def test_a_target_of_the_label_needs_the_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = job(folder, "none", target={"margin": "label"}, dataset={"label": None})
    (folder / "none.yaml").write_text(json.dumps(without))
    assert main(["rank", str(folder / "none.yaml")]) == 2
    assert "target {margin: label}: needs dataset.label, the column with the class index" in capsys.readouterr().err


def test_the_order_of_keys_makes_no_other_job(folder: Path) -> None:
    jobs = (parse_job(job(folder, target=target)) for target in ({"logit": 3, "minus": 5}, {"minus": 5, "logit": 3}))
    one, two = (each.fingerprint(layers=["conv1"], weights_digest="w") for each in jobs)
    assert one == two


# -- outputs with positions


@pytest.fixture(scope="module")
def squares(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and finished runs `mean`, `max` and `area`, by the reduction of their target."""
    folder = tmp_path_factory.mktemp("segments")
    write_squares(folder / "data", 400)
    for how in ("mean", "max", "area"):
        ranked(segments(folder, how, target=[{"output": 1, "reduce": how}, {"logit": 1, "minus": 0, "reduce": how}]))
    return folder


def segments(folder: Path, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": str(folder / "data"), "label": "label"},
        "model": {"factory": "tests.run.test_target_jobs:Segmenter", "weights": "factory", "input": {"mode": "L"}},
        "layers": ["look"],
        "statistics": {"components": 2, "pilot": 256, "keep_codes": True},
        "compute": {"batch": 32},
        "workers": {"max": 2},
        "output": str(folder / output),
    } | changes


def test_a_schedule_ranks_once_for_the_same_targets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "weekly.yaml").write_text(json.dumps(job(folder, "weekly", statistics={})))
    for words in ("published", "nothing new"):
        assert main(["rerank", str(folder / "weekly.yaml"), "--no-report"]) == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize("how", ["mean", "max", "area"])
def test_a_reduced_class_has_the_values_by_hand_and_finds_its_channel(squares: Path, how: str) -> None:
    pictures, _ = images(squares / "data")
    with torch.inference_mode():
        out = Segmenter().eval()(pictures.float() / 255)["out"].flatten(2)
    foreground = {"mean": out.mean(2), "max": out.amax(2), "area": _shares(out)}[how].double().numpy()
    kept = open_codes(str(squares / how), Storage())
    assert kept is not None
    names = [f"output:1:{how}", f"logit:1-0:{how}"]
    rows = kept.read_rows(["file", "row", *(f"target:{name}" for name in names)])
    rows = rows.sort_by([("file", "ascending"), ("row", "ascending")])
    np.testing.assert_allclose(rows[f"target:{names[0]}"], foreground[:, 1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows[f"target:{names[1]}"], foreground[:, 1] - foreground[:, 0], rtol=0, atol=1e-5)
    best = open_run(str(squares / how)).ranking(target=names[0], top=1)
    assert best["channel"].to_pylist() == [0] and best["score"][0].as_py() > 0.9


def _shares(out: Tensor) -> Tensor:
    wins = (out[:, 1] > out[:, 0]).float().mean(1)
    return torch.stack([1 - wins, wins], 1)


def test_every_verb_knows_a_reduced_target(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(squares / "mean")
    assert main(["show", run, "--target", "output:1:mean"]) == 0
    assert "output:1:mean" in capsys.readouterr().out
    asked = segments(squares, "asked", target={"output": 1, "reduce": "mean"}, statistics={"components": 2})
    (squares / "asked.yaml").write_text(json.dumps(asked))
    assert main(["rank", str(squares / "asked.yaml"), "--from-codes", run]) == 0
    assert main(["compare", run, str(squares / "asked"), "--target", "output:1:mean", "--output", str(squares)]) == 0
    for how in ("mean", "area"):
        page = squares / f"{how}.html"
        assert main(["report", str(squares / how), "--no-synthesis", "--output", str(page)]) == 0
        data = OpenedReport(page).data
        assert data["targets"] == [f"output:1:{how}", f"logit:1-0:{how}"]
        assert any("output:1:area has no gradient" in note for note in data["notes"]) == (how == "area")


def test_an_evaluation_watches_a_mean_or_a_maximum(squares: Path) -> None:
    for run, watch in (("mean", []), ("max", []), ("area", ["--watch", "output:1:mean"])):
        arguments = ["--target", f"output:1:{run}", "--draws", "2", "--replace", "mean", *watch]
        assert main(["evaluate", str(squares / run), *arguments, "--output", str(squares)]) == 0
        found = json.loads((squares / "evaluation.json").read_text())
        assert found["curves"][0]["areas"]["taylor"] > 0.9, "channel 0 alone is the output"


@pytest.mark.parametrize(
    ("run", "watch", "words"),
    [
        ("area", [], "target output:1:area: areas have no gradient, .* for example --watch output:1:mean"),
        ("mean", ["--watch", "output:1:area"], "--watch output:1:area: areas have no gradient"),
        ("mean", ["--watch", "output:1"], "--watch output:1: the model's outputs have positions; write output:1:mean"),
    ],
)
def test_what_cannot_be_watched_says_what_can(
    squares: Path, run: str, watch: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(squares / run), *watch, "--output", str(squares)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_column_needs_no_word_about_maps(squares: Path) -> None:
    run = ranked(segments(squares, "amount", target={"column": "amount"}, statistics={"components": 2, "pilot": 256}))
    assert run.ranking(top=1)["channel"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            {"output": 1},
            r"of shape \(32, 2, 32, 32\).* for example target: \{output: 0, reduce: mean\} \(or max, area\)",
        ),
        (
            {"output": 2, "reduce": "mean"},
            "target output:2:mean: the model has 2 outputs; the index must be from 0 to 1",
        ),
        (
            [{"output": 1, "reduce": "mean"}, {"output": 1, "reduce": "area"}],
            "must have the same reduce; make two jobs",
        ),
    ],
)
def test_a_wrong_reduction_is_one_line(
    squares: Path, target: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (squares / "wrong.yaml").write_text(json.dumps(segments(squares, "wrong", target=target)))
    assert main(["rank", str(squares / "wrong.yaml")]) == 2
    assert re.search(words, capsys.readouterr().err)


# -- embeddings


@pytest.fixture(scope="module")
def embedded(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` with a column of vectors, `p.npy` with one for each digit, `p.npz`; `run`, which has kept its codes."""
    folder = tmp_path_factory.mktemp("embeddings")
    write_digits(folder / "data", 600)
    random = np.random.default_rng(0)
    for path in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(path)
        rows = list(random.normal(size=(len(table), 10)).astype(np.float32)) if len(table) else []
        text: list[Any] = [None if at == 3 else row[:7] if at == 5 else row for at, row in enumerate(rows)]
        pq.write_table(table.append_column("text", pa.array(text, pa.list_(pa.float32()))), path, row_group_size=100)
    np.save(folder / "p.npy", np.eye(10) + 0.1)
    np.savez(folder / "p.npz", even=np.arange(10) % 2 == 0.0, odd=np.arange(10) % 2 * 1.0)
    ranked(embedding_job(folder))
    return folder


def embedding_job(folder: Path, output: str = "run", **changes: Any) -> dict[str, Any]:
    target = [
        {"cosine": "text"},
        {"cosine": str(folder / "p.npy"), "index": "label"},
        {"cosine": str(folder / "p.npz"), "name": "odd"},
    ]
    return job(folder, output, **{"target": target, "max_bad_rows": 0.02} | changes)


COSINES = ["cosine:text", "cosine:p.npy:label", "cosine:p.npz:odd"]


def test_cosines_are_those_by_hand_and_rows_without_a_vector_are_named(embedded: Path) -> None:
    label, embedding = logits_by_hand(embedded)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((embedded / "data").glob("*.parquet")))
    text = [row if row is not None and len(row) == 10 else None for row in table["text"].to_pylist()]
    has_vector = np.array([row is not None for row in text])
    by_hand = [
        np.array([np.ones(10) if row is None else row for row in text]),
        (np.eye(10) + 0.1)[label],
        np.tile(np.arange(10) % 2, (600, 1)),
    ]
    kept = open_codes(str(embedded / "run"), Storage())
    assert kept is not None
    rows = kept.read_rows(["file", "row", *(f"target:{name}" for name in COSINES)])
    rows = rows.sort_by([("file", "ascending"), ("row", "ascending")])
    assert len(rows) == 594
    for name, vectors in zip(COSINES, by_hand, strict=True):
        lengths = np.linalg.norm(embedding, axis=1) * np.linalg.norm(vectors, axis=1)
        expected = ((embedding * vectors).sum(1) / lengths)[has_vector]
        np.testing.assert_allclose(rows[f"target:{name}"], expected, rtol=0, atol=1e-5)
    reasons = pq.read_table(embedded / "run" / "bad_rows.parquet")["reason"].to_pylist()
    assert sorted(set(reasons)) == ["column text has 7 values, the model 10 outputs", "column text is null"]


def test_every_verb_knows_a_cosine(embedded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(embedded / "run")
    assert main(["show", run, "--target", "cosine:p.npz:odd"]) == 0
    assert "cosine:p.npz:odd" in capsys.readouterr().out
    page = embedded / "report.html"
    assert main(["report", run, "--no-synthesis", "--output", str(page)]) == 0
    data = OpenedReport(page).data
    assert data["targets"] == COSINES
    assert any("target cosine:text is of an embedding" in note for note in data["notes"])
    arguments = ["--target", "cosine:p.npy:label", "--layer", "conv2", "--draws", "2", "--replace", "mean"]
    for watch in ([], ["--watch", "cosine:text"]):
        assert main(["evaluate", run, *arguments, *watch, "--output", str(embedded)]) == 0
        found = json.loads((embedded / "evaluation.json").read_text())
        assert found["untouched_accuracy"][0]["accuracy"] is None
    assert main(["evaluate", run, *arguments, "--watch", "cosine:other", "--output", str(embedded)]) == 2
    assert "--watch cosine:other: is none of the model's 10 outputs" in capsys.readouterr().err
    asked = embedding_job(embedded, "asked", statistics={})
    (embedded / "asked.yaml").write_text(json.dumps(asked))
    assert main(["rank", str(embedded / "asked.yaml"), "--from-codes", run]) == 0
    assert bytes_of(embedded / "asked") == bytes_of(embedded / "run")


def test_a_file_that_moved_is_the_same_job_and_one_that_changed_is_not(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(changed: float = 0, **changes: Any) -> int:
        np.save(tmp_path / "p.npy", np.eye(10) + 0.1 + changed)
        np.savez(tmp_path / "p.npz", even=np.arange(10) % 2 == 0.0, odd=np.arange(10) % 2 * 1.0)
        moved = embedding_job(embedded, **changes)
        for target in moved["target"][1:]:
            target["cosine"] = str(tmp_path / Path(target["cosine"]).name)
        (tmp_path / "job.yaml").write_text(json.dumps(moved))
        return main(["rank", str(tmp_path / "job.yaml")])

    assert asked() == 0
    assert asked(changed=1) == 2
    assert "target cosine: the file of vectors has changed since the run" in capsys.readouterr().err
    extended: dict[str, Any] = {"output": "longer", "extend": str(embedded / "run")}
    assert asked(changed=1, **extended) == 2
    assert "was ranked against other vectors of target cosine" in capsys.readouterr().err
    assert asked(**extended) == 0
    assert bytes_of(embedded / "longer") == bytes_of(embedded / "run")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"cosine": "ink"}, "target cosine: column 'ink' in .* is double; it must be a list of numbers"),
        ({"cosine": "txt"}, "target cosine: no column 'txt' in .*did you mean 'text'"),
        ({"column": "text"}, "target: column 'text' in .* it must be numeric"),
        ({"cosine": "nowhere.npy", "index": 0}, "nowhere.npy: no such file"),
        ({"cosine": "wide.npy", "index": 0}, "vectors of 12 values, and the model has 10 outputs; .* model.output"),
    ],
)
def test_a_wrong_cosine_is_one_line(
    embedded: Path, target: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(embedded)
    np.save("wide.npy", np.ones((1, 12)))
    (embedded / "wrong.yaml").write_text(json.dumps(embedding_job(embedded, "wrong", target=target)))
    assert main(["rank", str(embedded / "wrong.yaml")]) == 2
    assert re.search(words, capsys.readouterr().err)
