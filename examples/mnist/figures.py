"""The paper's figures for MNIST, with intervals: draws them from finished runs and prints their numbers.

    python -m examples.mnist.figures QUESTIONS OUT

QUESTIONS: the folder of examples.mnist.questions. OUT gets channels.svg, scores.svg, shared.svg, images.svg,
components.svg and numbers.md, which is also printed. README.md in examples/mnist/figures says what they show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from examples import drawing
from examples.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, Line, Panel, Point
from examples.mnist.layerwise import Floats, Layer, Shared, layers_of, pairwise, quarter, shared, spearman, twins
from examples.mnist.questions import ALL, COMPONENTS
from pcace_dist.artifacts.run import open_run
from pcace_dist.errors import UserError

Rankings = dict[str, dict[str, Layer]]
USUAL = 5  # components, as in job.yaml
WHISKERS = drawing.text(0, 0, "dots: mean over digits; lines: from the least to the most of the digits", anchor="start")
LAYER_COLOURS = (ORANGE, BLUE, BLACK)
HALVES, QUARTERS = (-0.5, 0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)  # marks of a vertical axis


class Answers:
    """The runs of a questions folder, by number of components and of images."""

    def __init__(self, folder: Path) -> None:
        self.sizes = sorted(int(path.name.split("-")[1]) for path in folder.glob(f"p{USUAL}-[0-9]*"))
        if not self.sizes:
            raise UserError(f"{folder}: holds no answers; run python -m examples.mnist.questions RUN {folder} first")
        names = [ALL, *map(str, self.sizes)]
        self._held = {
            (p, name): layers_of(open_run(str(folder / f"p{p}-{name}"))) for p in COMPONENTS for name in names
        }
        self.layers = list(self.every(USUAL))

    def every(self, components: int) -> Rankings:
        """All images, a ranking for each digit."""
        return self._held[components, ALL]

    def sample(self, components: int, size: int, layer: str) -> list[tuple[Layer, Layer]]:
        """Two samples of so many images, for each digit."""
        return twins(self._held[components, str(size)][layer])

    def first_sample(self, components: int, size: int, layer: str) -> dict[str, Layer]:
        """The first of the two samples of each digit."""
        pairs = self.sample(components, size, layer)
        return {
            digit: layer_values for digit, (layer_values, _) in zip(self.every(components)[layer], pairs, strict=True)
        }


# -- which channels, for which digit


def channels_figure(run: Rankings) -> str:
    """Scores as colours, channels x digits; dots where the channel is among the layer's best quarter."""
    scores = np.concatenate([ranked.score for groups in run.values() for ranked in groups.values()])
    low, high = np.floor(scores.min() * 10) / 10, np.ceil(scores.max() * 10) / 10
    panels = [_heat_map(name, groups, float(low), float(high)) for name, groups in run.items()]
    ramp = "".join(drawing.rectangle(60 + 4 * step, -9, 4.2, 10, drawing.shade(step / 40)) for step in range(41))
    legend = [
        drawing.text(0, 0, f"score {low:g}", anchor="start") + ramp + drawing.text(232, 0, f"{high:g}", anchor="start"),
        drawing.dot(5, -4, 3.2, ORANGE)
        + drawing.text(14, 0, "among the layer's best quarter, with 95 % confidence", anchor="start")
        + drawing.dot(325, -4, 3.2, ORANGE, hollow=True)
        + drawing.text(334, 0, "may be: the interval of its rank reaches there", anchor="start"),
    ]
    return drawing.sheet([panels], "Which channels tell about which digit", legend)


def _heat_map(name: str, groups: dict[str, Layer], low: float, high: float) -> Panel:
    wide, tall, left, top = 19, 13, 24, 34
    channels = next(iter(groups.values())).channels
    parts = [drawing.text(left, 14, name, anchor="start", bold=True)]
    parts += [drawing.text(left + wide * (x + 0.5), 30, digit) for x, digit in enumerate(groups)]
    parts += [drawing.text(left - 4, top + tall * (c + 0.8), c, anchor="end", size=10) for c in range(channels)]
    best = quarter(channels)
    for x, ranked in enumerate(groups.values()):
        for c in range(channels):
            at = left + wide * x, top + tall * c
            parts.append(drawing.rectangle(*at, wide, tall, drawing.shade((ranked.score[c] - low) / (high - low))))
            if ranked.rank_low[c] <= best:
                open_ = bool(ranked.rank_high[c] > best)
                parts.append(drawing.dot(at[0] + wide / 2, at[1] + tall / 2, 3.2, ORANGE, hollow=open_))
    return Panel(left + wide * len(groups), top + tall * channels, parts)


