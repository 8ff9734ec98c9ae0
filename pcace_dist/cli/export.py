"""The verb export: a run in other people's formats. Everything heavy is imported when it runs."""

from __future__ import annotations

import argparse

from pcace_dist.cli.arguments import add_run, count
from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress.terminal import tell

FORMATS = {
    "csv": "tables of the run, and fields.csv, which says what their columns are",
    "json": "the same as JSON",
    "mlflow": "a run of MLflow: params are the job, metrics what came out, artifacts results, figures and page",
    "wandb": "the same for Weights & Biases; WANDB_MODE=offline needs no account",
    "fiftyone": "a FiftyOne dataset on disk: the images that excite the best channels most, with their scores",
}


def add_verb(add: AddVerb) -> None:
    """Add the verb export."""
    verb = add(
        "export",
        "a finished run in other people's formats: CSV, JSON, MLflow, Weights & Biases, FiftyOne",
        "pcace export runs/mnist --to csv --out tables\n"
        "  pcace export runs/mnist --to mlflow --tracking-uri http://localhost:5000",
    )
    add_run(verb)
    verb.add_argument(
        "--to",
        required=True,
        choices=tuple(FORMATS),
        help="; ".join(f"{name}: {text}" for name, text in FORMATS.items()),
    )
    verb.add_argument(
        "--out",
        metavar="DIR",
        help="the folder to write, local or s3:// (default: NAME-csv, NAME-json or NAME-fiftyone here); with mlflow a "
        "local store of its own, with wandb where its files go",
    )
    verb.add_argument("--force", action="store_true", help="write also into a folder that is not empty")
    verb.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow: a server, or sqlite:///FILE (default: MLFLOW_TRACKING_URI, else what MLflow takes)",
    )
    verb.add_argument(
        "--experiment", metavar="NAME", default="pcace", help="MLflow's experiment or wandb's project (default pcace)"
    )
    verb.add_argument(
        "--top", type=count, default=20, metavar="N", help="fiftyone: channels of each target and group (default 20)"
    )
    verb.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from rich.progress import TimeElapsedColumn

    from pcace_dist.artifacts.run import open_run
    from pcace_dist.commands.export.export import ExportSettings, export
    from pcace_dist.config.lasting import refuse_rays_copy
    from pcace_dist.progress.bar import StageBar

    if arguments.out is not None:
        refuse_rays_copy("--out", arguments.out)
    names = ("to", "out", "force", "tracking_uri", "experiment", "top")
    settings = ExportSettings(**{name: getattr(arguments, name) for name in names})
    run = open_run(arguments.path)
    with StageBar("pcace export: ", TimeElapsedColumn()) as bar:
        bar.begin(f"writing {arguments.to}", None)
        written: list[str] = []

        def step(name: str) -> None:
            written.append(name)
            bar.show(len(written), None, f"{len(written):,} written, now {name}", text=name)

        exported = export(run, settings, step)
    for note in exported.notes:
        tell(f"note: {note}")
    if exported.known:
        added = f"added {', '.join(exported.written)}" if exported.written else "nothing is new"
        tell(f"{exported.place}: has this result already; {added}")
    else:
        tell(f"{exported.place}: {len(exported.written):,} files")
    return 0
