"""Draws the results of examples/street/truth.py as SVG, and a few of the city's streets.

    python -m examples.street.figures RUN OUT [--planted planted.json]

RUN: a run that truth.py has checked (its truth.json). OUT gets streets.jpg, sees.svg, cuts.svg, boroughs.svg and, with
--planted (a file of `truth.py --planted N`), planted.svg. README.md says what they show.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from examples import drawing
from examples.drawing import BLUE, GREEN, GREY, ORANGE, Line, Panel, Point
from examples.street.city import make_city
from examples.street.planted import CHANNELS, SKY, TRAFFIC, TREES
from examples.street.scene import draw
from pcace_dist.errors import UserError

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
KINDS = ((TRAFFIC, ORANGE), (TREES, GREEN), (SKY, BLUE))
STREETS, PIXELS, GAP = 7, 128, 4


def streets_picture(seed: int = 3) -> Image.Image:
    """Streets with few to many vehicles, in a higher resolution than the network sees them."""
    city = make_city(60, views=1, seed=seed)
    rows = np.argsort(city.vehicles, kind="stable")[np.linspace(0, len(city) - 1, STREETS).astype(int)]
    sheet = Image.new("RGB", (STREETS * (PIXELS + GAP) - GAP, PIXELS), "white")
    for place, row in enumerate(rows.tolist()):
        pixels = draw(city.factors(row), city.key(row), size=PIXELS)
        sheet.paste(Image.fromarray(pixels), (place * (PIXELS + GAP), 0))
    return sheet


def sees_figure(ablation: Mapping[str, Any]) -> str:
    """Total effect of each factor on each channel, best channel first; the prediction beside them."""
    wide, tall, left, top = 25, 22, 104, 34
    order, effects = ablation["order"], ablation["effects"]
    parts = [drawing.text(left, 14, f"channels of {ablation['layer']}, best for the prediction first", anchor="start")]
    columns = [("all", ablation["on_prediction"])]
    columns += [
        (c, {name: effects_of_column[place] for name, effects_of_column in effects.items()})
        for place, c in enumerate(order)
    ]
    for x, (name, effects_of_column) in enumerate(columns):
        at = left + wide * x + (8 if x else 0)
        parts.append(drawing.text(at + wide / 2, 30, name, size=10, bold=not x))
        for y, factor in enumerate(effects):
            parts.append(drawing.rectangle(at, top + tall * y, wide, tall, drawing.shade(effects_of_column[factor])))
    for y, factor in enumerate(effects):
        parts.append(drawing.text(left - 6, top + tall * (y + 0.65), factor.replace("_", " "), anchor="end"))
    panel = Panel(left + wide * len(columns) + 8, top + tall * len(effects), parts)
    ramp = "".join(drawing.rectangle(80 + 4 * step, -9, 4.2, 10, drawing.shade(step / 40)) for step in range(41))
    legend = drawing.text(0, 0, "total effect 0", anchor="start") + ramp + drawing.text(250, 0, "1", anchor="start")
    legend += drawing.text(280, 0, "all: the prediction itself", anchor="start")
    return drawing.sheet([[panel]], "What the channels see", [legend])


def cuts_figure(ablation: Mapping[str, Any]) -> str:
    """What is left of the prediction's slope on traffic without so many channels."""
    cuts = ablation["cuts"]
    lines = [
        Line(colour, [_point(cut[name]) for cut in cuts])
        for name, colour in (("best", ORANGE), ("random", GREY), ("worst", BLUE))
    ]
    panel = drawing.curves("slope left", lines, [cut["channels"] for cut in cuts], QUARTERS, "channels cut")
    legend = [
        drawing.key([(ORANGE, "the best"), (BLUE, "the worst")], step=110),
        drawing.key([(GREY, "at random (middle 95 % of sets)")]),
    ]
    return drawing.sheet([[panel]], "The prediction's slope on traffic", legend)


