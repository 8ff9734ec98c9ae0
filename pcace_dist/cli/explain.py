"""The verb explain: one image under one ranking. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from pcace_dist.cli.arguments import add_choice, add_run, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress.terminal import tell

if TYPE_CHECKING:
    from pcace_dist.commands.explain.explained import ChannelPart, Explained

LEGEND = {
    "fires": "percent of the run's images on which the channel is less active",
    "adds": "what it contributes to the target, to first order",
    "checked": "how much lower the target is with its mean map in its place",
    "tells": "deviations above the mean that it alone makes one expect of the target",
}


def add_verb(add: AddVerb) -> None:
    """Add the verb explain."""
    verb = add(
        "explain",
        "one image: what the model says, which of the ranked channels fired on it, where, and what each added",
        "pcace explain runs/mnist digit.png --out explained\n  pcace explain runs/mnist part-00000.parquet#17 --json",
    )
    add_run(verb)
    verb.add_argument(
        "image",
        metavar="IMAGE",
        help="a file (local or s3://), or the id of a row of the run's data: a value of dataset.id, or FILE#ROW",
    )
    add_choice(verb)
    verb.add_argument(
        "--label", metavar="CLASS", help="the class of an image that has none (default: the predicted one)"
    )
    verb.add_argument("--top", type=count, default=20, metavar="N", help="channels to tell of (default 20)")
    verb.add_argument(
        "--out", metavar="DIR", help="the folder for explain.html and explain.json (default: IMAGE-explained here)"
    )
    verb.add_argument("--json", action="store_true", help="print what explain.json holds; without --out write nothing")
    verb.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    import json

    from rich.progress import TimeElapsedColumn

    from pcace_dist.artifacts.run import open_run
    from pcace_dist.commands.explain.explain import ExplainSettings, explain
    from pcace_dist.commands.explain.page import folder_of, need_packages, write_explained
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.progress.bar import StageBar

    writes = arguments.out is not None or not arguments.json
    folder = arguments.out or folder_of(arguments.image)
    if writes:
        refuse_rays_copy("--out", folder)
        need_packages()
    layers = None if arguments.layer is None else tuple(arguments.layer)
    settings = ExplainSettings(arguments.target, arguments.group, layers, arguments.label, arguments.top)
    run = open_run(arguments.path)
    with StageBar("pcace explain: ", TimeElapsedColumn()) as bar:
        explained = explain(run, arguments.image, settings, lambda stage: bar.begin(stage, None, stage))
    if writes:
        write_explained(explained, folder, run.storage)
    if arguments.json:
        tell(json.dumps(explained.to_json(), indent=2))
    else:
        _print(explained)
        tell(f"\npage: {folder}/explain.html   numbers: {folder}/explain.json")
    return 0


def _print(explained: Explained) -> None:
    from pcace_dist.progress.table import Column, Table, number, print_table

    says = ", ".join(
        f"{output.name}: {output.value:.3f}" + ("" if output.probability is None else f" ({output.probability:.1%})")
        for output in explained.outputs
    )
    tell(f"the model says {says}")
    for note in explained.notes:
        tell(f"note: {note}")
    title = explained.target + ("" if explained.group is None else f", group {explained.group}")
    title += "" if explained.value is None else f": {explained.value:.3f}"
    numbers: dict[str, Callable[[ChannelPart], str]] = {
        "fires": lambda channel: number(channel.percentile, 1),
        "adds": lambda channel: number(channel.adds),
        "checked": lambda channel: number(channel.checked),
        "tells": lambda channel: number(channel.tells),
    }
    known = {name: show for name, show in numbers.items() if any(map(show, explained.channels))}
    columns = [Column("layer", name=True), Column("channel"), Column("rank", drop=1), *map(Column, known)]
    rows = [
        [
            channel.layer,
            str(channel.channel),
            number(channel.rank, 0),
            *(show(channel) for show in known.values()),
        ]
        for channel in explained.channels
    ]
    print_table(Table(title, columns, rows))
    tell("")
    for name in known:
        tell(f"{name + ':':9}{LEGEND[name]}")
