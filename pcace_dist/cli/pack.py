"""The verb pack: images into Parquet shards, here or on Ray. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress import logs
from pcace_dist.progress.terminal import tell

if TYPE_CHECKING:
    from pcace_dist.packing.pack import PackReport
    from pcace_dist.packing.source import Reading

REASONS = 12  # printed reasons for leaving files out
NAMED = 3  # printed names for each reason


def add_verb(add: AddVerb) -> None:
    """Add the verb pack."""
    verb = add(
        "pack",
        "write an image folder, a CSV with image paths, MNIST idx files, WebDataset tars or Parquet as Parquet shards",
        "pcace pack photos/ shards/            # folder: one class per sub-folder\n"
        "  pcace pack stations.csv shards/ --image-column path --shard-rows 5000\n"
        "  pcace pack ILSVRC/train s3://bucket/imagenet/train --workers 16 --verify decode\n"
        "  pcace pack 'hf/data/train-*.parquet' shards/",
    )
    verb.add_argument(
        "source", metavar="SOURCE", help="image folder, .csv file, folder or glob of .tar or .parquet files, idx files"
    )
    verb.add_argument(
        "dest", metavar="DEST", help="folder for the shards, local or s3://; empty, or from the same pack, interrupted"
    )
    verb.add_argument(
        "--kind", choices=["folder", "csv", "mnist", "webdataset", "parquet"], help="what SOURCE is (default: detect)"
    )
    verb.add_argument(
        "--image-column",
        default="image",
        help="csv: the column with the image paths; parquet: with the images (default image)",
    )
    verb.add_argument(
        "--classes",
        metavar="FILE",
        help="class names by index (LOC_synset_mapping.txt, synset_words.txt, a name per line, imagenet_class_index"
        ".json): columns synset and class, and the labels of folders (default: ImageNet's list if it is beside SOURCE)",
    )
    _add_reading(verb)
    verb.add_argument("--shard-rows", type=int, metavar="N", help="rows of a shard")
    verb.add_argument(
        "--shard-bytes", type=_size, default=256 << 20, metavar="SIZE", help="bytes of a shard (default 256MiB)"
    )
    verb.add_argument(
        "--verify",
        nargs="?",
        const="headers",
        choices=["headers", "decode"],
        help="leave out files that are no image by their header, or that cannot be decoded (--verify alone: headers; "
        "without --verify: only files that are no image by their first bytes)",
    )
    verb.add_argument("--row-group-rows", type=int, metavar="N", help="rows of a row group (default: about 16 MiB)")
    verb.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="shards written at the same time, on Ray from 2 on (default: 1, in this process; with RAY_ADDRESS, as "
        "in `ray job submit`, as many as the cluster has cores)",
    )
    verb.set_defaults(run=_pack)


def _add_reading(verb: argparse.ArgumentParser) -> None:
    """Add the arguments for sources that can be read in more than one way."""
    verb.add_argument(
        "--labels",
        choices=["order", "number"],
        help="labels of class folders with numbers as names: order (sorted as text, as ImageFolder does) or number "
        "(the name is the label); default: number for 0 to n-1, else an error where sorting as text differs",
    )
    verb.add_argument(
        "--allow-empty-classes",
        action="store_true",
        help="a class keeps its label even if none of its files can be packed (default: this is an error)",
    )
    verb.add_argument(
        "--image-key", metavar="KEY", help="tars: the member that is the image (jpg; 'jpg;png' the first that is there)"
    )
    verb.add_argument("--encoding", default="utf-8", help="csv: encoding of the text, such as latin-1 (default utf-8)")
    verb.add_argument(
        "--type",
        metavar="COLUMN=text|number",
        type=_column_type,
        action="append",
        default=[],
        help="csv: the type of a column (default: number where this changes no value; 0007 is text)",
    )
    verb.add_argument(
        "--allow-outside", action="store_true", help="csv: also images outside the folder that the CSV lies in"
    )


def _column_type(text: str) -> tuple[str, str]:
    column, _, column_type = text.rpartition("=")
    if not column or column_type not in ("text", "number"):
        raise argparse.ArgumentTypeError(f"{text!r}: is not COLUMN=text or COLUMN=number")
    return column, column_type


def _size(text: str) -> int:
    from pcace_dist.config.text import parse_bytes

    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return int(str(size))


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: is not a whole number from 1")
    return int(text)


def _pack(arguments: argparse.Namespace) -> int:
    from pcace_dist.cli.tables import PackProgress
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.packing.pack import begin, limits_of, run_here

    refuse_rays_copy("DEST", arguments.dest)
    with _terminable():
        packing = begin(
            arguments.source,
            arguments.dest,
            kind=arguments.kind,
            image_column=arguments.image_column,
            classes=arguments.classes,
            reading=_reading(arguments),
            limits=limits_of(arguments.shard_bytes, arguments.shard_rows, arguments.row_group_rows),
            verify=arguments.verify or False,
        )
        for note in (*packing.source.notes, *packing.class_table):
            logs.say(note, prefix="pcace pack: ")
        if packing.done:
            logs.say(f"{len(packing.done):,} of {len(packing.tasks):,} parts are there already", prefix="pcace pack: ")
        with PackProgress() as progress:
            if packing.todo and _on_ray(arguments.workers):
                from pcace_dist.executors.ray_packing import run_on_ray

                report = run_on_ray(packing, workers=arguments.workers, on_progress=progress.show)
            else:
                report = run_here(packing, progress.show)
    _print_report(report, arguments.dest)
    return 0


def _reading(arguments: argparse.Namespace) -> Reading:
    from pcace_dist.packing.source import Reading

    return Reading(
        image_key=arguments.image_key,
        encoding=arguments.encoding,
        types=dict(arguments.type),
        labels=arguments.labels,
        allow_empty_classes=arguments.allow_empty_classes,
        allow_outside=arguments.allow_outside,
    )


def _on_ray(workers: int | None) -> bool:
    from pcace_dist.executors.ray_session import names_a_cluster

    return names_a_cluster() if workers is None else workers > 1


def _print_report(report: PackReport, dest: str) -> None:
    from pcace_dist.datasets.paths import by_reason, first_names
    from pcace_dist.packing.pack import BAD_FILES

    shards = "1 shard" if len(report.shards) == 1 else f"{len(report.shards):,} shards"
    tell(f"{report.rows:,} images in {shards}: {dest}")
    if not report.bad:
        return
    reasons = by_reason(report.bad)
    for reason, names in list(reasons.items())[:REASONS]:
        logs.say(f"left out {len(names):,}, {reason}: {first_names(names, NAMED)}", level=logging.WARNING)
    more_reasons = f"{len(reasons) - REASONS:,} more reasons; " if len(reasons) > REASONS else ""
    logs.say(
        f"{more_reasons}{len(report.bad):,} left out in all: {dest.rstrip('/')}/{BAD_FILES}", level=logging.WARNING
    )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM does the same as Ctrl-C: exit code 5, and the same command continues."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
