"""What the driver finds out before any worker is started: the listing, the model's layers, the fingerprint.

All that can be wrong with a job without looking at single rows is found here and is exit code 2. No Ray.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from pcace_dist.artifacts.reading.data_reading import DataReading
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute, dataset_of, storage_of, weights_of
from pcace_dist.config.sections import Model
from pcace_dist.config.targets import TargetSpec, reduction_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.errors import DatasetError, JobError
from pcace_dist.executors.choice import ExecutorKind, check_threads, refuse_threads, wanted_executor
from pcace_dist.executors.ray_session import is_wanted, names_a_cluster
from pcace_dist.models.prototypes import with_prototypes
from pcace_dist.progress import logs
from pcace_dist.progress.logs import LogSettings
from pcace_dist.run.extend import Base, open_base
from pcace_dist.run.given_plan import with_given_plan
from pcace_dist.run.identity import Identity, identity_of
from pcace_dist.run.input_of_model import with_input_of_model
from pcace_dist.run.read_data import decide, known_range, open_data, refuse_images
from pcace_dist.statistics.ace import MAX_ROWS
from pcace_dist.worker.effects.choice import has_mean
from pcace_dist.worker.shared_model import SharedModel, share_model
from pcace_dist.worker.spec import WorkSpec


@dataclass(frozen=True)
class Preparation:
    """A job that has been checked against its data and its model."""

    job: Job
    spec: WorkSpec
    listing: Listing
    identity: Identity
    reading: DataReading
    group_type: pa.DataType
    executor: ExecutorKind
    base: Base | None = None
    shared_model: SharedModel | None = None  # what threads share

    @property
    def weights(self) -> str:
        """Digest of the loaded weights."""
        return self.identity.weights

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    def is_of(self, fingerprint: object) -> bool:
        """Whether a recorded fingerprint is this job's."""
        return self.identity.is_of(fingerprint)


def prepare(job: Job, manifest: Mapping[str, Any] | None = None, place: str | None = None) -> Preparation:
    """Check a job against its data and its model. Raises UserError, one line.

    manifest: of the run that is continued, which reads its data as it has begun to. place: where a list of images is
    written; None: below the output.
    """
    _refuse_what_is_not_built(job)
    wanted = wanted_executor(job)
    if wanted == ExecutorKind.THREADS:
        check_threads(job.workers)
    spec = _work_spec(job)
    dataset, place = spec.dataset, place or absolute(job.output)
    opened = open_data(job, dataset, spec.storage, manifest, place)
    spec, listing = replace(spec, dataset=opened.dataset), opened.listing
    _check_listing(job, listing)
    model = spec.load_model()
    job = with_input_of_model(job, model)
    spec = replace(spec, model=_model_of(job))
    identity = identity_of(job, spec, model)
    if job.statistics.plan is not None:
        spec = with_given_plan(job, spec, identity.layers)
    base = None if job.extend is None else _base(job, spec, identity)
    if base is not None:
        refuse_images(job, opened)
    reading = decide(job, opened, model, spec.storage)
    begun = manifest or (None if base is None else base.state.manifest)
    reading = reading if begun is None else reading.continued(begun)
    spec = replace(spec, dataset=known_range(reading.applied(dataset, place), listing))
    spec = replace(
        spec,
        layers=identity.layers,
        layouts=identity.layouts,
        kept=_kept_schema(spec, listing),
        base=None if base is None else base.url,
    )
    shared = _shared_model(job, listing, model, wanted)
    return Preparation(
        job=job,
        spec=spec,
        listing=listing,
        identity=identity,
        reading=reading,
        group_type=pa.string() if job.group_by is None else listing.schema.field(job.group_by).type,
        executor=wanted or (ExecutorKind.RAY if shared is None else ExecutorKind.THREADS),
        base=base,
        shared_model=shared,
    )


def _check_listing(job: Job, listing: Listing) -> None:
    """Say which files are left out that might not be meant to be. Raises JobError for more rows than ace takes."""
    for left_out in listing.left_out:
        if not left_out.usual:
            logs.say(f"left out: {left_out}", prefix="pcace: dataset.path: ", level=logging.WARNING)
    if job.statistics.estimator == "ace" and not job.dataset.filter and not job.group_by and listing.rows > MAX_ROWS:
        raise JobError(
            f"statistics.estimator ace: takes at most {MAX_ROWS:,} images and the data set has {listing.rows:,}; use "
            "dataset.filter, group_by or estimator: gram"
        )


