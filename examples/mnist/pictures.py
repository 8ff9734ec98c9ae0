"""The pictures of README.md and docs/method.md, from a run of job.yaml: what `pcace show` prints, and score by effect.

    python -m examples.mnist.pictures RUN OUT

OUT gets ranking.svg and pair.svg. `make pictures` ranks and draws them into docs/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa

from examples import drawing
from examples.drawing import BLACK, BLUE, GREY, ORANGE, Panel
from examples.mnist.layerwise import Floats
from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main as pcace

GROUP, TOP = "3", "5"
LAYER_COLOURS = {"conv1": ORANGE, "conv2": BLUE, "conv3": BLACK}
CORNERS = (  # tells, does, words
    (1, 1, "tells and does: look here"),
    (1, 0, "tells, not used: a witness"),
    (0, 1, "used, tells little alone: a part of a team"),
    (0, 0, "neither"),
)
DASHED, FAINT = ' stroke-dasharray="4 3"', ' stroke-opacity="0.25"'
CELL, LINE = 7.8, 18.0  # of a monospaced letter at 13 px
WIDTH, HEIGHT, LEFT, TOP_EDGE, BOTTOM = 620.0, 400.0, 44.0, 12.0, 40.0


def ranking_svg(path: str) -> str:
    """What `pcace show` prints of a run's best channels, as a picture of a terminal."""
    command = ["show", path, "--group", GROUP, "--top", TOP]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        pcace(command)
    lines = [f"$ pcace show runs/mnist --group {GROUP} --top {TOP}", *printed.getvalue().rstrip().splitlines()]
    width, height = CELL * max(map(len, lines)) + 32, LINE * len(lines) + 24
    rows = [_monospaced(16, 26 + LINE * number, words) for number, words in enumerate(lines)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="monospace" font-size="13" fill="#d0d0d0">',
            '<rect width="100%" height="100%" rx="8" fill="#292929"/>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _monospaced(x: float, y: float, words: str) -> str:
    fitted = f' textLength="{CELL * len(words):g}"' if words else ""
    return f'<text x="{x:g}" y="{y:g}" xml:space="preserve"{fitted}>{escape(words)}</text>'


def pair_svg(channels: pa.Table) -> str:
    """Score by effect of one ranking's channels, with their intervals; the four corners by name."""
    columns = ("layer", "channel", "score", "score_low", "score_high", "effect", "effect_low", "effect_high")
    rows = [
        row for row in channels.select(columns).to_pylist() if row["score"] is not None and row["effect"] is not None
    ]
    legend = drawing.key([(colour, layer) for layer, colour in LAYER_COLOURS.items()], step=90)
    panel = Panel(WIDTH, HEIGHT, list(_scatter(rows)))
    return drawing.sheet(
        [[panel]], f"What channels tell about the logit of a {GROUP}, and what the network does with them", [legend]
    )


def _scatter(rows: Sequence[dict[str, float | str]]) -> Iterator[str]:
    scores, effects = (np.array([row[name] for row in rows], dtype=np.float64) for name in ("score", "effect"))
    (left, right), (low, high) = _tenths(scores), _tenths(effects)
    across = drawing.scale(left, right, LEFT, WIDTH)
    up = drawing.scale(low, high, HEIGHT - BOTTOM, TOP_EDGE)
    for value in np.arange(left, right + 0.01, 0.1):
        yield drawing.line(across(value), up(low), across(value), up(high))
        yield drawing.text(across(value), HEIGHT - BOTTOM + 16, f"{value:.1f}")
    for value in np.arange(low, high + 0.01, 0.1):
        yield drawing.line(LEFT, up(value), WIDTH, up(value))
        yield drawing.text(LEFT - 6, up(value) + 4, f"{abs(value) if abs(value) < 0.01 else value:.1f}", anchor="end")
    middle = across(float(np.median(scores))), up(float(np.median(effects)))
    yield drawing.line(middle[0], up(low), middle[0], up(high), GREY, DASHED)
    yield drawing.line(LEFT, middle[1], WIDTH, middle[1], GREY, DASHED)
    yield drawing.text((LEFT + WIDTH) / 2, HEIGHT - 4, "score: what a channel tells")
    sideways = drawing.text(0, 0, "effect: what the model does with it")
    yield f'<g transform="translate(10,{(up(low) + up(high)) / 2:g}) rotate(-90)">{sideways}</g>'
    for tells, does, words in CORNERS:
        x, anchor = (WIDTH - 8, "end") if tells else (LEFT + 8, "start")
        yield drawing.text(x, TOP_EDGE + 16 if does else up(low) - 8, words, anchor=anchor, size=12, bold=True)
    for row in rows:
        colour = LAYER_COLOURS[str(row["layer"])]
        x, y = across(float(row["score"])), up(float(row["effect"]))
        yield drawing.line(
            across(max(left, float(row["score_low"]))), y, across(float(row["score_high"])), y, colour, FAINT
        )
        yield drawing.line(x, up(float(row["effect_low"])), x, up(float(row["effect_high"])), colour, FAINT)
        yield drawing.dot(x, y, 3.5, colour)


def _tenths(values: Floats) -> tuple[float, float]:
    """The tenths around all values."""
    return float(np.floor(10 * values.min()) / 10), float(np.ceil(10 * values.max()) / 10)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "ranking.svg").write_text(ranking_svg(asked.run))
    (asked.out / "pair.svg").write_text(pair_svg(open_run(asked.run).ranking(group=GROUP)))


if __name__ == "__main__":
    main()
