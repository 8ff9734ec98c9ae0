"""The verbs for models in production: compare, evaluate, rerank, history. What is heavy is imported by the verb."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pcace_dist.cli.arguments import add_choice, add_format, add_job, add_run, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress import logs
from pcace_dist.progress.terminal import RECORDS, tell

if TYPE_CHECKING:
    from pcace_dist.analysis.compare import Comparison
    from pcace_dist.analysis.thresholds import MaxMoved, Thresholds
    from pcace_dist.config.targets import TargetSpec


def add_verbs(add: AddVerb) -> None:
    """Add all verbs of this module."""
    _add_compare(add)
    _add_evaluate(add)
    _add_rerank(add)
    _add_history(add)


# -- compare


def _add_compare(add: AddVerb) -> None:
    verb = add(
        "compare",
        "what moved between two finished runs, what is noise, or why they cannot be compared",
        "pcace compare runs/monday runs/sunday --top 20 --min-tau 0.9 --max-moved 5%",
    )
    verb.add_argument("one", metavar="RUN_A", help="the earlier run, local or s3://")
    verb.add_argument("other", metavar="RUN_B", help="the later run")
    add_choice(verb)
    add_judgement(verb)
    verb.add_argument(
        "--across-data",
        action="store_true",
        help="compare runs whose data sets have other paths and no file in common: both are samples from one source",
    )
    verb.add_argument(
        "--match",
        action="store_true",
        help="also match the channels of the two runs by their codes on the same images, and compare the matched ones",
    )
    verb.add_argument(
        "--output", metavar="DIR", help="folder for comparison.json and comparison.parquet (default: RUN_B)"
    )
    add_format(verb, "the channels with their scores in both runs")
    verb.set_defaults(run=_compare)


def add_judgement(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that define movement and drift."""
    verb.add_argument("--top", type=count, default=20, metavar="K", help="ranks of the top-K overlap (default 20)")
    verb.add_argument(
        "--level", type=_share, default=0.05, help="false discovery rate of the channels that moved (default 0.05)"
    )
    verb.add_argument(
        "--tolerance", type=_share, default=0.0, help="a change of score smaller than this is no movement (default 0)"
    )
    verb.add_argument(
        "--effect-tolerance",
        type=_share,
        default=0.0,
        metavar="CHANGE",
        help="a change of effect smaller than this is no movement (default 0)",
    )
    verb.add_argument(
        "--max-effects-moved",
        type=_max_moved,
        metavar="N",
        help="exit 3 if more effects moved: a number, or a share as 5%%",
    )
    verb.add_argument("--min-tau", type=float, metavar="TAU", help="exit 3 if Kendall's tau is below this")
    verb.add_argument("--min-overlap", type=_share, metavar="SHARE", help="exit 3 if the top-K overlap is below this")
    verb.add_argument(
        "--max-moved", type=_max_moved, metavar="N", help="exit 3 if more channels moved: a number, or a share as 5%%"
    )


def thresholds_of(arguments: argparse.Namespace) -> Thresholds:
    from pcace_dist.analysis.thresholds import Thresholds

    return Thresholds(arguments.min_tau, arguments.min_overlap, arguments.max_moved, arguments.max_effects_moved)


def _compare(arguments: argparse.Namespace) -> int:
    from pcace_dist.analysis.compare import ComparisonSettings, compare_runs
    from pcace_dist.analysis.console import print_comparison, print_matched
    from pcace_dist.analysis.matched import compare_matched
    from pcace_dist.analysis.publish import write_comparison
    from pcace_dist.analysis.thresholds import drift
    from pcace_dist.artifacts.run import open_run
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.errors import UserError
    from pcace_dist.progress.table import print_records

    refuse_rays_copy("--output", arguments.output or arguments.other)
    earlier, later = open_run(arguments.one), open_run(arguments.other)
    names = ("top", "level", "tolerance", "effect_tolerance", "layer", "group", "target", "across_data")
    comparison = compare_runs(earlier, later, ComparisonSettings(**{name: getattr(arguments, name) for name in names}))
    if comparison.verdict == "not comparable":
        raise UserError(f"not comparable: {'; '.join(comparison.reasons)}")
    as_records = arguments.format in RECORDS
    if as_records:
        print_records(comparison.channels.to_pylist(), arguments.format)
    else:
        print_comparison(comparison, arguments.format)
    matched = compare_matched(earlier, later, comparison) if arguments.match else None
    if matched is not None and not as_records:
        print_matched(matched)
    folder = (arguments.output or later.path).rstrip("/")
    write_comparison(comparison, folder, later.storage, matched)
    if not as_records:
        tell(f"\ncomparison: {folder}/comparison.json   {folder}/comparison.parquet")
    return report_drift(arguments.verb, drift(comparison, thresholds_of(arguments)))


