"""`pcace export`: where each format is written, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from pcace_dist.artifacts.run import Run
from pcace_dist.commands.export.folder import Folder, Step
from pcace_dist.commands.export.mlflow_run import EXPERIMENT, to_mlflow
from pcace_dist.commands.export.record import RunRecord, Tracked
from pcace_dist.commands.export.tables import csv_files, json_files
from pcace_dist.commands.export.wandb_run import to_wandb
from pcace_dist.errors import JobError
from pcace_dist.storage.files import normalised

Format = Literal["csv", "json", "mlflow", "wandb", "fiftyone"]
FORMATS: tuple[str, ...] = get_args(Format)
TOP = 20


@dataclass(frozen=True)
class ExportSettings:
    """to: one of FORMATS. out: the folder that is written (None: `<name of the run>-<to>` in this directory; trackers
    go where they are set up to). force: also into a folder that is not empty. experiment: MLflow's experiment or
    wandb's project. tracking_uri: of MLflow. top: for FiftyOne, channels of each target and group."""

    to: str
    out: str | None = None
    force: bool = False
    experiment: str = EXPERIMENT
    tracking_uri: str | None = None
    top: int = TOP


@dataclass(frozen=True)
class Exported:
    """Where the run is now; the names of what was written; whether it was there before; what people should know."""

    place: str
    written: tuple[str, ...]
    known: bool = False
    notes: tuple[str, ...] = ()


def export(run: Run, settings: ExportSettings, step: Step = lambda name: None) -> Exported:
    """Export a finished run. step: called with the name of each thing that is written.

    Raises JobError for settings that do not go together, OutputError where something is in the way or cannot be
    written, NotInstalled.
    """
    if settings.to not in FORMATS:
        raise JobError(f"--to {settings.to}: is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if settings.tracking_uri is not None and settings.to != "mlflow":
        raise JobError(f"--tracking-uri: goes with --to mlflow, not with {settings.to}")
    if settings.to in ("mlflow", "wandb"):
        return _to_tracker(RunRecord(run), settings, step)
    return _to_folder(run, settings, step)


def _to_folder(run: Run, settings: ExportSettings, step: Step) -> Exported:
    url = normalised(settings.out or f"{RunRecord(run).name}-{settings.to}")
    folder = Folder(url, run.storage)
    if not settings.force:
        folder.refuse_what_is_there()
    from pcace_dist.commands.export.fiftyone import fiftyone_files  # with the report's modules

    notes: list[str] = []
    content: dict[str, Callable[[], Iterator[tuple[str, bytes]]]] = {
        "csv": lambda: csv_files(run),
        "json": lambda: json_files(run),
        "fiftyone": lambda: fiftyone_files(run, settings.top, notes.append),
    }
    written = []
    for name, data in content[settings.to]():
        step(name)
        folder.put(name, data)
        written.append(name)
    return Exported(url, tuple(written), notes=tuple(notes))


def _to_tracker(record: RunRecord, settings: ExportSettings, step: Step) -> Exported:
    out = None if settings.out is None else normalised(settings.out)
    if out is not None and "://" in out:
        raise JobError(f"--out {out}: --to {settings.to} needs a local folder")
    if settings.to == "wandb":
        tracked = to_wandb(record, project=settings.experiment, out=out, force=settings.force, step=step)
        return _told(record, tracked, record.shown()[1])
    if out is not None and settings.tracking_uri is not None:
        raise JobError("--out and --tracking-uri: are two places; write one of them")
    where = {"tracking_uri": settings.tracking_uri, "experiment": settings.experiment, "out": out}
    return _told(record, to_mlflow(record, **where, step=step), 0)  # type: ignore[arg-type]


def _told(record: RunRecord, tracked: Tracked, left_out: int) -> Exported:
    notes = [*record.notes]
    if left_out:
        notes.append(f"{left_out:,} rows of the ranking are only in rankings.parquet")
    return Exported(tracked.place, tracked.added, tracked.known, tuple(notes))
