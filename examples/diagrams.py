"""The drawings of docs/: the method on one page, the life of a run, the ledger. Nothing in them is measured.

    python -m examples.diagrams docs

OUT gets method.svg, run.svg and ledger.svg (`make pictures`). They are 400 wide, nearly a phone's width.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from examples import drawing
from examples.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, Panel, text

WIDTH = 368.0
NAME, WORDS, LEADING = 13, 12, 16.0  # sizes of letters, and from line to line
ARROW = '<path d="M{x:g} {y:g}v{length:g}m-4 -6l4 6l4 -6" stroke="{colour}" fill="none"/>'
ROUND = ' rx="5" stroke="{stroke}"{more}'
LIGHT = {ORANGE: "#fbeee6", BLUE: "#e6f1f8", GREEN: "#e6f5f1", GREY: "#f4f4f4"}
"""Colours of areas, by the colour of their edge."""

PICTURE, BESIDE, STEP = 128.0, 146.0, 108.0  # the method: width of a step's picture, where its words begin, its height


def lines(x: float, y: float, name: str, words: Sequence[str]) -> Iterator[str]:
    """A name in bold and lines of words below it; y: the first baseline."""
    yield text(x, y, name, anchor="start", size=NAME, bold=True)
    for place, line in enumerate(words, start=1):
        yield text(x, y + 2 + LEADING * place, line, anchor="start", size=WORDS)


def mark(x: float, y: float, length: float, colour: str) -> str:
    """A line beside words that says what they belong to."""
    return drawing.line(x, y, x, y + length, colour, ' stroke-width="3"')


def area(x: float, y: float, width: float, height: float, colour: str, more: str = "") -> str:
    return drawing.rectangle(x, y, width, height, LIGHT[colour], ROUND.format(stroke=colour, more=more))


def arrow(x: float, y: float, length: float, colour: str = BLACK) -> str:
    return ARROW.format(x=x, y=y, length=length, colour=colour)


# -- the method


def maps(x: float, y: float) -> Iterator[str]:
    """Three maps of one channel behind each other, as heat maps of 6 x 6 positions."""
    rows, columns = np.mgrid[:6, :6]
    for place, (row, column) in enumerate([(1.0, 4.0), (3.5, 3.5), (2.0, 1.5)]):
        heat = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 5)
        left, top = x + 26 * (2 - place), y + 9 * place
        for (i, j), value in np.ndenumerate(heat):
            yield drawing.rectangle(left + 10 * j, top + 10 * i, 10, 10, drawing.shade(float(value)))
        yield drawing.rectangle(left, top, 60, 60, "none", f' stroke="{BLACK}"')


def axes(x: float, y: float) -> Iterator[str]:
    """Two principal axes as small maps, and the coordinates of an image on them."""
    rows, columns = np.mgrid[:6, :6]
    patterns = (np.exp(-((rows - 2.5) ** 2 + (columns - 2.5) ** 2) / 5), columns / 5)
    for place, pattern in enumerate(patterns):
        left = x + 68 * place
        for (i, j), value in np.ndenumerate(pattern):
            yield drawing.rectangle(left + 8 * j, y + 8 * i, 8, 8, drawing.shade(float(value)))
        yield drawing.rectangle(left, y, 48, 48, "none", f' stroke="{BLACK}"')
        yield text(left + 24, y + 66, f"x{place + 1} = {(1.7, -0.4)[place]:g}", size=WORDS)
    yield text(x + 124, y + 28, "...", size=NAME)


def ruler(x: float, y: float) -> Iterator[str]:
    """Nine knots and a value between two of them."""
    at = [0, 22, 37, 49, 59, 70, 82, 98, 124]
    yield drawing.line(x, y, x + at[-1], y, BLACK)
    for knot in at:
        yield drawing.line(x + knot, y - 6, x + knot, y + 6, BLACK)
    yield drawing.dot(x + 88, y, 4, ORANGE)
    yield text(x + 88, y - 14, "1.7", size=WORDS)
    yield text(x + 88, y + 24, "code 198", size=WORDS)


def gram(x: float, y: float) -> Iterator[str]:
    """The blocks of z z': target and components against each other."""
    names, side = ("y", "x1", "x2"), 24.0
    for i, row in enumerate(names):
        yield text(x - 6, y + side * i + 16, row, anchor="end", size=WORDS)
        yield text(x + side * i + 12, y - 5, row, size=WORDS)
        for j in range(len(names)):
            fill = LIGHT[ORANGE] if (i == 0) != (j == 0) else LIGHT[BLUE] if i else LIGHT[GREEN]
            yield drawing.rectangle(x + side * j, y + side * i, side, side, fill, f' stroke="{GREY}"')


def agreement(x: float, y: float) -> Iterator[str]:
    """A score with its interval."""
    yield drawing.line(x, y, x + 120, y, GREY)
    for place, words in ((0, "0"), (120, "1")):
        yield drawing.line(x + place, y - 4, x + place, y + 4, GREY)
        yield text(x + place, y + 20, words, size=WORDS)
    yield drawing.line(x + 82, y, x + 104, y, BLUE, ' stroke-width="7" stroke-opacity="0.35"')
    yield drawing.dot(x + 94, y, 4, BLUE)
    yield text(x + 94, y - 14, "0.78", size=WORDS, bold=True)