def boroughs_figure(boroughs: Sequence[Mapping[str, Any]]) -> str:
    """Mean score squared of the channels that see traffic, for both targets, beside traffic's share of the NO2."""
    width, height, left, top, bottom = 400.0, 210.0, 34.0, 10.0, 40.0
    up = drawing.scale(0.0, 1.0, height - bottom, top)
    step = (width - left) / len(boroughs)
    parts = []
    for value in QUARTERS:
        parts.append(drawing.line(left, up(value), width, up(value)))
        parts.append(drawing.text(left - 4, up(value) + 4, f"{value:g}", anchor="end"))
    for place, row in enumerate(boroughs):
        middle = left + step * (place + 0.5)
        parts.append(drawing.rectangle(middle - 26, up(row["share"]), 52, up(0) - up(row["share"]), "#dddddd"))
        for shift, colour, share in ((-9, ORANGE, row["measured"]), (9, BLUE, row["prediction"])):
            value, low, high = _point(share)
            x = middle + shift
            parts.append(drawing.line(x, up(low), x, up(high), colour, ' stroke-width="2"'))
            parts.append(drawing.dot(x, up(value), 3.5, colour))
        parts.append(drawing.text(middle, height - bottom + 16, row["name"]))
        parts.append(drawing.text(middle, height - bottom + 31, f"D = {row['counts']:g}", size=10))
    legend = [
        drawing.key([(ORANGE, "mean score squared for the measured NO2"), (BLUE, "for the prediction")], step=260),
        drawing.rectangle(0, -9, 18, 10, "#dddddd")
        + drawing.text(24, 0, "traffic's share of the NO2's variance, by the city's formula", anchor="start"),
    ]
    return drawing.sheet([[Panel(width, height, parts)]], "Channels that see traffic, borough by borough", legend)


def planted_figure(cities: Sequence[Mapping[str, Any]]) -> str:
    """Ranks of planted channels, a row for each city."""
    step, tall, left, top = 13, 20, 56, 22
    parts = [drawing.text(left, 10, f"rank, of {CHANNELS} channels", anchor="start")]
    for rank in (1, CHANNELS // 4, CHANNELS // 2, CHANNELS):
        x = left + step * (rank - 0.5)
        parts += [drawing.text(x, 24, rank, size=10), drawing.line(x, top + 6, x, top + tall * (len(cities) + 0.5))]
    for place, city in enumerate(cities):
        y = top + tall * (place + 0.8)
        parts.append(drawing.text(left - 8, y + 4, f"city {city['seed']}", anchor="end"))
        for kind, colour in KINDS:
            parts += [drawing.dot(left + step * (rank - 0.5), y, 4.5, colour) for rank in city["ranks"][kind]]
    panel = Panel(left + step * CHANNELS, top + tall * (len(cities) + 0.5), parts)
    legend = drawing.key([(colour, f"sees {kind}") for kind, colour in KINDS], step=130)
    return drawing.sheet([[panel]], "Planted channels among random ones, by the NO2 that was measured", [legend])


def _point(share: Mapping[str, float]) -> Point:
    return share["value"], share["low"], share["high"]


def read_results(path: Path, made_by: str) -> dict[str, Any]:
    """truth.json or planted.json. Raises UserError where it is not there."""
    if not path.exists():
        raise UserError(f"{path}: no such file; {made_by} writes it")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def draw_figures(run: Path, out: Path, planted: Path | None = None) -> list[str]:
    """Write the figures; their names."""
    truth = read_results(run / "truth.json", f"python -m examples.street.truth {run}")
    figures = {
        "sees.svg": sees_figure(truth["ablation"]),
        "cuts.svg": cuts_figure(truth["ablation"]),
        "boroughs.svg": boroughs_figure(truth["boroughs"]),
    }
    if planted is not None:
        planted_ranks = read_results(planted, "python -m examples.street.truth --planted 10 --out DIR")
        figures["planted.svg"] = planted_figure(planted_ranks["cities"])
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        (out / name).write_text(figure)
    streets_picture().save(out / "streets.jpg", quality=88)
    return ["streets.jpg", *figures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--planted", type=Path)
    args = parser.parse_args()
    try:
        names = draw_figures(args.run, args.out, args.planted)
    except UserError as error:
        raise SystemExit(f"figures: {error}") from None
    print(f"wrote {', '.join(names)} into {args.out}")


if __name__ == "__main__":
    main()
