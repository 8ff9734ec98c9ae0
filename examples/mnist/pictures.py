"""Pictures of README.md and docs/, from a run of job.yaml: what `pcace show` prints, score by effect, curves.

    python -m examples.mnist.pictures RUN OUT

OUT gets ranking.svg, pair.svg and curves.svg. `make pictures` ranks and draws them into docs/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from examples import drawing
from examples.drawing import BLACK, BLUE, GREY, ORANGE, Panel
from examples.mnist.layerwise import Floats
from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.cli.main import main as pcace

GROUP, TOP = "3", "5"
LAYER_COLOURS = {"conv1": ORANGE, "conv2": BLUE, "conv3": BLACK}
CORNERS = (  # tells, does, words
    (1, 1, "tells and does"),
    (1, 0, "a witness"),
    (0, 1, "a part of a team"),
    (0, 0, "neither"),
)
DASHED, FAINT = ' stroke-dasharray="4 3"', ' stroke-opacity="0.25"'
CELL, LINE = 7.8, 18.0  # of a monospaced letter at 13 px
CURVED, OF_A = ("conv1", 4), 1  # a channel whose relation to the target bends, and the digit
SMALL, INSET, PART = 184.0, 24.0, 140.0  # a small panel: its width and height, its left edge, the height of its plot
WIDTH, HEIGHT, LEFT, TOP_EDGE, BOTTOM = 380.0, 400.0, 44.0, 12.0, 40.0


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
    legend = drawing.key([(colour, layer) for layer, colour in LAYER_COLOURS.items()], step=80)
    panel = Panel(WIDTH, HEIGHT, list(_scatter(rows)))
    return drawing.sheet([[panel]], f"Score and effect for the logit of a {GROUP}", [legend], 12)


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


def curves_svg(run: Run) -> str:
    """A channel that a straight line does not see: the mean of its map, component 1, the curve, and both transformed.

    Dots are the sampled images of a digit, the curve is phi at its knots, the correlations are those of the run.
    """
    layer, channel = CURVED
    row = run.ranking(layer=layer, group=OF_A).filter(pc.field("channel") == channel).to_pylist()[0]
    mean, x, y, phi, theta, knots, curve = _seen(run, layer, channel)
    panels = (
        (mean, y, "mean of the map", f"Pearson: {row['pearson']:.2f}", False),
        (x, y, "component 1", f"straight line: {np.corrcoef(x, y)[0, 1]:.2f}", False),
        (knots, curve, "component 1", "its curve, phi", True),
        (phi, theta, "phi(component 1)", f"bent by both curves: {row['score_first_component']:.2f}", False),
    )
    drawn = [Panel(SMALL, SMALL, list(_cloud(*one))) for one in panels]
    words = f"With all five components: score {row['score']:.2f} ({row['score_low']:.2f} to {row['score_high']:.2f})."
    legend = [
        drawing.text(0, 0, line, anchor="start", size=12)
        for line in (words, "Vertical: the logit; below on the right theta(logit).")
    ]
    return drawing.sheet(
        [drawn[:2], drawn[2:]], f"{layer}/{channel} and the logit of a {OF_A}, {row['images']} images", legend, 12
    )


def _seen(run: Run, layer: str, channel: int) -> tuple[Floats, ...]:
    """Sampled images of a digit: mean of the map, component 1, logit, phi, theta. Then phi's knots and values."""
    sample, every = run.sample(), run.transforms()
    assert sample is not None and every is not None
    mine = (pc.field("layer") == layer) & (pc.field("channel") == channel) & (pc.field("group") == OF_A)
    shape = every.filter(mine).to_pylist()[0]
    rows = sample.filter(pc.field("group") == OF_A)
    y = np.array(rows["targets"].to_pylist())[:, 0]
    mean = np.array(rows[f"means/{layer}"].to_pylist())[:, channel]
    number, steps = len(shape["target_knots"]), 255 // (len(shape["target_knots"]) - 1)
    components = len(shape["knots"]) // number
    codes = np.array(rows[f"codes/{layer}"].to_pylist()).reshape(len(rows), -1, components)[:, channel, 0]
    places, at = codes / steps, np.arange(number)
    knots, curve = np.array(shape["knots"][:number]), np.array(shape["phi"][:number])
    theta = np.interp(np.array(rows["target_codes"].to_pylist())[:, 0] / steps, at, shape["theta"])
    return mean, np.interp(places, at, knots), y, np.interp(places, at, curve), theta, knots, curve


def _cloud(x: Floats, y: Floats, below: str, above: str, curve: bool) -> Iterator[str]:
    """Dots, or a curve through its knots."""
    across = drawing.scale(float(x.min()), float(x.max()), INSET + 6, SMALL - 6)
    up = drawing.scale(float(y.min()), float(y.max()), 18 + PART - 6, 24)
    points = [(across(one), up(other)) for one, other in zip(x, y, strict=True)]
    yield drawing.text(INSET, 10, above, anchor="start", size=12, bold=True)
    yield drawing.rectangle(INSET, 18, SMALL - INSET, PART, "none", ' stroke="#dddddd"')
    yield drawing.text((INSET + SMALL) / 2, 18 + PART + 16, below, size=12)
    for (x1, y1), (x2, y2) in pairwise(points) if curve else ():
        yield drawing.line(x1, y1, x2, y2, ORANGE, ' stroke-width="2"')
    yield from (drawing.dot(*point, 3, ORANGE) for point in points if curve)
    if not curve:
        dots = "".join(f"M{one:.1f} {other:.1f}h0" for one, other in points)
        yield f'<path d="{dots}" stroke="{BLUE}" stroke-width="3.2" stroke-linecap="round"/>'


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "ranking.svg").write_text(ranking_svg(asked.run))
    run = open_run(asked.run)
    (asked.out / "pair.svg").write_text(pair_svg(run.ranking(group=GROUP)))
    (asked.out / "curves.svg").write_text(curves_svg(run))


if __name__ == "__main__":
    main()
