"""Jobs from Python: the same as `pcace rank`, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.job import Job, load_job_file, parse_job
from pcace_dist.errors import PcaceError

if TYPE_CHECKING:
    from torch import nn

    from pcace_dist.models.listing.found import Layers


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file. `overrides` are "key.path=value" strings. Raises JobError."""
    return load_job_file(str(path), overrides)


def rank(job: str | Path | Mapping[str, Any] | Job, *, overrides: Sequence[str] = ()) -> Run:
    """Run or resume a job and return the finished run.

    `job` is the path of a job file, a mapping with the same keys, or a Job. A run with more bad rows than max_bad_rows
    is finished too: its `summary["exit_code"]` is 4. Raises UserError for a wrong job or input, Stopped when
    interrupted (call again to continue).
    """
    from pcace_dist.config.resolve import storage_of
    from pcace_dist.run.rank import run_job

    if isinstance(job, str | Path):
        job = load_job(job, overrides)
    elif isinstance(job, Mapping):
        job = parse_job(job)
    code = run_job(job)
    if code not in (0, 4):
        raise PcaceError(f"{job.output}: the run ended with exit code {code}")
    return open_run(job.output, storage=storage_of(job))


def layers(model: nn.Module, *, size: int | tuple[int, int] | None = None) -> Layers:
    """What there is to rank in a model: `.layers`, each with the glob that selects it and others like it.

    size: side or (height, width) of the images that the sizes of maps belong to; where it is not given that of the
    model's own preprocessing, else a guess. Raises ModelError where the model does not take such images.
    """
    from pcace_dist.commands.layers import layers_in_memory

    return layers_in_memory(model, size)
