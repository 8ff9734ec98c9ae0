"""What a notebook shows of a run: the best channels, escaped, small, and with pictures only where they are near."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pcace_dist.artifacts.notebook import html, pictures
from pcace_dist.artifacts.reading.class_names import ClassNames
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.errors import NotInstalled
from tests.digits import digits_job, ranked, write_digits

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, in_process: None) -> Run:
    folder = tmp_path_factory.mktemp("run")
    write_digits(folder / "data", 300)
    return ranked(digits_job(folder / "data", folder / "out", group_by="place"))


class Cells(HTMLParser):
    """The cells of a table as text, the tags that were met, and the pictures' bytes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.images: list[Image.Image] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            kind, _, data = str(dict(attrs)["src"]).partition(";base64,")
            assert kind == "data:image/webp"
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_best_of_each_layer_and_group_are_those_of_the_ranking(run: Run) -> None:
    text = run._repr_html_()
    cells = Cells(text)
    assert cells.rows[0] == ["target", "group", "layer", "channel", "rank", "score", "effect", "responds most to"]
    table = run.ranking().to_pylist()
    blocks = dict.fromkeys((row["target"], row["group"], row["layer"]) for row in table)
    best = [
        sorted((row for row in table if (row["target"], row["group"], row["layer"]) == block), key=_layer_rank)[:3]
        for block in blocks
    ]
    wanted = [(row["layer"], str(row["channel"])) for block in best for row in block if row["layer_rank"] is not None]
    assert [(row[2], row[3]) for row in cells.rows[1:]] == wanted[: html.MOST_ROWS]
    assert len(cells.images) >= pictures.EACH and all(image.size == (28, 28) for image in cells.images)
    assert len(text) < 200_000 and "script" not in text


def _layer_rank(row: dict[str, object]) -> int:
    return int(str(row["layer_rank"] or 10**6))


def test_pictures_are_the_exemplars_pixel_by_pixel(run: Run) -> None:
    first = run.exemplars()
    assert first is not None
    layer, channel, file, row = (first[name][0].as_py() for name in ("layer", "channel", "file", "row"))
    data = pq.read_table(Path(run.job.dataset.path[0]) / file)["image"][row].as_py()
    ((url, *others),), notes = run._pictures([(layer, channel)])
    assert not notes and len(others) == pictures.EACH - 1
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
    assert picture.tobytes() == Image.open(io.BytesIO(data["bytes"])).convert("L").tobytes()


def test_without_the_images_there_is_the_table_and_why(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    job = (tmp_path / "run" / "job.yaml").read_text()
    (tmp_path / "run" / "job.yaml").write_text(job.replace(run.job.dataset.path[0], str(tmp_path / "gone")))
    text = open_run(str(tmp_path / "run"))._repr_html_()
    assert "<img" not in text and "no pictures: dataset.path" in text and "conv2" in text


def test_little_is_read_for_pictures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is room for, of the first rows, also where a channel is in several rows."""
    monkeypatch.setattr(pictures, "MOST_BYTES", 5_000)
    few = Cells(run._repr_html_()).images
    assert 0 < len(few) < 20 and len(run._repr_html_()) < 15_000
    monkeypatch.setattr(pictures, "MOST_FILES", 2)  # of three
    assert "<img" not in run._repr_html_()


def test_a_run_as_a_data_frame_needs_pandas_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = run.to_pandas(top=2, layer="conv2")
    assert frame["channel"].tolist() == run.ranking(top=2, layer="conv2")["channel"].to_pylist()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalled, match=r"Run\.to_pandas needs packages of the extra `pandas`; install them: "):
        run.to_pandas()


def test_names_are_text_and_never_markup() -> None:
    row = {"target": "column:<b>", "group": "<script>", "layer": "a&b", "channel": 1, "layer_rank": 1, "rank": 1}
    row |= {"rank_low": None, "rank_high": None, "score": 0.5, "score_low": 0.25, "score_high": 0.75}
    rows = html.best_rows(pa.Table.from_pylist([row]))
    text = html.page("<i>", rows, ClassNames(), [['"><script>']], ["<u>"])
    cells = Cells(re.sub("<img[^>]*>", "", text))
    assert cells.tags == {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "small"}
    assert cells.rows[1][:6] == ["column:<b>", "<script>", "a&b", "1", "1 ", "0.500 [0.250, 0.750]"]
    assert "<script" not in text