def scores_figure(answers: Answers) -> str:
    """For every digit, the scores of all channels with intervals, each layer's best first; grey: from few images."""
    fewest = answers.sizes[0]
    run = answers.every(USUAL)
    panels = []
    for digit in next(iter(run.values())):
        from_all = [run[layer][digit] for layer in run]
        from_few = [answers.first_sample(USUAL, fewest, layer)[digit] for layer in run]
        panels.append(_scores_of(digit, from_all, from_few))
    entries = [(colour, f"{name}, best first") for name, colour in zip(run, LAYER_COLOURS, strict=False)]
    legend = [drawing.key([*entries, (GREY, f"from {fewest:,} images of the digit")])]
    return drawing.sheet([panels[:5], panels[5:]], "Scores with 95 % intervals, digit by digit", legend, gap=12)


def _scores_of(digit: str, from_all: Sequence[Layer], from_few: Sequence[Layer]) -> Panel:
    width, height, left, top = 210.0, 170.0, 26.0, 24.0
    up = drawing.scale(0.0, 1.0, height, top)
    parts = [drawing.text(left, 14, f"digit {digit}", anchor="start", bold=True)]
    for value in QUARTERS:
        parts.append(drawing.line(left, up(value), width, up(value)))
        parts.append(drawing.text(left - 3, up(value) + 4, value, anchor="end"))
    step = (width - left - 12) / sum(ranked.channels for ranked in from_all)
    x = left + 2
    for ranked, ranked_from_few, colour in zip(from_all, from_few, LAYER_COLOURS, strict=False):
        order = np.argsort(ranked.rank)
        places = [x + step * place for place in range(len(order))]
        parts.append(_whiskers(places, ranked_from_few.low[order], ranked_from_few.high[order], up, GREY, 0.6))
        parts.append(_whiskers(places, ranked.low[order], ranked.high[order], up, colour, 1.8))
        x += step * len(order) + 4
    return Panel(width, height, parts)


def _whiskers(
    places: Sequence[float], low: Floats, high: Floats, up: Callable[[float], float], colour: str, wide: float
) -> str:
    """One path with a stroke for each interval."""
    strokes = [f"M{x:.1f} {up(a):.1f}V{min(up(b), up(a) - 1):.1f}" for x, a, b in zip(places, low, high, strict=True)]
    return f'<path d="{"".join(strokes)}" stroke="{colour}" stroke-width="{wide:g}" fill="none"/>'


# -- shared between digits


def shared_by_layer(run: Rankings) -> dict[str, Shared]:
    return {name: shared(list(groups.values()), quarter(_channels(groups))) for name, groups in run.items()}


def shared_figure(run: Rankings) -> str:
    """In how many digits a channel is in its layer's best quarter: for sure, by its rank, possibly; and by chance."""
    panels = [_shared_bars(name, in_layer) for name, in_layer in shared_by_layer(run).items()]
    legend = [
        drawing.rectangle(0, -9, 14, 10, BLUE)
        + drawing.text(20, 0, "for sure", anchor="start")
        + drawing.rectangle(90, -9, 14, 10, drawing.shade(0.4))
        + drawing.text(110, 0, "by its rank", anchor="start")
        + drawing.rectangle(190, -9, 14, 10, "white", f' stroke="{GREY}"')
        + drawing.text(210, 0, "possibly", anchor="start")
        + drawing.line(280, -4, 300, -4, ORANGE, ' stroke-width="2"')
        + drawing.text(306, 0, "expected of chance, and the range of 95 % of channels by chance", anchor="start"),
    ]
    return drawing.sheet([panels], "In how many digits a channel is among its layer's best quarter", legend)


