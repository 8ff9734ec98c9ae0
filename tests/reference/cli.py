"""docs/reference/cli.md: every verb with its arguments, from the parser."""

from __future__ import annotations

import argparse

from pcace_dist.cli.main import build_parser
from tests.reference import HEAD, code, table

INTRO = """\
# Commands

RUN and every other path is local or `s3://`. `jobs/VERB.py` takes the same arguments, for `ray job submit`. Every verb
has `--help` and `--ok CODES`, which turns [exit codes](exit-codes.md) into 0.

"""


def page() -> str:
    verbs = build_parser().verbs()
    rows = ([f"[{name}](#pcace-{name})", one_line(verb.description)] for name, verb in verbs.items())
    sections = (section(name, verb) for name, verb in verbs.items())
    return HEAD + INTRO + table(["verb", "does"], rows) + "".join(sections)


def section(name: str, verb: argparse.ArgumentParser) -> str:
    arguments = [action for action in verb._actions if action.dest not in ("help", "ok")]
    rows = ([code(spelling(action)), one_line(action.help).replace("%%", "%")] for action in arguments)
    example = str(verb.epilog).partition("\n\nexit codes:")[0].partition("example:\n")[2]
    shown = "".join(f"{line.removeprefix('  ')}\n" for line in example.splitlines())
    return (
        f"\n## pcace {name}\n\n{one_line(verb.description)}\n\n{table(['argument', 'is'], rows)}\n```sh\n{shown}```\n"
    )


def one_line(text: str | None) -> str:
    return " ".join(str(text).split())


def spelling(action: argparse.Action) -> str:
    """An argument as it is written: RUN, --top N, --no-report, csv|json."""
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar or action.dest.upper()
    if not action.option_strings:
        return str(value)
    if action.nargs == 0:
        return action.option_strings[0]
    return f"{action.option_strings[0]} {f'[{value}]' if action.nargs == '?' else value}"
