"""Ranks a model in memory over rows in memory. The rows go once into Parquet, beside the run; from there on this is a
job as any other, in this process.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

from rich.progress import TimeElapsedColumn
from torch import nn
from torch.utils import data

from pcace_dist.config.job import Job, parse_job
from pcace_dist.config.resolve import storage_of
from pcace_dist.datasets.sections import TENSOR, Dataset
from pcace_dist.errors import JobError, ModelError, OutputError
from pcace_dist.models.in_memory import remember
from pcace_dist.models.layers import resolve_layers
from pcace_dist.models.load import refuse_without_values, weights_digest
from pcace_dist.packing.sources.memory import LABEL, VALUE, MemoryRows, pack_rows
from pcace_dist.progress import logs
from pcace_dist.progress.bar import StageBar
from pcace_dist.run.rank import run_job
from pcace_dist.storage.files import first_line
from pcace_dist.worker.shared_model import cores

PREFIX, STORING = "pcace: ", "storing images"
_numbers = count(1)  # of runs in the temporary folder
TARGETS = {LABEL: {"logit": "label"}, VALUE: {"column": VALUE}}  # by the column with the labels
ROWS = "stored-rows"  # the folder with the rows, beside the runs: they share it, so that they can be compared


def rank_model(
    model: nn.Module,
    dataset: Iterable[Any] | data.Dataset[Any],
    *,
    layers: str | Sequence[Any],
    target: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    input: Mapping[str, Any] | str | None = None,
    output: str | None = None,
    classes: Sequence[str] | None = None,
    **keys: Any,
) -> Job:
    """Rank, and return the job whose run is finished. As api.rank_model says."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"model: is {type(model).__name__}, not a torch.nn.Module")
    refuse_without_values(model, "model")
    rows = MemoryRows.of(dataset, as_images=input is not None)
    keys |= {"layers": layers, "output": _temporary() if output is None else output}
    keys["dataset"] = _dataset(rows, keys["output"], classes or _classes_of(dataset, rows))
    keys["model"] = {"factory": remember(model, _digest(model)), "weights": "factory"}
    keys["model"]["input"] = _tensors(rows) if input is None else input
    keys["target"] = _assumed_target(rows) if target is None else target
    keys["workers"] = _workers(model) | dict(keys.get("workers", {}))
    job = parse_job(keys, name="rank_model")
    _refuse_columns(rows, job)
    resolve_layers(model, job.layer_patterns)  # before all rows are read
    if output is None:
        logs.say(f"output: {job.output}, until this Python ends; output=... keeps it", prefix=PREFIX)
    job = job.model_copy(update={"dataset": _stored(rows, job, total=_length(dataset))})
    run_job(job)
    return job


def _digest(model: nn.Module) -> str:
    """Of its values and of how it is built: models that differ only in a stride or an activation are not the same."""
    built = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    return hashlib.sha256(f"{weights_digest(model)} {built}".encode()).hexdigest()


def _dataset(rows: MemoryRows, output: str, classes: Sequence[str] | None) -> dict[str, Any]:
    """The job's `dataset`, with the folder in which the rows will be."""
    keys: dict[str, Any] = {"path": os.path.join(os.path.dirname(output), ROWS)}
    if rows.column == LABEL:
        keys |= {"label": LABEL} | ({"classes": list(classes)} if classes else {})
    return keys


def _classes_of(dataset: object, rows: MemoryRows) -> Sequence[str] | None:
    """Names of the classes, as torchvision's data sets have them."""
    names = getattr(getattr(dataset, "dataset", dataset), "classes", None)
    if rows.column != LABEL or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    logs.say(f"classes: the data set's, {len(names)}", prefix=PREFIX)
    return names


def _tensors(rows: MemoryRows) -> dict[str, Any]:
    """model.input of tensors that the model takes as they are."""
    channels = rows.shape[0]
    return {"mode": TENSOR, "mean": [0.0] * channels, "std": [1.0] * channels}


def _assumed_target(rows: MemoryRows) -> dict[str, Any]:
    """The target where none is given. Raises JobError where there are no labels."""
    if rows.column is None:
        raise JobError(
            'target: the first row has no label; say one that needs none, for example {"logit": "predicted"} or '
            '{"output": 0}, or let the first row be one with a label'
        )
    target = TARGETS[rows.column]
    logs.say(f"target: {target} (assumed; target=... says another)", prefix=PREFIX)
    return target


def _refuse_columns(rows: MemoryRows, job: Job) -> None:
    """Raise JobError where targets or groups are of a column that the rows do not have."""
    for target in job.targets:
        if target.needs_label and rows.column != LABEL:
            raise JobError(f"target {target.written}: needs the class of each row, as the second of (image, label)")
    there = "no column, as the first has no label" if rows.column is None else f"the column {rows.column}"
    for name, column in [("group_by", job.group_by), *(("target column", target.column) for target in job.targets)]:
        if column not in (None, rows.column):
            raise JobError(f"{name} {column}: rows in memory have {there}")


def _workers(model: nn.Module) -> dict[str, Any]:
    """The model's own GPU; else a thread for each core."""
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return {"max": 1, "gpus": 1} if on_gpu else {"max": cores()}


def _temporary() -> str:
    """A place for a run that is removed when Python ends."""
    return f"{_temporary_folder()}/run-{next(_numbers)}"


@cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="pcace-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _stored(rows: MemoryRows, job: Job, total: int | None) -> Dataset:
    """The job's `dataset` with the files into which the rows were packed. Raises DatasetError, OutputError."""
    done = 0
    with StageBar(PREFIX, TimeElapsedColumn()) as bar:
        bar.begin(STORING, total)

        def show(log: bool | None = None) -> None:
            bar.show(done, total, f"{STORING}: {done:,}" + (f" of {total:,}" if total else ""), log=log, images=done)

        def stored() -> None:
            nonlocal done
            done += 1
            show()

        try:
            paths = pack_rows(rows, job.dataset.path[0], storage_of(job), stored)
        except OSError as error:
            raise OutputError(f"output {job.output}: {first_line(error)}") from None
        show(log=True)
    return replace(job.dataset, path=paths)


def _length(dataset: object) -> int | None:
    """How many rows there are; None where that is not known before they are read. A DataLoader's are its data set's."""
    rows = getattr(dataset, "dataset", dataset)
    return len(rows) if isinstance(rows, Sized) else None