def _base(job: Job, spec: WorkSpec, identity: Identity) -> Base:
    """The run that this one extends."""
    extended = job.model_copy(update={"extend": absolute(str(job.extend))})
    return open_base(
        extended,
        spec.storage,
        weights=identity.weights,
        layers=identity.layers,
        prototypes=identity.prototypes,
    )


def _shared_model(job: Job, listing: Listing, model: nn.Module, wanted: ExecutorKind | None) -> SharedModel | None:
    """What threads of this process share; None where the run is for another executor. Raises JobError where it cannot
    go in the threads that PCACE_EXECUTOR asks for."""
    if wanted is None:
        return None if is_wanted() else share_model(job, listing, model)
    if wanted != ExecutorKind.THREADS:
        return None
    shared = share_model(job, listing, model, any_size=True)
    if shared is None:
        raise refuse_threads("the model cannot be copied, and each thread needs a model of its own")
    return shared


def identify(job: Job) -> Identity:
    """Identify a job: load its model, without reading its data. Raises UserError."""
    spec = _work_spec(job)
    model = spec.load_model()
    return identity_of(with_input_of_model(job, model), spec, model)


def _kept_schema(spec: WorkSpec, listing: Listing) -> pa.Schema | None:
    """The columns that are kept beside the codes."""
    if not spec.dataset.keep:
        return None
    return pa.schema([field for field in listing.schema if field.name != spec.dataset.image])


def _work_spec(job: Job) -> WorkSpec:
    storage = storage_of(job)
    _check_targets(job, job.targets)
    targets = with_prototypes(job.targets, lambda path: storage.read_bytes(absolute(path)))
    watched = job.effect.watched
    return WorkSpec(
        dataset=dataset_of(job),
        model=_model_of(job),
        limits=job.limits,
        statistics=job.statistics,
        effect=job.effect,
        compute=job.compute,
        storage=storage,
        targets=targets,
        reduction=reduction_of([*targets, *([] if watched is None else [watched])]),
        output=absolute(job.output),
        threads=max(1, int(job.workers.cpus)),
        device="cuda" if job.workers.gpus > 0 else "cpu",
        flush_seconds=_flush_seconds(),
        python_path=(os.getcwd(),),
        log=LogSettings.from_environment(),
    )


def _model_of(job: Job) -> Model:
    """The section of the model, with an absolute path of its weights."""
    return job.model.model_copy(update={"weights": weights_of(job)})


def _flush_seconds() -> float:
    """Longest time between two flushes of a worker: 600 s, or PCACE_FLUSH_SECONDS where workers die more often."""
    text = os.environ.get("PCACE_FLUSH_SECONDS", "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise JobError(f"PCACE_FLUSH_SECONDS {text!r}: is not a number of seconds above 0")
    return seconds


def _check_targets(job: Job, targets: tuple[TargetSpec, ...]) -> None:
    for target in targets:
        if target.needs_label and job.dataset.label is None:
            raise JobError(f"target {target.written}: needs dataset.label, the column with the class index")
        if job.effect.gradient == "mean" and target.of_outputs and not has_mean(target):
            raise JobError(
                f"effect.gradient mean: target {target.written} has no classes to take means over; use "
                "effect.gradient: image"
            )
    watched = job.effect.watched
    if watched is not None and watched.needs_label and job.dataset.label is None:
        raise JobError(f"effect.of {watched.written}: needs dataset.label, the column with the class index")
    if job.group_by is not None and job.group_by == job.dataset.image:
        raise DatasetError(f"group_by {job.group_by}: is the image column")


def _refuse_what_is_not_built(job: Job) -> None:
    """Keys of the job file that this version does not serve yet: refused by name, never ignored."""
    asked = {
        "dataset.join (without kept codes)": job.dataset.join is not None,
        "statistics.knots_from (without kept codes)": job.statistics.knots_from != "plan",
    }
    for key, wanted in asked.items():
        if wanted:
            raise JobError(f"{key}: is not available in this version; leave the key out")
    if job.model.input.decode == "gpu" and job.workers.gpus == 0:
        raise JobError(
            "model.input.decode gpu: the workers have no GPU; set workers.gpus: 1, or use model.input.decode: cpu"
        )
    if job.workers.gpus > 0 and not torch.cuda.is_available() and not names_a_cluster():
        raise JobError(f"workers.gpus: {job.workers.gpus:g}, but this machine has no GPU; set workers.gpus: 0")
