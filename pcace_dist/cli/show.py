"""The verb show, and how `pcace rank` shows its result. Imports what it needs when it runs."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from pcace_dist.cli.arguments import add_choice, add_format, add_run, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress import logs
from pcace_dist.progress.terminal import RECORDS, tell

if TYPE_CHECKING:
    import pyarrow as pa

    from pcace_dist.artifacts.run import Run

MOST_CHANNELS = 50_000  # of all rankings in question, of which the true top is worked out: some seconds


def add_verb(add: AddVerb) -> None:
    """Add the verb show."""
    verb = add("show", "print a ranking", "pcace show runs/mnist --top 5 --group 3 --layer conv2")
    add_run(verb)
    verb.add_argument(
        "--top", type=count, default=20, metavar="N", help="channels of each target and group (default 20)"
    )
    add_choice(verb)
    verb.add_argument(
        "--by",
        choices=("score", "effect"),
        default="score",
        help="the order: by score, what a channel tells about the output (default), or by effect, what it does to it",
    )
    verb.add_argument(
        "--across",
        action="store_true",
        help="what the groups' rankings have in common: in how many groups a channel is among the top ones",
    )
    verb.add_argument(
        "--simultaneous",
        action="store_true",
        help="wider intervals of the scores, in which with 95 %% all channels of a ranking lie at once; without it "
        "each channel lies in its own with 95 %%",
    )
    add_format(verb, "the rows of rankings.parquet and who is in the true top (in_top, in_top_probability)")
    verb.set_defaults(run=_show)


def _show(arguments: argparse.Namespace) -> int:
    from pcace_dist.artifacts.rankings import why_unranked
    from pcace_dist.artifacts.run import open_run
    from pcace_dist.cli.tables import print_across_groups

    run = open_run(arguments.path)
    if arguments.across:
        _refuse_what_across_has_not(arguments)
        across = run.across_groups(top=arguments.top, target=arguments.target)
        print_across_groups(across, run.names, arguments.format)
        if arguments.format not in RECORDS and not any(across["groups"].to_pylist()):
            everything = run.ranking(target=arguments.target)
            for line in why_unranked(everything, run.names, run.job.statistics, grouped=True):
                tell(line)
        return 0
    chosen = {name: getattr(arguments, name) for name in ("layer", "group", "target")}
    ranking = run.simultaneous(**chosen) if arguments.simultaneous else run.ranking(**chosen)
    print_rankings(run, ranking, arguments.top, by=arguments.by, format=arguments.format, chosen=chosen)
    return 0


def _refuse_what_across_has_not(arguments: argparse.Namespace) -> None:
    from pcace_dist.errors import UserError

    given = {name: getattr(arguments, name) for name in ("layer", "group", "simultaneous")}
    given["by effect"] = arguments.by == "effect"
    for name, value in given.items():
        if value:
            raise UserError(f"--{name}: does not go with --across, which takes --target and --top")


def print_rankings(
    run: Run, ranking: pa.Table, top: int, *, by: str = "score", chosen: dict[str, Any] | None = None, **options: Any
) -> None:
    """Print the best channels, and the groups that have no ranking. ranking: `run.ranking` of what is chosen, with
    further columns or without. options: of `print_ranking`."""
    from pcace_dist.artifacts.rankings import best_of, why_unranked
    from pcace_dist.cli.tables import membership_in_words, print_ranking
    from pcace_dist.errors import UserError

    names, grouped, layers = run.names, run.job.group_by is not None, ranking["layer"].unique().to_pylist()
    rank = "rank" if by == "score" else "effect_rank"
    if rank not in ranking.column_names or (by == "effect" and ranking[rank].null_count == len(ranking)):
        raise UserError(f"{run.job.output}: has no effects to rank by; use --by score")
    below, chosen = {}, chosen or {}
    if by == "score":
        ranking = _with_membership(run, ranking, top, chosen)
    if by == "score" and ranking["in_top"].null_count < len(ranking):
        below = membership_in_words(ranking, names, top, grouped=grouped, all_layers=not chosen.get("layer"))
    best = best_of(ranking, top, by=rank)
    print_ranking(best, names, grouped=grouped, by=by, layers=layers, below=below, **options)
    if options.get("format") not in RECORDS:
        if by == "score" and len(ranking) > MOST_CHANNELS:
            most = f"{MOST_CHANNELS:,} channels at most"
            tell(f"\nwho is in the true top is worked out for {most}: choose with --group NAME")
        for line in why_unranked(ranking, names, run.job.statistics, grouped=grouped):
            tell(line)


def _with_membership(run: Run, ranking: pa.Table, top: int, chosen: dict[str, Any]) -> pa.Table:
    """The ranking with `in_top` and `in_top_probability`, null where they are not worked out."""
    import pyarrow as pa

    from pcace_dist.artifacts.checked import Damaged
    from pcace_dist.artifacts.reading.together import IN_TOP

    columns = {column.name: pa.nulls(len(ranking), column.type) for column in IN_TOP}
    of_all_layers = run.ranking(**{**chosen, "layer": None}) if chosen.get("layer") else ranking
    if len(of_all_layers) <= MOST_CHANNELS:
        try:
            known = run.membership(top, **chosen)
            columns = {name: known[name] for name in columns}
        except Damaged as damaged:
            logs.say(f"who is in the true top is not known: {damaged}", prefix="pcace: ", level=logging.WARNING)
    for name, values in columns.items():
        ranking = ranking.append_column(name, values)
    return ranking
