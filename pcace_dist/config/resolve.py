"""Where a job's data, weights and images are to be had: storage settings, absolute paths, how images are decoded.

For everything that starts from a job: run/, report/, analysis/. No Ray; torch only where images are asked for.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from pcace_dist.config.job import Job
from pcace_dist.storage.files import Storage, normalised

if TYPE_CHECKING:
    from pcace_dist.datasets.columns import DatasetSpec
    from pcace_dist.datasets.images import ImageSpec

NOT_PATHS = ("random", "factory")  # what model.weights may say besides a path


def storage_of(job: Job) -> Storage:
    """The job's storage settings."""
    return Storage(job.storage)


def absolute(path: str, directory: str = "") -> str:
    """A local path from the driver's directory (or another), whatever directory a worker runs in; URLs as they are."""
    path = normalised(path) if "://" in path else path
    return path if "://" in path else os.path.abspath(os.path.join(directory, path))


def weights_of(job: Job, directory: str = "") -> str:
    """model.weights, absolute where it is a path."""
    weights = job.model.weights
    return weights if weights in NOT_PATHS else absolute(weights, directory)


def begun_in(run: str, job: Job, recorded: str | None = None) -> str:
    """The directory a finished run was started in, which its relative paths are meant from.

    Its place tells: `output: runs/street` that lies at /home/me/runs/street was started in /home/me. Where it does not
    (the output is absolute or remote, or the run was moved), the directory that its summary has recorded, if the job's
    data is there; else this process's.
    """
    place, output = absolute(run), os.path.normpath(job.output)
    if not ("://" in job.output or os.path.isabs(output) or output.startswith(os.pardir)):
        directory = place.removesuffix(f"{os.sep}{output}")
        if directory != place:
            return directory or os.sep
    if recorded is not None and all(_is_there(absolute(path, recorded)) for path in job.dataset.path):
        return recorded
    return os.getcwd()


def _is_there(path: str) -> bool:
    """Whether a path or a pattern leads to anything; of a URL that is taken for granted."""
    return "://" in path or os.path.exists(path) or bool(glob.glob(path, recursive=True))


def dataset_of(job: Job, directory: str = "") -> DatasetSpec:
    """The job's data, with the columns that it needs."""
    from pcace_dist.datasets.columns import DatasetSpec

    given = vars(job.dataset) | {"path": [absolute(path, directory) for path in job.dataset.path]}
    columns = tuple(target.column for target in job.targets if target.column is not None)
    vectors = tuple(target.vectors for target in job.targets if target.vectors is not None)
    keep = job.statistics.keep_codes
    return DatasetSpec(**given, group_by=job.group_by, columns=columns, vectors=vectors, keep=keep)


def images_of(job: Job) -> ImageSpec:
    """How the job's images are decoded."""
    from pcace_dist.datasets.images import ImageSpec

    return ImageSpec(**vars(job.model.input), limits=job.limits)