def _shared_bars(name: str, in_layer: Shared) -> Panel:
    wide, left, top, height = 13, 22, 26, 180
    width = left + wide * len(in_layer.seen)
    up = drawing.scale(0, in_layer.groups, height, top)
    share = in_layer.top / len(in_layer.seen)
    low, high = stats.binom.interval(0.95, in_layer.groups, share)
    parts = [
        drawing.text(left, 14, name, anchor="start", bold=True),
        drawing.rectangle(
            left, up(high), wide * len(in_layer.seen), up(low) - up(high), ORANGE, ' fill-opacity="0.15"'
        ),
    ]
    for value in range(0, in_layer.groups + 1, 2):
        parts += [
            drawing.line(left, up(value), width, up(value)),
            drawing.text(left - 4, up(value) + 4, value, anchor="end"),
        ]
    order = sorted(
        range(len(in_layer.seen)), key=lambda c: (-in_layer.seen[c], -in_layer.sure[c], -in_layer.possible[c])
    )
    for place, c in enumerate(order):
        x = left + wide * place + 2
        outline = f' stroke="{GREY}" stroke-width="0.8"'
        parts.append(
            drawing.rectangle(
                x, up(in_layer.possible[c]), wide - 4, height - up(in_layer.possible[c]), "white", outline
            )
        )
        parts.append(
            drawing.rectangle(x, up(in_layer.seen[c]), wide - 4, height - up(in_layer.seen[c]), drawing.shade(0.4))
        )
        parts.append(drawing.rectangle(x, up(in_layer.sure[c]), wide - 4, height - up(in_layer.sure[c]), BLUE))
        parts.append(drawing.text(x + (wide - 4) / 2, height + 12, c, size=9))
    expected = up(in_layer.groups * share)
    parts.append(drawing.line(left, expected, width, expected, ORANGE, ' stroke-width="2"'))
    parts.append(drawing.text((left + width) / 2, height + 26, "channel"))
    return Panel(width, height + 30, parts)


# -- how many images


def images_figure(answers: Answers) -> str:
    """Agreement of two samples, and how uncertain the ranks are, by the number of images of a digit."""
    ticks = [f"{size:,}" for size in answers.sizes]
    agreement_panels, openness_panels = [], []
    for layer in answers.layers:
        lines = [
            Line(colour, [_spread(_agreement(answers, USUAL, n, layer, first=first)) for n in answers.sizes])
            for colour, first in ((BLACK, False), (ORANGE, True))
        ]
        agreement_panels.append(
            drawing.curves(
                f"{layer}: two samples", lines, ticks, HALVES, "images of each digit, in each of two samples"
            )
        )
        lines = [Line(BLUE, [*_openness(answers, USUAL, layer)])]
        openness_panels.append(
            drawing.curves(f"{layer}: open ranks", lines, [*ticks, "all"], QUARTERS, "images of each digit")
        )
    entries = [
        (BLACK, "score: Spearman of two samples"),
        (ORANGE, "first component alone: the same"),
        (BLUE, "open: width of the rank intervals"),
    ]
    return drawing.sheet(
        [agreement_panels, openness_panels],
        "What more images do to the ranking within a layer",
        [drawing.key(entries, step=260), WHISKERS],
    )


def _agreement(answers: Answers, components: int, size: int, layer: str, *, first: bool = False) -> list[float]:
    """Spearman's correlation of the two samples of every digit."""
    pairs = answers.sample(components, size, layer)
    return [spearman(a.first, b.first) if first else spearman(a.squared, b.squared) for a, b in pairs]


def _openness(answers: Answers, components: int, layer: str) -> Iterator[Point]:
    """How uncertain the ranks are, for every size and for all images."""
    for size in answers.sizes:
        yield _spread([ranked.open for ranked, _ in answers.sample(components, size, layer)])
    yield _spread([ranked.open for ranked in answers.every(components)[layer].values()])


# -- how many components


