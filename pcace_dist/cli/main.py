"""The command line: verbs, arguments, exit codes. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pcace_dist import __version__
from pcace_dist.cli import (
    check,
    completion,
    estimate,
    explain,
    export,
    init,
    layers,
    pack,
    runs,
    schema,
    select,
    serve,
    show,
    stability,
)
from pcace_dist.cli.arguments import add_choice, add_job, add_run, count
from pcace_dist.cli.parser import AddVerb, Parser, exit_codes, verb_adder
from pcace_dist.errors import JobError, PcaceError
from pcace_dist.progress import logs, terminal
from pcace_dist.progress.terminal import tell

if TYPE_CHECKING:
    from pcace_dist.artifacts.run import Run
    from pcace_dist.config.job import Job

RANKINGS_SHOWN = 10  # at the end of `pcace rank`; `pcace show` shows all that are asked for

WELCOME = """\
pcace ranks the channels of a vision model's layers by how much their maps tell
about its output: over all your images, with confidence intervals.

  pcace init                     1. a job file for your model and images
  pcace check job.yaml           2. what may be wrong with it, in seconds
  pcace rank job.yaml            3. the ranking; `pcace report` makes a page

All commands: pcace --help. One of them, with an example: pcace rank --help."""


def entry() -> NoReturn:
    """The console script. It ends the process without clean-up: unloading torch's modules would take a second."""
    terminal.ensure_utf8()
    terminal.ensure_streams()
    terminal.quiet_libraries()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next (cli/completion.py)
        completion.answer(build_parser())
    code = main(sys.argv[1:])
    logging.shutdown()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed it
        pass
    except OSError as error:
        code = code or 1
        logs.say(f"the output cannot be written: {error}", prefix="pcace: ", level=logging.ERROR, exit_code=code)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name); the exit code."""
    try:
        logs.configure(logs.LogSettings.from_environment())
        terminal.check_arguments(argv)
    except JobError as error:
        logs.say(str(error), prefix="pcace: ", level=logging.ERROR, exit_code=error.exit_code)
        return error.exit_code
    if not argv:
        tell(WELCOME)
        return 0
    arguments = build_parser().read(argv)
    try:
        code = int(arguments.run(arguments))
    except PcaceError as error:
        code = error.exit_code
        logs.say(str(error), prefix=f"pcace {arguments.verb}: ", level=logging.ERROR, exit_code=code)
    except KeyboardInterrupt:
        code = 5
        logs.say("interrupted", prefix=f"pcace {arguments.verb}: ", level=logging.ERROR, exit_code=code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return 0 if code in arguments.ok else code


def build_parser() -> Parser:
    """The parser of all verbs."""
    parser = Parser(
        prog="pcace",
        description="Rank the channels of a vision model's layers by their maximal correlation with the\n"
        "model's output, over whole data sets.",
        epilog="start with:  pcace rank examples/mnist/job.yaml\n\n" + exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pcace {__version__}")
    add = verb_adder(parser.add_subparsers(dest="verb", metavar="VERB", required=True))
    _add_rank(add)
    init.add_verb(add)
    check.add_verb(add)
    pack.add_verb(add)
    show.add_verb(add)
    _add_status(add)
    runs.add_verbs(add)
    select.add_verb(add)
    stability.add_verb(add)
    estimate.add_verb(add)
    layers.add_verb(add)
    _add_report(add)
    serve.add_verb(add)
    explain.add_verb(add)
    export.add_verb(add)
    schema.add_verb(add)
    completion.add_verb(add)
    return parser


# -- rank


def _add_rank(add: AddVerb) -> None:
    verb = add(
        "rank",
        "run or resume a job: stream the images, merge, rank",
        "pcace rank examples/mnist/job.yaml --set workers.max=4",
    )
    add_job(verb)
    verb.add_argument(
        "--from-codes",
        metavar="RUN",
        help="answer from the codes that RUN kept (statistics.keep_codes), without the model: another target column, "
        "grouping, filter, other knots or folds; the same as dataset.path: RUN",
    )
    verb.add_argument(
        "--take-over", action="store_true", help="take the run over from a driver that still seems active"
    )
    verb.add_argument(
        "--retry-bad",
        choices=["read"],
        help="process units again whose row groups were set aside as unreadable, also in a finished run: version 0.1.0 "
        "did this while storage was away",
    )
    verb.add_argument("--top", type=count, default=10, metavar="N", help="channels to print at the end (default 10)")
    verb.set_defaults(run=_rank)


def _rank(arguments: argparse.Namespace) -> int:
    from pcace_dist.config.job import load_job_file

    overrides = list(arguments.overrides)
    if arguments.from_codes:  # usually asked with the job that kept the codes
        overrides = ["statistics.keep_codes=false", *overrides, f"dataset.path={json.dumps(arguments.from_codes)}"]
    job = load_job_file(arguments.job, overrides)
    from pcace_dist.imports import quick_imports
    from pcace_dist.run.early import early_workers

    finished_before: list[str] = []
    options: dict[str, Any] = {"take_over": arguments.take_over, "retry_bad": arguments.retry_bad}
    with early_workers(job) as early:
        with quick_imports():
            from pcace_dist.artifacts.run import open_run
            from pcace_dist.config.resolve import storage_of
            from pcace_dist.run.rank import run_job

        code = run_job(job, early=early, tell=finished_before.append, **options)
    for line in finished_before:
        tell(f"{job.output}: {line}\n")
    _print_outcome(open_run(job.output, storage=storage_of(job)), job, arguments.top, is_new=not finished_before)
    return code


def _print_outcome(run: Run, job: Job, top: int, *, is_new: bool) -> None:
    from pcace_dist.artifacts.summary import TOO_MANY_BAD_ROWS
    from pcace_dist.datasets.paths import first_names

    summary = run.summary
    options: dict[str, Any] = {"most": RANKINGS_SHOWN, "all_columns": f"pcace show {run.path} --wide"}
    show.print_rankings(run, run.ranking(), top, **options)
    if is_new:
        _print_time(summary)
    else:
        tell(f"\n{summary['images']:,} images, {summary['bad_rows']:,} bad rows")
    if (summary.get("drift") or {}).get("advice"):
        tell(summary["drift"]["advice"])
    if job.stop is not None and summary.get("stop", {}).get("settled"):
        tell(f"stopped early: the top {job.stop.top} is settled, {summary['stop']['rows_spared']:,} rows were spared")
    if summary["outcome"] == TOO_MANY_BAD_ROWS:
        tell(f"more rows were set aside than max_bad_rows {job.max_bad_rows:g} allows; see {run.path}/bad_rows.parquet")
    if summary.get("unlabelled"):
        tell(f"left out: {summary['unlabelled']:,} rows without a label ({job.dataset.label} is null or -1)")
    for left_out in summary.get("files_left_out", ()):
        if not left_out["usual"]:
            names = first_names(left_out["names"], len(left_out["names"]), left_out["files"])
            tell(f"left out of dataset.path: {left_out['files']:,} {left_out['reason']}: {names}")
    tell(f"rankings: {run.path}/rankings.parquet   summary: {run.path}/summary.json")


def _print_time(summary: Mapping[str, Any]) -> None:
    """Print how long a run took, and what took the time."""
    from pcace_dist.run.bottleneck import describe_time

    details = (
        f"{summary['images_per_second']:,.0f} images/s, {_workers(summary)}"
        if summary.get("from_codes") is None
        else f"from the codes of {summary['from_codes']}"
    )
    tell(f"\n{summary['images']:,} images in {summary['seconds']:.1f} s ({details}), {summary['bad_rows']:,} bad rows")
    for prefix, line in zip(("time: ", "      "), describe_time(summary), strict=False):
        tell(prefix + line)


def _workers(summary: Mapping[str, Any]) -> str:
    count = f"{summary['workers']} worker{'' if summary['workers'] == 1 else 's'}"
    return count if summary.get("workers_are") != "threads of the driver" else f"{count} in this process, without Ray"


# -- show, status


def _add_status(add: AddVerb) -> None:
    verb = add("status", "progress, rate, remaining time, workers and last faults of a run", "pcace status runs/mnist")
    verb.add_argument("path", metavar="RUN", help="the output of a run, local or s3://")
    verb.add_argument("--json", action="store_true", help="print a JSON object")
    verb.set_defaults(run=_status)


def _status(arguments: argparse.Namespace) -> int:
    from pcace_dist.run.status import status_of

    status = status_of(arguments.path)
    tell(json.dumps(status.to_json(), indent=2) if arguments.json else "\n".join(status.lines()))
    return 0


# -- report


def _add_report(add: AddVerb) -> None:
    verb = add(
        "report",
        "write RUN/report.html: one page with scores, exemplar images, transforms and maps; no network needed",
        "pcace report runs/mnist\n"
        "  pcace report runs/resnet18 --top 10 --layers 'layer4.*' --no-synthesis\n"
        "  pcace report runs/today --against runs/yesterday --output today.html",
    )
    add_run(verb)
    verb.add_argument(
        "--top",
        type=count,
        metavar="N",
        help="channels with pictures: the N best and N worst of each layer (default: 3 to 16, by the number of layers)",
    )
    add_choice(verb, without=("target",))
    verb.add_argument("--layers", type=_names, metavar="NAMES", help="the same as --layer, by comma")
    verb.add_argument("--groups", type=_names, metavar="NAMES", help="the same as --group, by comma")
    verb.add_argument("--no-synthesis", action="store_true", help="compute no images that excite the channels (faster)")
    verb.add_argument(
        "--no-images",
        action="store_true",
        help="for data that must not be shown: numbers, axes and transforms only; no photograph, no synthetic image, "
        "no map of places. `shown: none` in the job says it for good",
    )
    verb.add_argument("--blur", action="store_true", help="show photographs at 16 pixels, so that little is made out")
    verb.add_argument("--device", default="auto", help="cpu, cuda or auto (default: a GPU if there is one)")
    verb.add_argument("--against", metavar="RUN_B", help="a second run, for a comparison view")
    verb.add_argument("--output", metavar="FILE", help="where to write the page (default: RUN/report.html)")
    verb.add_argument(
        "--labels",
        metavar="MODULE:FUNCTION",
        help="an image-text model of yours that names channels: function(images, words) gives similarities, a row per "
        "PIL image (default: named by classes and columns)",
    )
    verb.add_argument("--words", metavar="FILE", help="its words, one a line (default: names of classes and columns)")
    verb.add_argument("--pdf", action="store_true", help="print all views into a PDF beside the page, by a browser")
    verb.set_defaults(run=_report)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _both(repeated: Sequence[str] | None, by_comma: Sequence[str] | None) -> tuple[str, ...] | None:
    return (*(repeated or ()), *(by_comma or ())) or None


def _words(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    if arguments.words is None:
        return None
    if arguments.labels is None:
        raise JobError("--words: are those of --labels, which is not given")
    try:
        lines = Path(arguments.words).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"--words {arguments.words}: cannot be read: {error}") from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _report(arguments: argparse.Namespace) -> int:
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.reporting.build import build_report
    from pcace_dist.reporting.options import ReportOptions

    refuse_rays_copy("--output", arguments.output or arguments.path)
    report = build_report(
        arguments.path.rstrip("/"),
        ReportOptions(
            top=arguments.top,
            layers=_both(arguments.layer, arguments.layers),
            groups=_both(arguments.group, arguments.groups),
            synthesis=not arguments.no_synthesis,
            images=not arguments.no_images,
            blur=arguments.blur,
            device=arguments.device,
            against=arguments.against,
            output=arguments.output,
            pdf=arguments.pdf,
            labels=arguments.labels,
            words=_words(arguments),
        ),
    )
    for note in report.notes:
        tell(f"note: {note}")
    tell(
        f"{report.path}: {report.size / 1e6:.1f} MB, {report.channels:,} channels and {report.images:,} images in "
        f"{sum(report.seconds.values()):.1f} s"
    )
    if report.pdf is not None:
        tell(report.pdf)
    return 0
