"""The verb estimate: a dry run of a job. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse

from pcace_dist.cli.arguments import add_job
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress import logs
from pcace_dist.progress.terminal import tell, terminal_width


def add_verb(add: AddVerb) -> None:
    """Add the verb estimate."""
    verb = add(
        "estimate",
        "dry run: predict images, bytes, memory, time and price of a job",
        "pcace estimate job.yaml --workers 1,8,64 --price 0.35",
    )
    add_job(verb)
    verb.add_argument(
        "--workers",
        type=_counts,
        default=(1, 8, 64),
        metavar="COUNTS",
        help="numbers of workers to predict for, each with cores (and a GPU) of its own (default 1,8,64)",
    )
    verb.add_argument(
        "--price", type=_amount, metavar="AMOUNT", help="what one worker costs for an hour, in any currency"
    )
    verb.add_argument(
        "--node-start",
        type=_amount,
        default=0.0,
        metavar="SECONDS",
        help="time until the workers' nodes are up, if they are not up yet (default 0)",
    )
    verb.add_argument("--json", action="store_true", help="print a JSON object with all numbers")
    verb.set_defaults(run=_estimate)


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers of workers as 1,8,64")
    return counts


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: is not a number from 0 up")
    return amount


def _estimate(arguments: argparse.Namespace) -> int:
    import time

    began = time.perf_counter()
    from pcace_dist.config.job import load_job_file

    job = load_job_file(arguments.job, arguments.overrides)
    from pcace_dist.commands.estimate import describe
    from pcace_dist.commands.measure import estimate

    imports = time.perf_counter() - began
    found = estimate(
        job,
        workers=arguments.workers,
        price=arguments.price,
        node_start=arguments.node_start,
        imports=imports,
        tell=lambda stage: logs.say(stage, prefix="pcace estimate: "),
    )
    if arguments.json:
        import json

        tell(json.dumps(found, indent=2))
    else:
        tell(describe(found, terminal_width()))
    return 0