def components_figure(answers: Answers) -> str:
    """The ranking with p components, compared with that of five, with its own first component, and between two
    samples."""
    fewest, most = answers.sizes[0], answers.sizes[-1]
    other_panels, agreement_panels, openness_panels = [], [], []
    for layer in answers.layers:
        versus = [_spread(_versus(answers, p, layer)) for p in COMPONENTS]
        first = [_spread(_first(answers, p, layer)) for p in COMPONENTS]
        other_panels.append(
            drawing.curves(
                f"{layer}: other rankings", [Line(BLACK, versus), Line(ORANGE, first)], COMPONENTS, HALVES, "components"
            )
        )
        lines = [
            Line(colour, [_spread(_agreement(answers, p, size, layer)) for p in COMPONENTS])
            for size, colour in {fewest: GREY, most: GREEN}.items()
        ]
        agreement_panels.append(drawing.curves(f"{layer}: two samples", lines, COMPONENTS, HALVES, "components"))
        widths = [list(_openness(answers, p, layer)) for p in COMPONENTS]
        lines = [Line(GREY, [points[0] for points in widths]), Line(BLUE, [points[-1] for points in widths])]
        openness_panels.append(drawing.curves(f"{layer}: open ranks", lines, COMPONENTS, QUARTERS, "components"))
    keys = [
        [(BLACK, f"Spearman with the ranking of {USUAL} components"), (ORANGE, "with its own first component alone")],
        [(GREY, f"Spearman of two samples of {fewest:,} images"), (GREEN, f"of two samples of {most:,}")],
        [(GREY, f"open: width of the rank intervals, {fewest:,} images"), (BLUE, "all images")],
    ]
    legend = [*(drawing.key(entries, step=330) for entries in keys), WHISKERS]
    return drawing.sheet(
        [other_panels, agreement_panels, openness_panels], "What the number of components does to the ranking", legend
    )


def _versus(answers: Answers, components: int, layer: str) -> list[float]:
    """Spearman's correlation with the ranking of the usual number of components, all images, for every digit."""
    rankings, usual = answers.every(components)[layer], answers.every(USUAL)[layer]
    return [spearman(rankings[digit].squared, usual[digit].squared) for digit in rankings]


def _first(answers: Answers, components: int, layer: str) -> list[float]:
    """Spearman's correlation between the definition's score and the published code's, all images, for every digit."""
    return [spearman(ranked.squared, ranked.first) for ranked in answers.every(components)[layer].values()]


def _spread(values: Sequence[float] | Floats) -> Point:
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.min()), float(array.max())


def _channels(groups: dict[str, Layer]) -> int:
    return next(iter(groups.values())).channels


# -- numbers


def numbers(answers: Answers) -> Iterator[str]:
    """Lines of Markdown: the figures' numbers."""
    run = answers.every(USUAL)
    yield "# The figures' numbers\n"
    counts = [ranked.images for ranked in next(iter(run.values())).values()]
    span = f"{min(counts):,} to {max(counts):,}"
    yield f"{sum(counts):,} images, {span} of each digit. Printed by examples/mnist/figures.py.\n"
    yield from _top_table(run)
    yield from _shared_table(run)
    yield from _images_table(answers)
    yield from _components_table(answers)


def _top_table(run: Rankings) -> Iterator[str]:
    yield "## Which channels (channels.svg, scores.svg)\n"
    yield "The three best of each layer; in bold those that are among the layer's best quarter with 95 % confidence.\n"
    yield "| digit | " + " | ".join(run) + " |"
    yield "|---|" + "---|" * len(run)
    for digit in next(iter(run.values())):
        cells = []
        for groups in run.values():
            ranked = groups[digit]
            best = [int(c) for c in np.argsort(ranked.rank)[:3]]
            is_sure = ranked.rank_high <= quarter(ranked.channels)
            cells.append(
                ", ".join(f"**{c}**" if is_sure[c] else str(c) for c in best) + f" ({ranked.score[best[0]]:.2f})"
            )
        yield f"| {digit} | " + " | ".join(cells) + " |"
    yield "\nIn brackets the score of the best.\n"


