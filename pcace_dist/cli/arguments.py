"""Arguments that several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pcace_dist.errors import JobError
from pcace_dist.progress.terminal import Format


def add_run(verb: argparse.ArgumentParser) -> None:
    """RUN, as `arguments.path`."""
    verb.add_argument("path", metavar="RUN", help="the output of a finished run, local or s3://")


def add_job(verb: argparse.ArgumentParser, help: str = "the job file") -> None:
    """JOB.yaml and --set KEY=VALUE, as `arguments.job` and `arguments.overrides`."""
    verb.add_argument("job", metavar="JOB.yaml", help=help)
    add_overrides(verb)


def add_overrides(verb: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE, as `arguments.overrides`."""
    verb.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the job file, the value read as YAML; may be repeated",
    )


def add_choice(verb: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """--layer, --group and --target, as lists of names and globs, or None."""
    choices = {"layer": "'layer4.*'", "group": "3", "target": "logit:label"}
    for name in [name for name in choices if name not in without]:
        verb.add_argument(
            f"--{name}",
            action="append",
            metavar="NAME",
            help=f"only this {name}: an exact name or a glob, for example {choices[name]}; may be repeated",
        )


def add_format(verb: argparse.ArgumentParser, records: str) -> None:
    """--wide, --json and --csv, as `arguments.format`, else None. records: what JSON and CSV hold."""
    format = verb.add_mutually_exclusive_group()
    helps = {
        Format.WIDE: "all columns and whole names, however wide the terminal is",
        Format.JSON: f"print {records} as a JSON array, all columns",
        Format.CSV: f"print {records} as CSV, all columns",
    }
    for value, help in helps.items():
        format.add_argument(f"--{value}", dest="format", action="store_const", const=value, help=help)


def count(text: str, most: int | None = None) -> int:
    """A whole number from 1, up to `most`."""
    if not text.isdecimal() or int(text) < 1 or (most is not None and int(text) > most):
        to_most = "" if most is None else f" to {most}"
        raise argparse.ArgumentTypeError(f"{text!r}: is not a whole number from 1{to_most}")
    return int(text)


def mapping(option: str, text: str, example: str) -> dict[str, Any]:
    """The value of an option that is a YAML mapping. Raises JobError, with the example."""
    from pcace_dist.config.text import load_yaml

    value = load_yaml(text, option)
    if not isinstance(value, dict):
        raise JobError(f"{option} {text}: is not a mapping; write for example {option} '{example}'")
    return value
