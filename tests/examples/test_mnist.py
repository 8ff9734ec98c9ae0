"""The MNIST example from raw idx files to the figures: small here, at full size under the marker `apps`."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.mnist import figures, pictures, questions
from examples.mnist.layerwise import Layer, layers_of, quarter, shared, spearman, twins
from pcace_dist.api import rank
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.reporting.build import build_report
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.progress import ReportProgress
from tests.examples.mnist_files import write_idx
from tests.reporting.opened import OpenedReport
from tests.statistics import mnist
from tests.whole_jobs import jobs_without_ray

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "examples" / "mnist" / "figures"
DRAWN = ["channels.svg", "components.svg", "images.svg", "numbers.md", "scores.svg", "shared.svg"]
LAYERS = {"conv1": 8, "conv2": 16, "conv3": 32}
SMALL = ["conv1", "conv2"]  # for which the small walk asks its questions
TRAINED, TESTED = 3500, 1000  # of the embedded images, as if they were the two parts of MNIST


@dataclass(frozen=True)
class Walk:
    """Everything that the example leaves behind."""

    raw: Path
    shards: Path
    run: Path
    kept: Path
    questions: Path
    figures: Path


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """The commands of `make mnist MNIST_DIR=...` but `evaluate`, in this process."""
    folder = tmp_path_factory.mktemp("mnist")
    names = ("raw", "shards", "run", "kept", "questions", "figures")
    made = Walk(*(folder / name for name in names))
    pictures, labels = mnist.images(mnist.EXAMPLE)
    images = pictures[:, 0].numpy()
    write_idx(made.raw, "train", images[:TRAINED], labels[:TRAINED])
    write_idx(made.raw, "t10k", images[-TESTED:], labels[-TESTED:])
    job = [str(ROOT / "examples/mnist/job.yaml"), "--set", f"dataset.path={made.shards}"]
    job += ["--set", f"model.weights={ROOT}/examples/mnist/weights.safetensors", "--set", "statistics.pilot=512"]
    more = ["statistics.keep_codes=true", "statistics.components=10", f"layers=[{','.join(SMALL)}]"]
    with jobs_without_ray():
        assert main(["pack", str(made.raw), str(made.shards), "--shard-rows", "2000"]) == 0
        assert main(["rank", *job, "--set", f"output={made.run}"]) == 0
        assert main(["rank", *job, *(f"--set={setting}" for setting in (f"output={made.kept}", *more))]) == 0
        questions.main([str(made.kept), str(made.questions)])
    figures.main([str(made.questions), str(made.figures)])
    return made


def test_the_shards_hold_the_idx_files_images_and_labels(walk: Walk) -> None:
    table = pq.read_table(walk.shards)
    pictures, labels = mnist.images(mnist.EXAMPLE)
    test = table.filter(np.array(table["split"].to_pylist()) == "t10k")
    assert (len(table), len(test)) == (TRAINED + TESTED, TESTED)
    assert test["label"].to_pylist() == labels[-TESTED:].tolist()
    for place in (0, TESTED - 1):
        image = np.asarray(Image.open(io.BytesIO(test["image"][place].as_py()["bytes"])))
        assert (image == pictures[len(labels) - TESTED + place, 0].numpy()).all()


def test_every_digit_has_a_ranking_of_all_56_channels(walk: Walk) -> None:
    run = open_run(str(walk.run))
    assert run.summary["images"] == TRAINED + TESTED
    table = run.ranking()
    assert len(table) == 10 * sum(LAYERS.values())
    assert set(table["status"].to_pylist()) == {"ok"}


def test_the_report_shows_channels_of_every_layer_and_digits(walk: Walk) -> None:
    options = ReportOptions(top=2, synthesis=False)
    result = build_report(str(walk.run), options, progress=ReportProgress(quiet=True))
    assert result.images > 0 and not result.notes
    page = OpenedReport(Path(result.path))
    assert {layer for layer, _ in page.data["pages"]} == set(LAYERS)
    assert page.image(0).shape == (28, 28) and page.image(0).max() > 0.5


def test_the_two_samples_of_a_digit_have_no_image_in_common(walk: Walk) -> None:
    table = pq.read_table(walk.questions / "samples.parquet")
    ids, labels = questions.kept_rows(walk.kept)
    label_of = dict(zip(ids.to_pylist(), labels.tolist(), strict=True))
    (column,) = [name for name in table.column_names if name != "id"]
    size = int(column.removeprefix("n"))
    images_of: dict[str, list[str]] = {}
    for id_, sample in zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True):
        if sample is not None:
            images_of.setdefault(sample, []).append(id_)
    assert sorted(images_of) == [f"{digit} {half}" for digit in range(10) for half in "ab"]
    assert {len(rows) for rows in images_of.values()} == {size}, "each id is in one sample at most, for it is one row"
    assert all(str(label_of[id_]) == sample[0] for sample, rows in images_of.items() for id_ in rows)


def test_all_sizes_of_which_every_digit_has_two_samples_are_asked() -> None:
    assert questions.sizes_for(np.repeat(np.arange(10), 6000)) == [300, 1000, 3000]
    assert questions.sizes_for(np.repeat(np.arange(10), 5999)) == [300, 1000]
    assert questions.sizes_for(np.repeat(np.arange(10), 599)) == [299]


def test_all_images_and_all_components_are_the_kept_run_itself(walk: Walk) -> None:
    answer = walk.questions / "p10-all" / "rankings.parquet"
    assert answer.read_bytes() == (walk.kept / "rankings.parquet").read_bytes()


def test_what_is_answered_is_not_asked_again(walk: Walk, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in walk.questions.glob("*/rankings.parquet")}
    questions.main([str(walk.kept), str(walk.questions)])
    assert {path: path.stat().st_mtime_ns for path in walk.questions.glob("*/rankings.parquet")} == before
    assert len(before) == 8 and len(capsys.readouterr().out.splitlines()) == 8


def test_ranks_within_a_layer_are_those_of_a_run_of_that_layer_alone(walk: Walk, tmp_path: Path) -> None:
    settings = [f"dataset.path={walk.kept}", "statistics.keep_codes=false", "layers=[conv2]", f"output={tmp_path}/run"]
    alone = rank(walk.kept / "job.yaml", overrides=settings)
    whole = layers_of(open_run(str(walk.kept)))["conv2"]
    for digit, one in whole.items():
        table = alone.ranking(group=int(digit))
        for name in ("rank", "rank_low", "rank_high"):
            assert getattr(one, name).tolist() == table[name].to_pylist()


def test_the_pictures_show_what_is_printed_and_every_channel_of_a_digit(walk: Walk, tmp_path: Path) -> None:
    pictures.main([str(walk.run), str(tmp_path)])
    ranking, pair = (ET.parse(tmp_path / name).getroot() for name in ("ranking.svg", "pair.svg"))
    words = [element.text for element in ranking.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "$ pcace show runs/mnist --group 3 --top 5" and len(words) > 7
    dots = pair.findall(".//{http://www.w3.org/2000/svg}circle")
    both = open_run(str(walk.run)).ranking(group="3").to_pandas()[["score", "effect"]].dropna()
    assert len(dots) == len(both) + len(LAYERS) and len(both) > 40, "and one for each layer below"
    curves = (tmp_path / "curves.svg").read_text()
    sample = open_run(str(walk.run)).sample()
    assert sample is not None
    shown = sample["group"].to_pylist().count(pictures.OF_A)
    assert (curves.count("h0"), curves.count("<circle")) == (3 * shown, 9), "three clouds, nine knots"


def test_the_figures_are_drawn_and_their_numbers_printed(walk: Walk) -> None:
    assert sorted(path.name for path in walk.figures.iterdir()) == DRAWN
    for path in walk.figures.glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert path.stat().st_size < 100_000
    heat_map = (walk.figures / "channels.svg").read_text()
    assert heat_map.count("<rect") >= 10 * sum(LAYERS[layer] for layer in SMALL), "a cell for every channel and digit"
    printed = (walk.figures / "numbers.md").read_text()
    assert f"{TRAINED + TESTED:,} images" in printed
    assert "nan" not in printed and "nan" not in heat_map


def test_a_folder_without_answers_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no answers; run python"):
        figures.main([str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="has no kept codes; rank with"):
        questions.main([str(tmp_path), str(tmp_path / "out")])


# -- known answers


def ranked(order: list[int], *, width: int = 0) -> Layer:
    """A layer whose channels have the ranks of `order` (from 1), each interval that much wider on both sides."""
    rank_ = np.array(order, np.int32)
    score = 1.0 / rank_
    low, high = np.maximum(1, rank_ - width), np.minimum(len(order), rank_ + width)
    return Layer(100, score, score, score, score, score, rank_, low.astype(np.int32), high.astype(np.int32))


def test_the_same_top_in_every_group_is_no_chance() -> None:
    same = shared([ranked([1, 2, 3, 4, 5, 6, 7, 8])] * 10, 2)
    assert same.seen.tolist() == same.sure.tolist() == [10, 10, 0, 0, 0, 0, 0, 0]
    assert same.by_rank.common == 2 and same.by_rank.p_value < 0.001
    assert same.by_rank.chance == pytest.approx(2 * 2 / 8, abs=0.01)


def test_what_is_not_settled_is_no_overlap() -> None:
    open_ = shared([ranked([1, 2, 3, 4], width=3)] * 5, 1)
    assert open_.seen.tolist() == [5, 0, 0, 0]
    assert open_.sure.tolist() == [0, 0, 0, 0] and open_.possible.tolist() == [5, 5, 5, 5]
    assert open_.settled.common == 0 and open_.settled.p_value == 1
    assert ranked([1, 2, 3, 4], width=3).open == 1 and ranked([1, 2, 3, 4]).open == 0


def test_shuffled_rankings_have_as_much_in_common_as_chance_gives() -> None:
    random = np.random.default_rng(3)
    p_values = [
        shared([ranked((1 + random.permutation(16)).tolist()) for _ in range(10)], 4).by_rank.p_value for _ in range(15)
    ]
    assert 0.3 < np.mean(p_values) < 0.7 and np.mean(np.array(p_values) < 0.2) < 0.4


def test_twins_are_the_two_samples_of_a_digit() -> None:
    sample_a, sample_b = ranked([1, 2, 3, 4]), ranked([4, 3, 2, 1])
    ((a, b),) = twins({"3 a": sample_a, "3 b": sample_b})
    assert (a, b) == (sample_a, sample_b) and spearman(a.squared, b.squared) == -1
    assert quarter(8) == 2 and quarter(3) == 1


# -- the committed figures


def test_the_committed_figures_are_small_and_their_sentences_have_numbers_that_were_printed() -> None:
    pages = COMMITTED / "numbers.md", ROOT / "docs" / "method.md", ROOT / "docs" / "method-tables.md"
    printed = "".join(page.read_text() for page in pages)
    told = (COMMITTED / "README.md").read_text()
    assert sorted(path.name for path in COMMITTED.iterdir()) == sorted([*DRAWN, "README.md"])
    for name in DRAWN:
        assert (COMMITTED / name).stat().st_size < 100_000
        assert f"({name})" in told
    said = set(re.findall(r"-?\b\d\.\d{2,3}\b", told))
    assert len(said) > 10
    assert said <= set(re.findall(r"-?\b\d\.\d{2,3}\b", printed))


# -- at full size


@pytest.mark.apps
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (mnist.TRAIN.exists() and mnist.TEST.exists()), reason=mnist.WITHOUT)
def test_make_mnist_from_the_idx_files_of_all_70_000_images(tmp_path: Path) -> None:
    """`make mnist MNIST_DIR=... TRAIN=1` in real processes: pack, train, rank, report, evaluate, figures."""
    raw = tmp_path / "raw"
    for part, folder in (("train", mnist.TRAIN), ("t10k", mnist.TEST)):
        pictures, labels = mnist.images(folder)
        write_idx(raw, part, pictures[:, 0].numpy(), labels)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tools = Path(sys.executable).parent
    make = ["make", "-f", str(ROOT / "Makefile"), "mnist", f"MNIST_DIR={raw}", "TRAIN=1"]
    make += [f"VENV={tools.parent}", f"STAMP={ROOT / 'README.md'}", "-o", str(ROOT / "README.md")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(make, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = tmp_path / "runs" / "mnist-walk"

    accuracy = float(re.findall(r"test accuracy (\d\.\d+)", done.stdout)[0])
    assert accuracy >= 0.985
    assert open_run(str(runs / "run")).summary["images"] == 70_000
    assert (runs / "run" / "report.html").stat().st_size > 1_000_000
    assert (runs / "run" / "evaluation.parquet").exists()
    assert sorted(path.name for path in (runs / "figures").iterdir()) == DRAWN

    answers = figures.Answers(runs / "questions")
    assert answers.sizes == [300, 1000, 3000]
    for layer in LAYERS:
        agree = [
            np.mean([spearman(a.squared, b.squared) for a, b in answers.sample(5, n, layer)]) for n in answers.sizes
        ]
        open_ = [np.mean([one.open for one, _ in answers.sample(5, n, layer)]) for n in answers.sizes]
        assert agree[0] < agree[1] < agree[2] and agree[2] > 0.9, "more images, more agreement"
        assert open_[0] > open_[1] > open_[2] > np.mean([one.open for one in answers.every(5)[layer].values()])
