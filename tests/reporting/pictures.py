"""python -m tests.reporting.pictures docs: the pictures of docs/report.md, report-VIEW.png for every view.

A schedule of the MNIST example (three of its five files, then all), evaluated and selected from, and the city of
examples/street with five columns as targets; their reports, in Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main as pcace
from tests.reporting.browser import Tab, open_browser

FOLDER = Path("runs/pictures")  # as it stands in the pages
WIDTH, COLOURS, MOST_BYTES = 1280, 224, 150_000
MNIST, STREET = Path("examples/mnist"), Path("examples/street")
CONCEPTS = ("no2", "traffic", "greenery", "sky", "building_height")


@dataclass(frozen=True)
class Shot:
    """A view, by its address in the page of one of the runs; height: of the picture at most, in pixels."""

    name: str
    run: str
    address: str
    height: int = 1000


SHOTS = (
    Shot("overview", "mnist", "overview/0/3", 1150),
    Shot("ranking", "mnist", "ranking/0/3", 700),
    Shot("channel", "mnist", "channel/0/3/", 1500),
    Shot("evidence", "mnist", "evidence/0/3"),
    Shot("concepts", "street", "concepts/0/0", 1050),
    Shot("trust", "mnist", "trust/0/3", 1150),
    Shot("groups", "mnist", "groups/0/3", 1100),
    Shot("map", "street", "map/0/0", 900),
    Shot("comparison", "mnist", "comparison/0/3", 1100),
)


def rank_mnist(folder: Path) -> Path:
    """The last run of a schedule of two."""
    data, output = folder / "data", folder / "weekly"
    files = sorted((MNIST / "data").glob("*.parquet"))
    data.mkdir()
    job = ["rerank", str(MNIST / "job.yaml"), "--no-report"]
    job += ["--set", f"dataset.path={data}", "--set", f"output={output}"]
    for part in (files[:3], files[3:]):
        for file in part:
            shutil.copy(file, data)
        _done(job)
    run = open_run(str(output)).path
    _done(["evaluate", run, "--group", "3", "--draws", "5", "--images", "1000", "--replace", "mean"])
    _done(["select", run])
    _done(["report", run])
    return Path(run)


def rank_street(folder: Path) -> Path:
    run, targets = folder / "street", "[" + ", ".join(f"{{column: {name}}}" for name in CONCEPTS) + "]"
    _done(["rank", str(STREET / "job.yaml"), "--set", f"output={run}", "--set", f"target={targets}", "--top", "1"])
    _done(["report", str(run), "--top", "2", "--no-synthesis"])
    return run


def _done(arguments: list[str]) -> None:
    code = pcace(arguments)
    if code not in (0, 3):  # 3: drift
        raise SystemExit(f"pcace {arguments[0]}: exit code {code}")


def draw(shot: Shot, page: Path, browser: Any) -> bytes:
    tab = Tab(browser, page.resolve(), width=WIDTH)
    tab.page.goto(f"{page.resolve().as_uri()}#{shot.address}")
    tab.page.reload()
    tab.page.wait_for_selector("html[data-ready]")
    tab.wait_for_charts()
    tab.page.wait_for_function("[...document.images].every(image => image.complete)")
    taken = Image.open(io.BytesIO(tab.page.screenshot(full_page=True))).convert("RGB")
    tab.page.close()
    return _small(taken.crop((0, 0, WIDTH, min(shot.height, taken.height))))


def _small(picture: Image.Image) -> bytes:
    """A PNG of few colours; fewer, and then narrower, where it would be large."""
    for colours, width in ((COLOURS, WIDTH), (64, WIDTH), (64, 960), (32, 800)):
        size = width, round(picture.height * width / picture.width)
        sink = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).quantize(colours, dither=Image.Dither.NONE).save(
            sink, "PNG", optimize=True
        )
        if len(sink.getvalue()) < MOST_BYTES:
            break
    return sink.getvalue()


def pages() -> dict[str, Path]:
    """The reports, by run."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    runs = {"mnist": rank_mnist(FOLDER), "street": rank_street(FOLDER)}
    return {name: run / "report.html" for name, run in runs.items()}


def main(out: Path) -> None:
    made = pages()
    with open_browser() as browser:
        for shot in SHOTS:
            (out / f"report-{shot.name}.png").write_bytes(draw(shot, made[shot.run], browser))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
