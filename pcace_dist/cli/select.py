"""The verb select: sets of channels, and masks for pruning. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import logging

from pcace_dist.cli.arguments import add_choice, add_format, add_run
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress import logs
from pcace_dist.progress.terminal import RECORDS, tell


def add_verb(add: AddVerb) -> None:
    """Add the verb select."""
    verb = add(
        "select",
        "the smallest sets of channels found that carry or tell most of the output; near-duplicates; masks for pruning",
        "pcace select runs/mnist --share 0.9 --layer conv3",
    )
    add_run(verb)
    verb.add_argument(
        "--by",
        choices=("effect", "score"),
        default="effect",
        help="effect: the channels that carry the output (default); score: those that tell it together",
    )
    verb.add_argument(
        "--share",
        type=float,
        default=0.9,
        help="how much of it the sets are to have, above 0 and below 1 (default 0.9)",
    )
    add_choice(verb)
    verb.add_argument("--output", metavar="DIR", help="folder for select.parquet and select.json (default: RUN)")
    add_format(verb, "the rows of select.parquet")
    verb.set_defaults(run=_select)


def _select(arguments: argparse.Namespace) -> int:
    from pcace_dist.artifacts.run import open_run
    from pcace_dist.commands.select.output import print_selected, write_selected
    from pcace_dist.commands.select.select import select
    from pcace_dist.commands.select.sets import SelectSettings
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.progress.table import print_records

    refuse_rays_copy("--output", arguments.output or arguments.path)
    run = open_run(arguments.path)
    folder = (arguments.output or run.path).rstrip("/")
    options = {name: getattr(arguments, name) for name in ("by", "share", "target", "group")}
    selected = select(run, SelectSettings(layers=arguments.layer, **options), folder=folder)
    table = write_selected(selected, folder, run.storage)
    if arguments.format in RECORDS:
        print_records(table.to_pylist(), arguments.format)
    else:
        print_selected(selected, run.names, arguments.format)
    for line in selected.left_out:
        logs.say(f"left out: {line}", level=logging.WARNING)
    if arguments.format not in RECORDS:
        tell(f"\nsets: {folder}/select.parquet   with masks: {folder}/select.json")
    return 0
