"""The verb check: everything that can be wrong with a job. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pcace_dist.cli.arguments import add_job, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress.terminal import tell

INDENT = " " * 9  # of what follows a level

if TYPE_CHECKING:
    from pcace_dist.checks.finding import Finding
    from pcace_dist.commands.check.check import Checked


def add_verb(add: AddVerb) -> None:
    """Add the verb check."""
    verb = add(
        "check",
        "everything that can be wrong with a job, in seconds: keys, data, model, class order, preprocessing, folds",
        "pcace check job.yaml --set layers=all",
    )
    add_job(verb)
    verb.add_argument(
        "--images",
        type=partial(count, most=10_000),
        default=200,
        metavar="N",
        help="images that are looked at, spread over the data (default 200)",
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        help="where to write contact-sheet.png: what the model sees, what it says, and the labels (default: the job "
        "file's name with -check)",
    )
    verb.add_argument("--json", action="store_true", help="print a JSON object with all findings and figures")
    verb.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from pcace_dist.commands.check.check import check

    out = arguments.out or f"{Path(arguments.job).stem}-check"
    checked = check(arguments.job, arguments.overrides, images=arguments.images, out=out)
    if arguments.json:
        tell(json.dumps(checked.to_json(), indent=2))
    else:
        _print(checked)
    return checked.exit_code


def _print(checked: Checked) -> None:
    width = min(100, shutil.get_terminal_size((80, 24)).columns)
    for finding in checked.findings:
        tell(_paragraph(finding, width))
    counts = {level: sum(f.level == level for f in checked.findings) for level in ("error", "warning")}
    verdict = "`pcace rank` would refuse this job" if counts["error"] else "`pcace rank` would take this job"
    numbers = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items())
    tell(f"\n{numbers}: {verdict}")
    if checked.sheet is not None:
        tell(f"what the model sees: {checked.sheet}")


def _paragraph(finding: Finding, width: int) -> str:
    """Level, subject and evidence; below, what would do."""
    text = f"{finding.level:<8} {finding.what}: {finding.evidence}"
    told = textwrap.fill(text, width, subsequent_indent=INDENT, break_long_words=False)
    if not finding.write:
        return told
    further = f"{INDENT}   "
    write = textwrap.fill(f"-> {finding.write}", width, initial_indent=INDENT, subsequent_indent=further)
    return f"{told}\n{write}"
