"""The verb init: a commented job file. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import sys

from pcace_dist.cli.arguments import mapping
from pcace_dist.cli.parser import AddVerb
from pcace_dist.errors import JobError
from pcace_dist.progress.terminal import tell


def add_verb(add: AddVerb) -> None:
    """Add the verb init."""
    verb = add(
        "init",
        "write a commented job file, from what a model and a data set say of themselves",
        "pcace init --factory torchvision:resnet18 --kwargs '{weights: DEFAULT}' --data photos/",
    )
    verb.add_argument("--factory", metavar="F", help="torchvision:NAME, or module:function for any other model")
    verb.add_argument("--kwargs", default="{}", metavar="MAPPING", help="its arguments, as YAML (default: none)")
    verb.add_argument(
        "--weights",
        metavar="W",
        help="a state dict (.pt, .safetensors), `random`, or `factory` where the factory brings its own (default: "
        "`factory`; `random` for an architecture of torchvision or timm)",
    )
    verb.add_argument("--data", metavar="PATH", help="images: a folder (of classes), Parquet, a CSV with paths")
    verb.add_argument("--label", metavar="COLUMN", help="the column with the class; `none` for no labels")
    verb.add_argument("--layers", metavar="L", help="a layer, a glob or `all` (default: the last block)")
    verb.add_argument("--target", metavar="T", help="what channels are ranked against, for example '{output: 0}'")
    verb.add_argument("--output", metavar="DIR", help="where the run will write (default: runs/NAME)")
    verb.add_argument("--out", default="job.yaml", metavar="FILE", help="the job file to write (default: job.yaml)")
    verb.add_argument("--force", action="store_true", help="write over a job file that is there")
    verb.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    asks = sys.stdin.isatty()
    factory = arguments.factory or _needed("--factory", "Model (torchvision:NAME, or module:function)", asks)
    data = arguments.data or _needed("--data", "Images (a folder, Parquet or CSV)", asks)
    from pcace_dist.commands.init.init import Wishes, write_job

    wishes = Wishes(
        factory=factory,
        data=data,
        kwargs=mapping("--kwargs", arguments.kwargs, "{weights: DEFAULT}"),
        weights=arguments.weights,
        label=arguments.label,
        layers=arguments.layers,
        target=None if arguments.target is None else mapping("--target", arguments.target, "{output: 0}"),
        output=arguments.output,
    )
    tell(write_job(wishes, arguments.out, force=arguments.force, ask=_ask if asks else None))
    tell(f"{arguments.out} is written. Next:\n  pcace check {arguments.out}\n  pcace rank {arguments.out}")
    return 0


def _needed(option: str, question: str, asks: bool) -> str:
    answer = _ask(question, "") if asks else ""
    if not answer:
        raise JobError(f"{option}: is needed; for example pcace init --factory torchvision:resnet18 --data photos/")
    return answer


def _ask(question: str, default: str) -> str:
    """The answer, or the default where there is none."""
    try:
        answer = input(f"{question} [{default}]: " if default else f"{question}: ").strip()
    except EOFError:
        answer = ""
    return answer or default