def _shared_table(run: Rankings) -> Iterator[str]:
    yield "## Shared between digits (shared.svg)\n"
    names = (
        "layer | channels | top | places settled | common to two digits | of these settled | by chance | p | Spearman"
    )
    yield f"| {names} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, in_layer in shared_by_layer(run).items():
        groups = list(run[name].values())
        settled = f"{in_layer.sure.sum()} of {in_layer.top * in_layer.groups}"
        mean, least, most = _spread(pairwise(groups))
        overlaps = [
            f"{o.common:.2f} (chance {o.chance:.2f}) | {o.p_value:.3f}" for o in (in_layer.by_rank, in_layer.settled)
        ]
        yield (
            f"| {name} | {groups[0].channels} | {in_layer.top} | {overlaps[0]} | {settled} | {overlaps[1]} "
            f"| {mean:.2f} ({least:.2f} to {most:.2f}) |"
        )
    yield (
        "\ncommon to two digits: channels in both tops, mean over all pairs of digits. places settled: of all places "
        "in the tops of ten digits, those whose channel is there with 95 % confidence. p: of as much in common or "
        "more, if each digit's ranking were a shuffle of its own; six of them are looked at. Spearman: of the scores "
        "of two digits, mean and range over pairs.\n"
    )


def _images_table(answers: Answers) -> Iterator[str]:
    yield f"## Number of images (images.svg), {USUAL} components\n"
    yield "| layer | images of each digit | two samples agree: score | first component | open | top places settled |"
    yield "|---|---|---|---|---|---|"
    for layer in answers.layers:
        for size in answers.sizes:
            score = _cell(_agreement(answers, USUAL, size, layer))
            first = _cell(_agreement(answers, USUAL, size, layer, first=True))
            ranked = answers.first_sample(USUAL, size, layer)
            yield f"| {layer} | {size:,} | {score} | {first} | {_settled(ranked)} |"
        yield f"| {layer} | all | - | - | {_settled(answers.every(USUAL)[layer])} |"
    yield (
        "\nMean over digits (least to most). open: mean width of the rank intervals, 1 if nothing is settled. "
        "top places settled: as above, of the first sample.\n"
    )


def _settled(ranked: dict[str, Layer]) -> str:
    """How uncertain the ranks are, and how many places of the tops are settled."""
    groups = list(ranked.values())
    in_common = shared(groups, quarter(_channels(ranked)))
    return f"{np.mean([g.open for g in groups]):.2f} | {in_common.sure.sum()} of {in_common.top * in_common.groups}"


def _components_table(answers: Answers) -> Iterator[str]:
    fewest, most = answers.sizes[0], answers.sizes[-1]
    yield "## Number of components (components.svg)\n"
    yield (
        f"| layer | components | mean score | Spearman with {USUAL} | with its first component "
        f"| two samples of {fewest:,} agree | of {most:,} | open, {fewest:,} | open, all |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for layer in answers.layers:
        for p in COMPONENTS:
            score = np.mean([ranked.score.mean() for ranked in answers.every(p)[layer].values()])
            openness = list(_openness(answers, p, layer))
            cells = [
                f"{score:.2f}",
                _cell(_versus(answers, p, layer)),
                _cell(_first(answers, p, layer)),
                _cell(_agreement(answers, p, fewest, layer)),
                _cell(_agreement(answers, p, most, layer)),
                f"{openness[0][0]:.2f}",
                f"{openness[-1][0]:.2f}",
            ]
            yield f"| {layer} | {p} | " + " | ".join(cells) + " |"


def _cell(values: Sequence[float]) -> str:
    mean, least, most = _spread(values)
    return f"{mean:.2f} ({least:.2f} to {most:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    try:
        answers = Answers(args.questions)
    except UserError as error:
        raise SystemExit(str(error)) from None
    args.out.mkdir(parents=True, exist_ok=True)
    run = answers.every(USUAL)
    printed = "\n".join(numbers(answers)) + "\n"
    files = {
        "channels.svg": channels_figure(run),
        "scores.svg": scores_figure(answers),
        "shared.svg": shared_figure(run),
        "images.svg": images_figure(answers),
        "components.svg": components_figure(answers),
        "numbers.md": printed,
    }
    for name, content in files.items():
        (args.out / name).write_text(content, encoding="utf-8")
    print(printed)
    print(f"{args.out}: {', '.join(files)}")


if __name__ == "__main__":
    main()
