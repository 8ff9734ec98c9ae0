"""The verb stability: how rankings would look with fewer images, and with more. Imports what it needs when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pcace_dist.cli.arguments import add_choice, add_format, add_run, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress.terminal import RECORDS, tell

if TYPE_CHECKING:
    from pcace_dist.analysis.stability import Stability
    from pcace_dist.progress.table import Table

PREFIX = "pcace stability: "
TABLES = 12  # rankings that are printed
LEGEND = """
Two rankings from different images, so many each: Spearman's correlation over
the channels, and the share of the top {top} that they have in common. Measured on
parts of this run's images; expected from the errors of its scores; and with
another pilot for each of the two."""


def add_verb(add: AddVerb) -> None:
    """Add the verb stability."""
    verb = add(
        "stability",
        "how the rankings would look with fewer images and with more: how many images are enough for the top",
        "pcace stability runs/mnist --group 3 --top 10",
    )
    add_run(verb)
    verb.add_argument("--top", type=count, default=10, metavar="K", help="ranks of the top (default 10)")
    add_choice(verb)
    add_format(verb, "a record for each ranking and number of images")
    verb.set_defaults(run=_stability)


def _stability(arguments: argparse.Namespace) -> int:
    from rich.progress import TimeRemainingColumn

    from pcace_dist.artifacts.run import open_run
    from pcace_dist.commands.stability import StabilitySettings, stability
    from pcace_dist.progress.bar import StageBar
    from pcace_dist.progress.table import print_records, print_table

    run = open_run(arguments.path)
    settings = StabilitySettings(arguments.top, arguments.layer, arguments.target, arguments.group)
    with StageBar(PREFIX, TimeRemainingColumn()) as bar:
        bar.begin("scoring parts", None)
        found = stability(
            run, settings, lambda done, total: bar.show(done, total, f"scoring parts: {done} of {total} blocks")
        )
    if arguments.format in RECORDS:
        print_records(_records(found), arguments.format)
        return 0
    for own in found[:TABLES]:
        title = run.names.ranking(own.target, own.group, grouped=run.job.group_by is not None)
        print_table(_table(title, own), arguments.format)
        tell(_enough(own))
    if len(found) > TABLES:
        tell(f"\n{len(found) - TABLES:,} more; see --group, --target, --json")
    tell(LEGEND.format(top=settings.top))
    return 0


def _table(title: str, found: Stability) -> Table:
    from pcace_dist.progress.table import Column, Table, number

    title += f" ({found.images:,} images, {found.channels:,} channels)"
    columns = [
        Column("images"),
        Column("Spearman", meaning="Spearman, measured"),
        Column("expected", meaning="Spearman, expected"),
        Column("other pilot", meaning="Spearman, expected with another pilot"),
        Column(f"top {found.top}", meaning=f"top {found.top} in common, measured"),
        Column("expected", meaning=f"top {found.top} in common, expected"),
        Column("other pilot", meaning=f"top {found.top} in common, expected with another pilot"),
    ]
    rows = [
        [f"{level.images:,}"]
        + [number(value, 2) for value in (level.spearman, level.spearman_expected, level.spearman_another_pilot)]
        + [_percent(value) for value in (level.overlap, level.overlap_expected, level.overlap_another_pilot)]
        for level in found.levels
    ]
    return Table(title, columns, rows)


def _percent(value: float) -> str:
    return "" if value != value else f"{value:.0%}"


def _enough(found: Stability) -> str:
    """One line: how many images are enough for the top."""
    from pcace_dist.analysis.stability import ENOUGH, FURTHEST

    if found.top == found.channels:
        return f"the top {found.top} are all channels that are ranked here: ask for fewer, with --top"
    wanted = f"{ENOUGH:.0%} of the top {found.top} in common"
    if found.enough is None:
        return f"{wanted}: not with {2**FURTHEST} times the images, as the scores are too close to one another"
    return f"{wanted}: about {found.enough:,} images ({found.images:,} are here)"


def _records(every: Sequence[Stability]) -> list[dict[str, Any]]:
    """A record for each ranking and number of images; None where nothing is known."""
    return [
        {
            **{name: value for name, value in asdict(found).items() if name not in ("levels", "images")},
            "images_of_run": found.images,
            **{name: None if value != value else value for name, value in asdict(level).items()},
        }
        for found in every
        for level in found.levels
    ]
