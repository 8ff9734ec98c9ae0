"""The ablation curves as an SVG picture: a panel for each layer, a line for each order, random orders as a band.

Pure text; no drawing library.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from pcace_dist.analysis.curves import BAND, BEST, RANDOM, WORST, Curves, Floats

WIDTH, HEIGHT = 300, 220
LEFT, TOP, RIGHT, BOTTOM = 42, 30, 12, 34
COLOURS = {  # Okabe & Ito: distinguishable by colour-blind people too
    BEST: "#000000",
    WORST: "#999999",
    "effect": "#000000",
    "score_sd": "#56B4E9",
    "greedy": "#56B4E9",
    "taylor": "#D55E00",
    "variance": "#0072B2",
    "mean_activation": "#009E73",
    "weight_norm": "#CC79A7",
    "conductance": "#E1BE00",
    "pearson": "#E69F00",
}
DASHES = {WORST: "4 3", "effect": "6 2", "score_sd": "2 2"}


def curves_svg(all_curves: Sequence[Curves], replacement: str) -> str:
    """The lost share of the target's variance over the number of replaced channels; means over targets and groups."""
    of_replacement = [curves for curves in all_curves if curves.replacement == replacement]
    layers = list(dict.fromkeys(curves.layer.name for curves in of_replacement))
    names = [
        name for name in dict.fromkeys(name for curves in of_replacement for name in curves.names) if name != RANDOM
    ]
    columns = min(3, max(1, len(layers)))
    rows = -(-len(layers) // columns)
    height = rows * HEIGHT + 24 * (1 + (len(names) * 110) // (columns * WIDTH))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * WIDTH}" height="{height}" '
        f'viewBox="0 0 {columns * WIDTH} {height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, layer in enumerate(layers):
        of_layer = [curves for curves in of_replacement if curves.layer.name == layer]
        parts.append(f'<g transform="translate({place % columns * WIDTH},{place // columns * HEIGHT})">')
        parts += _panel(layer, of_layer, names)
        parts.append("</g>")
    parts += _legend(names, columns * WIDTH, rows * HEIGHT + 16)
    return "\n".join([*parts, "</svg>", ""])


def _panel(layer: str, of_layer: Sequence[Curves], names: Sequence[str]) -> list[str]:
    sizes = of_layer[0].sizes
    x = [LEFT + (WIDTH - LEFT - RIGHT) * place / max(1, len(sizes) - 1) for place in range(len(sizes))]
    random = np.mean(
        [
            np.percentile(curves_of_ranking.along(RANDOM), (BAND[0], 50, BAND[1]), axis=0)
            for curves_of_ranking in of_layer
        ],
        axis=0,
    )
    present = [
        name for name in names if any(name in curves_of_ranking.names for curves_of_ranking in of_layer)
    ]  # a layer without weights has no norms
    curves = {
        name: np.mean(
            [curves_of_ranking.along(name)[0] for curves_of_ranking in of_layer if name in curves_of_ranking.names],
            axis=0,
        )
        for name in present
    }
    top = max(1e-9, float(max(random.max(), *(curve.max() for curve in curves.values()))))
    lines = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(layer)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = _height(np.array([share * top]), top)[0]
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        lines.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{share * top:.2f}</text>')
    for at, size in zip(x, sizes, strict=True):
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{size}</text>')
    lines.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">channels replaced</text>')
    low, high = _height(random[0], top), _height(random[2], top)
    outline = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
    lines.append(f'<polygon points="{_points(outline)}" fill="#bbbbbb" fill-opacity="0.45"/>')
    for name, curve in curves.items():
        points = _points(list(zip(x, _height(curve, top), strict=True)))
        stroke_width = 2.4 if name in (BEST, "effect") else 1.4
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS.get(name, "#56B4E9")}" '
            f'stroke-width="{stroke_width}"{_dash(name)}/>'
        )
    return lines


def _height(values: Floats, top: float) -> Floats:
    return np.asarray(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * values / top)


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _legend(names: Sequence[str], width: int, top: int) -> list[str]:
    lines, x, y = [], 10, top
    for name in [*names, RANDOM]:
        if x + 110 > width:
            x, y = 10, y + 20
        colour = "#bbbbbb" if name == RANDOM else COLOURS.get(name, "#56B4E9")
        stroke = f'stroke="{colour}" stroke-width="{8 if name == RANDOM else 3}"{_dash(name)}'
        lines.append(f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" {stroke}/>')
        lines.append(f'<text x="{x + 22}" y="{y}">{escape(name)}</text>')
        x += 110
    return lines


def _dash(name: str) -> str:
    return f' stroke-dasharray="{DASHES[name]}"' if name in DASHES else ""
