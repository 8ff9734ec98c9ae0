"""Words of the run and of an image-text model: which channel gets which name, and errors in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pcace_dist.cli.main import main
from pcace_dist.errors import UserError
from pcace_dist.reporting.options import ReportOptions
from pcace_dist.reporting.progress import ReportProgress
from pcace_dist.reporting.selection import PageSelection, select
from pcace_dist.reporting.source import ReportSource, open_report_source
from pcace_dist.reporting.words import LabelModel, known_words, names_of
from tests.reporting.conftest import Reported, quietly
from tests.reporting.image_text import MEANING

MODEL = "tests.reporting.image_text:similarity"


@pytest.fixture(scope="module")
def source(squares: Reported) -> ReportSource:
    return open_report_source(str(squares.run))


@pytest.fixture(scope="module")
def selection(source: ReportSource) -> PageSelection:
    return select(source.ranking, ReportOptions())


def model(source: ReportSource, labels: str = MODEL, words: tuple[str, ...] | None = tuple(MEANING)) -> LabelModel:
    return LabelModel(source, ReportOptions(labels=labels, words=words))


def test_the_planted_channel_is_named_by_what_it_responds_to(source: ReportSource, selection: PageSelection) -> None:
    words = model(source).of(source, ReportProgress(quiet=True))
    assert words.similarity.shape == (600, 6) and source.sample is not None
    square = source.sample.label[words.rows] == 1
    assert words.similarity[square, 0].min() > words.similarity[~square, 0].max()
    names = names_of(source, selection, words)
    assert names is not None and (names["by"], names["words"], names["images"]) == (MODEL, 6, 600)
    word, auc, low, high = names["channels"]["look/0"][0]
    assert word == "a bright square" and auc > 0.9 and 0.85 < low <= auc <= high


def test_without_a_model_classes_and_columns_name_channels(source: ReportSource, selection: PageSelection) -> None:
    words = known_words(source)
    assert words is not None and words.names == ("label 0", "label 1", "high amount", "low amount")
    assert np.array_equal(words.similarity[:, 2], -words.similarity[:, 3])
    assert words.similarity[:, :2].sum(1).tolist() == [1.0] * 600
    names = names_of(source, selection, words)
    assert names is not None and names["channels"]["look/0"][0][0] == "high amount"


def test_no_channel_no_names(source: ReportSource) -> None:
    assert names_of(source, PageSelection((0,), {}, 0), known_words(source)) is None
    assert names_of(source, PageSelection((0,), {"look": (0,)}, 0), None) is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("nothing", "write module:function"),
        ("tests.reporting.image_text:similarly", "has no 'similarly'; .*similarity"),
        ("tests.reporting.image_text:MEANING", "MEANING is .*, not a function"),
        ("tests.reporting.nowhere:f", "there is no module 'tests.reporting.nowhere'"),
    ],
)
def test_a_function_that_is_not_there_is_a_line(source: ReportSource, labels: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--labels {labels}: .*{said}"):
        model(source, labels)


@pytest.mark.parametrize(
    ("name", "said"), [("of_one", r"gave shape \(64,\); \(64, 6\)"), ("broken", "raised ValueError")]
)
def test_a_function_that_fails_is_a_line(source: ReportSource, name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"--labels .*:{name}: {said}") as raised:
        model(source, f"tests.reporting.image_text:{name}").of(source, ReportProgress(quiet=True))
    assert "\n" not in str(raised.value)


def test_words_are_needed(source: ReportSource) -> None:
    with pytest.raises(
        UserError, match="--labels: needs words, two at least, and the run names no classes; use --words"
    ):
        model(source, words=None)


def test_without_images_no_model_names_channels(squares: Reported, tmp_path: Path) -> None:
    output = str(tmp_path / "page.html")
    result = quietly(squares.run, images=False, labels=MODEL, words=tuple(MEANING), top=1, output=output)
    assert f"no names by --labels {MODEL}: the run has no sampled images to show it" in result.notes


def test_words_come_from_a_file(squares: Reported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(squares.run), "--words", str(tmp_path / "none"), "--labels", MODEL]) == 2
    assert f"--words {tmp_path / 'none'}: cannot be read" in capsys.readouterr().err
    assert main(["report", str(squares.run), "--words", str(tmp_path / "none")]) == 2
    assert "--words: are those of --labels, which is not given" in capsys.readouterr().err