def report_drift(verb: str, reasons: list[str]) -> int:
    """0, or 3 with the reasons on stderr."""
    if not reasons:
        return 0
    logs.say(f"drift: {'; '.join(reasons)}", prefix=f"pcace {verb}: ", level=logging.WARNING)
    return 3


# -- evaluate


def _add_evaluate(add: AddVerb) -> None:
    verb = add(
        "evaluate",
        "ablation curves on images that the ranking has not seen: do the top channels matter to the model?",
        "pcace evaluate runs/mnist --group 3 --layer conv2",
    )
    add_run(verb)
    verb.add_argument(
        "--data",
        metavar="PATH",
        help="measure effects on this data set (same columns); default: hold out a quarter of the run's folds, and "
        "rank again without them",
    )
    verb.add_argument("--images", type=count, default=4000, metavar="N", help="images to read (default 4000)")
    verb.add_argument("--draws", type=count, default=20, metavar="N", help="random orders (default 20)")
    verb.add_argument(
        "--replace",
        type=_replacements,
        default=("mean", "zero", "bias"),
        metavar="HOW",
        help="what replaces a channel: mean, zero, bias (where a batch norm follows), optimal (the constants that "
        "change the target least; takes several times as long); default: mean,zero,bias",
    )
    add_choice(verb)
    verb.add_argument(
        "--watch",
        "--effect",  # its name in version 0.1
        type=_target,
        metavar="TARGET",
        help="what to watch of the model's outputs instead of the run's target, for example output:0 or margin:label",
    )
    verb.add_argument("--output", metavar="DIR", help="folder for evaluation.json, .parquet and .svg (default: RUN)")
    add_format(verb, "how every order does against the ranking")
    verb.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from pcace_dist.analysis.console import print_standings
    from pcace_dist.analysis.standings import standings, verdict
    from pcace_dist.artifacts.run import open_run
    from pcace_dist.commands.evaluate import EvaluationSettings, evaluate, write_evaluation
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.progress.table import print_records

    refuse_rays_copy("--output", arguments.output or arguments.path)
    run = open_run(arguments.path)
    names = ("data", "images", "draws", "target", "group", "watch")
    options = {name: getattr(arguments, name) for name in names}
    evaluation = evaluate(run, EvaluationSettings(layers=arguments.layer, replacements=arguments.replace, **options))
    by_replacement = {name: list(standings(evaluation.curves, name)) for name in evaluation.replacements}
    as_records = arguments.format in RECORDS
    if as_records:
        records = [{"replacement": name} | asdict(row) for name, rows in by_replacement.items() for row in rows]
        print_records(records, arguments.format)
    else:
        for name, rows in by_replacement.items():
            print_standings(rows, name, arguments.format)
            tell(verdict(evaluation.curves, name))
    for line in evaluation.left_out:
        logs.say(f"left out: {line}", level=logging.WARNING)
    folder = (arguments.output or run.path).rstrip("/")
    write_evaluation(evaluation, folder, run)
    if not as_records:
        tell(f"\nevaluation: {folder}/evaluation.json   curves: {folder}/evaluation.parquet, evaluation-*.svg")
    return 0


# -- rerank, history


