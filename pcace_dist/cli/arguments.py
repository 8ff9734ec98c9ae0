"""Arguments that several verbs have."""

from __future__ import annotations

import argparse


def add_job(verb: argparse.ArgumentParser, help: str = "the job file") -> None:
    """JOB.yaml and --set KEY=VALUE, as `arguments.job` and `arguments.overrides`."""
    verb.add_argument("job", metavar="JOB.yaml", help=help)
    verb.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the job file, the value read as YAML; may be repeated",
    )
