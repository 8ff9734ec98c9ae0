"""python -m tests.serving.picture RUN docs/serve.png: the list over RUN and the runs that version 0.1.0 left."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

from tests.golden.test_golden import RUNS
from tests.reporting.browser import open_browser
from tests.serving.test_server import server, until

WIDTH, COLOURS = 1280, 128


def draw(run: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "runs")
        shutil.copytree(run, root / run.name)
        with tarfile.open(RUNS) as archive:
            archive.extractall(root / "as-0.1.0", filter="data")
        with server(root.name, cwd=root.parent) as started, open_browser() as browser:
            until(lambda: not started.get("runs.json")["unread"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 100})
            page.goto(started.url)
            shown = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            shown.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