def _add_rerank(add: AddVerb) -> None:
    verb = add(
        "rerank",
        "one tick of a schedule: rank if weights, data or job are new, compare with the last run, publish",
        "pcace rerank job.yaml --max-moved 5% --hook 'mail -s drift ml@example.org' --keep 8",
    )
    add_job(verb, "the job file; `output` is the folder of the schedule")
    verb.add_argument("--take-over", action="store_true", help="take the schedule over from a tick that seems active")
    verb.add_argument("--no-report", action="store_true", help="do not write report.html of the new run")
    verb.add_argument("--keep", type=count, default=10, metavar="N", help="published runs to keep (default 10)")
    verb.add_argument(
        "--no-extend",
        action="store_true",
        help="rank all images again, with a new plan, even if only data was added or removed (default: only that data)",
    )
    verb.add_argument(
        "--hook", metavar="COMMAND", help="shell command to run on drift; gets the entry as JSON on stdin"
    )
    verb.add_argument("--webhook", type=_url, metavar="URL", help="http(s) address to POST the entry to on drift")
    add_judgement(verb)
    verb.set_defaults(run=_rerank)


def _rerank(arguments: argparse.Namespace) -> int:
    from pcace_dist.config.job import load_job_file

    job = load_job_file(arguments.job, arguments.overrides)
    from pcace_dist.analysis.compare import ComparisonSettings
    from pcace_dist.commands.hooks import Hooks
    from pcace_dist.commands.rerank import Options, rerank

    outcome = rerank(
        job,
        Options(
            settings=ComparisonSettings(
                top=arguments.top,
                level=arguments.level,
                tolerance=arguments.tolerance,
                effect_tolerance=arguments.effect_tolerance,
            ),
            thresholds=thresholds_of(arguments),
            hooks=Hooks(arguments.hook, arguments.webhook),
            extend=not arguments.no_extend,
            keep=arguments.keep,
            report=not arguments.no_report,
            take_over=arguments.take_over,
        ),
    )
    if outcome.entry is None:
        tell(f"nothing new: {job.output}/latest.json stays as it is")
        return 0
    if outcome.comparison is not None:
        _print_tick(outcome.comparison)
    tell(f"published: {job.output}/{outcome.entry.run} ({outcome.entry.why})")
    report_drift(arguments.verb, list(outcome.entry.drift))
    return outcome.exit_code


def _print_tick(comparison: Comparison) -> None:
    from pcace_dist.analysis.console import print_comparison

    if comparison.verdict == "not comparable":
        tell(f"not comparable with the last run: {'; '.join(comparison.reasons)}")
    else:
        print_comparison(comparison)


def _add_history(add: AddVerb) -> None:
    verb = add("history", "the runs that a schedule has published, in order", "pcace history runs/weekly")
    verb.add_argument("path", metavar="OUTPUT", help="the output of `pcace rerank`, local or s3://")
    add_format(verb, "the runs")
    verb.set_defaults(run=_history)


def _history(arguments: argparse.Namespace) -> int:
    from pcace_dist.analysis.console import print_history
    from pcace_dist.analysis.history import read_history
    from pcace_dist.progress.table import print_records

    history = read_history(arguments.path)
    if arguments.format in RECORDS:
        print_records([asdict(entry) for entry in history.entries], arguments.format)
    else:
        print_history(history, arguments.format)
    return 0


# -- values of arguments


def _replacements(text: str) -> tuple[str, ...]:
    choices = ("mean", "zero", "bias", "optimal")
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or any(name not in choices for name in names):
        raise argparse.ArgumentTypeError(f"{text!r}: write one or more of {', '.join(choices)}")
    return names


def _target(text: str) -> TargetSpec:
    from pcace_dist.config.targets import parse_name
    from pcace_dist.errors import JobError

    try:
        return parse_name(text)
    except JobError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _url(text: str) -> str:
    from pcace_dist.commands.hooks import check_url

    try:
        return check_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"the address {error}") from None


def _checked(text: str, parse: Callable[[str], Any], is_valid: Callable[[Any], bool], requirement: str) -> Any:
    try:
        value = parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {requirement}") from None
    if not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {requirement}")
    return value


def _share(text: str) -> float:
    return float(_checked(text, float, lambda value: bool(0 <= value <= 1), "a number from 0 to 1"))


def _max_moved(text: str) -> MaxMoved:
    from pcace_dist.analysis.thresholds import MaxMoved

    limit: MaxMoved = _checked(text, MaxMoved.parse, lambda _: True, "a number of channels, or a share as 5%")
    return limit
