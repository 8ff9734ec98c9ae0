"""The shapes of the figures as SVG text: heat maps, bars, dots with whiskers. No drawing library.

Every panel is a list of SVG elements with its own origin; `sheet` arranges panels and adds title and legend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

BLACK, ORANGE, BLUE, GREEN, GREY = "#000000", "#D55E00", "#0072B2", "#009E73", "#999999"  # Okabe & Ito
PALE = ((247, 251, 255), (158, 202, 225), (49, 130, 189), (8, 48, 107))  # from small to large; ColorBrewer's Blues

Point = tuple[float, float, float]
"""A value and the ends of its whisker."""


@dataclass(frozen=True)
class Panel:
    """Elements with an origin of their own, and the size of the panel."""

    width: float
    height: float
    elements: Sequence[str]


@dataclass(frozen=True)
class Line:
    """A curve of values with whiskers."""

    colour: str
    points: Sequence[Point]


def text(x: float, y: float, words: object, *, anchor: str = "middle", size: int = 11, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"{weight}>{escape(str(words))}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, attributes: str = "") -> str:
    return f'<rect x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" fill="{fill}"{attributes}/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd", attributes: str = "") -> str:
    return f'<path d="M{x1:.4g} {y1:.4g}L{x2:.4g} {y2:.4g}" stroke="{colour}" fill="none"{attributes}/>'


def dot(x: float, y: float, radius: float, colour: str, *, hollow: bool = False) -> str:
    fill = f'fill="white" stroke="{colour}"' if hollow else f'fill="{colour}"'
    return f'<circle cx="{x:.4g}" cy="{y:.4g}" r="{radius:g}" {fill}/>'


def shade(share: float) -> str:
    """The colour of a share between 0 and 1."""
    place = min(max(share, 0.0), 1.0) * (len(PALE) - 1)
    lower = min(int(place), len(PALE) - 2)
    mixed = [a + (b - a) * (place - lower) for a, b in zip(PALE[lower], PALE[lower + 1], strict=True)]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A function that maps values from `low` to `high` to positions from `start` to `end`."""
    return lambda value: start + (end - start) * (value - low) / (high - low)


def curves(title: str, lines: Sequence[Line], ticks: Sequence[object], heights: Sequence[float], below: str) -> Panel:
    """Lines over evenly spaced ticks, each point with its whisker. heights: the marks of the vertical axis, from low to
    high; below: the name of the horizontal axis."""
    width, height, left, top, bottom = 250.0, 190.0, 34.0, 26.0, 36.0
    across = scale(0, max(1, len(ticks) - 1), left + 16, width - 16)
    low, high = heights[0], heights[-1]
    up = scale(low, high, height - bottom, top)
    parts = [text(left, 14, title, anchor="start", bold=True)]
    for value in heights:
        parts += [line(left, up(value), width, up(value)), text(left - 4, up(value) + 4, f"{value:g}", anchor="end")]
    parts += [text(across(place), height - bottom + 14, tick) for place, tick in enumerate(ticks)]
    parts.append(text((left + width) / 2, height - 6, below))
    for number, curve in enumerate(lines):
        shift = 5 * (number - (len(lines) - 1) / 2)  # so that whiskers stand beside each other
        positioned = [(across(place) + shift, point) for place, point in enumerate(curve.points)]
        for (x1, from_), (x2, to) in pairwise(positioned):
            parts.append(line(x1, up(from_[0]), x2, up(to[0]), curve.colour, ' stroke-width="1.6"'))
        for x, (value, least, most) in positioned:
            parts.append(line(x, up(max(low, least)), x, up(min(high, most)), curve.colour, ' stroke-opacity="0.5"'))
            parts.append(dot(x, up(value), 3, curve.colour))
    return Panel(width, height, parts)


def sheet(rows: Sequence[Sequence[Panel]], title: str, legend: Sequence[str] = (), gap: float = 18) -> str:
    """Panels in rows below a title; below them the legend, one element for each line, with its origin at 0, 0."""
    width = max(sum(panel.width for panel in row) + gap * (len(row) + 1) for row in rows)
    parts, y = [text(gap, 20, title, anchor="start", size=13, bold=True)], 32.0
    for row in rows:
        x = gap
        for panel in row:
            parts += [f'<g transform="translate({x:g},{y:g})">', *panel.elements, "</g>"]
            x += panel.width + gap
        y += max(panel.height for panel in row) + gap / 2
    for entry in legend:
        parts += [f'<g transform="translate({gap:g},{y + 10:g})">', entry, "</g>"]
        y += 18
    height = y + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
            '<rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def key(entries: Sequence[tuple[str, str]], step: float = 200) -> str:
    """One line of a legend, from (colour, words)."""
    parts = []
    for place, (colour, words) in enumerate(entries):
        x = place * step
        parts += [line(x, 0, x + 18, 0, colour, ' stroke-width="3"'), dot(x + 9, 0, 3, colour)]
        parts.append(text(x + 24, 4, words, anchor="start"))
    return "".join(parts)