def method() -> str:
    """Maps -> components -> codes -> Gram -> score."""
    steps = (
        (
            maps(6, 4),
            "Maps",
            ("What one channel gives for each", "image, and beside it one number,", "the target y."),
            BLUE,
        ),
        (axes(2, 6), "Components", ("Each map on its first p axes,", "found in the pilot: p numbers."), ORANGE),
        (ruler(2, 40), "Codes", ("Each number's place between nine", "knots, as one byte. y as well."), BLUE),
        (
            gram(30, 12),
            "Gram",
            (
                "z: a code's weights on its two",
                "knots. z z' is added up over the",
                "images, in each of 16 folds:",
                "integers, in any order.",
            ),
            BLUE,
        ),
        (
            agreement(4, 44),
            "Score",
            ("The curves theta(y), phi(x1), ...", "that agree most; without each", "fold in turn, for the interval."),
            GREEN,
        ),
    )
    parts = []
    for place, (picture, name, words, colour) in enumerate(steps):
        parts += [f'<g transform="translate(0,{STEP * place:g})">', *picture]
        parts += [mark(BESIDE - 10, 10, 20 + LEADING * len(words), colour)]
        parts += [*lines(BESIDE, 22, f"{place + 1}. {name}", words), "</g>"]
        if place:
            parts.append(arrow(PICTURE / 2, STEP * place - 22, 16, GREY))
    legend = [drawing.key([(ORANGE, "once, in the pilot"), (BLUE, "for every image"), (GREEN, "at the end")], step=128)]
    return drawing.sheet(
        [[Panel(WIDTH, STEP * len(steps) - 16, parts)]], "One channel, from maps to a score", legend, 16
    )


# -- the life of a run

STAGES = (  # name, what happens, what is in the ledger behind it, colour
    ("prepare", ("job, data, weights: read and checked", "once; the driver takes the lease"), "open", GREY),
    ("pilot", ("one worker reads about 2,048 images",), "", ORANGE),
    ("plan", ("axes, knots, scales, and the list of", "units: frozen from here on"), "manifest", ORANGE),
    ("main pass", ("workers take units, stream images", "through the model, hand in attempts"), "accept ...", BLUE),
    ("reduce", ("attempts are added up and scored,", "a block of channels at a time"), "", GREEN),
    ("rank", ("all channels of a target and group",), "", GREEN),
    ("publish", ("files first, then the record that", "makes them the result"), "done", GREEN),
)


def run() -> str:
    """From the job file to the result, with the records that make each step count."""
    parts, y, width = [], 0.0, 262.0
    for name, words, record, colour in STAGES:
        height = 28 + LEADING * len(words)
        parts += [area(0, y, width, height, colour), *lines(12, y + 19, name, words)]
        if record:
            parts.append(drawing.line(width, y + height / 2, width + 18, y + height / 2, GREY))
            parts.append(drawing.rectangle(width + 18, y + height / 2 - 13, 86, 26, "#ffffff", f' stroke="{BLACK}"'))
            parts.append(text(width + 61, y + height / 2 + 4, record, size=WORDS))
        y += height + 20
        if name != "publish":
            parts.append(arrow(width / 2, y - 18, 15))
    parts.append(text(width + 61, -6, "ledger", size=NAME, bold=True))
    closing = ("Killed at any point, the same command goes on", "after the last record. Nothing counts twice.")
    legend = [text(0, 0, words, anchor="start", size=WORDS) for words in closing]
    shifted = [f'<g transform="translate(0,14)">{"".join(parts)}</g>']
    return drawing.sheet([[Panel(WIDTH, y, shifted)]], "The life of a run", legend, 16)


# -- the ledger

RECORDS = (  # number, kind, what it says, colour
    ("1", "open", "driver A holds the run: epoch 1", GREY),
    ("2", "manifest", "the plan; the units 1 to 6", ORANGE),
    ("3", "accept", "attempt of worker 1: units 1, 2", BLUE),
    ("4", "open", "driver B holds it now: epoch 2", GREY),
    ("5", "accept", "attempt of worker 3: units 3, 5", BLUE),
    ("6", "accept", "attempt of worker 4: units 4, 6", BLUE),
    ("7", "done", "digests of the published files", GREEN),
)
HAPPENS = {  # between records: what is lost, and does not count
    "3": ("Driver A is killed. Worker 2 had read", "units 3 and 4, not handed in: both are lent again."),
    "4": ("Worker 2, of epoch 1, hands in units 3 and 4", "after all: refused, its files are garbage."),
}


def ledger() -> str:
    """Seven records of a run whose driver died once: what counts, and what does not."""
    parts, y = [], 0.0
    for number, kind, words, colour in RECORDS:
        parts += [area(0, y, WIDTH, 30, colour), text(14, y + 20, number, anchor="start", size=WORDS)]
        parts.append(text(36, y + 20, kind, anchor="start", size=NAME, bold=True))
        parts.append(text(112, y + 20, words, anchor="start", size=WORDS))
        y += 30
        if between := HAPPENS.get(number, ()):
            parts.append(mark(24, y + 7, LEADING * len(between), BLACK))
        for place, line in enumerate(between):
            parts.append(text(36, y + 19 + LEADING * place, line, anchor="start", size=WORDS))
        y += 14 + LEADING * len(between) if between else 6
    closing = (
        "unit: rows that one worker does at a time",
        "attempt: what a worker has added up, in files",
        "receipt: what it hands in for it; recorded, it counts",
        "lease: a counter beside the ledger; the holder lives",
    )
    legend = [text(0, 0, words, anchor="start", size=WORDS) for words in closing]
    return drawing.sheet([[Panel(WIDTH, y, parts)]], "A ledger: what is not in it does not count", legend, 16)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in {"method": method(), "run": run(), "ledger": ledger()}.items():
        (out / f"{name}.svg").write_text(drawn)


if __name__ == "__main__":
    main()
