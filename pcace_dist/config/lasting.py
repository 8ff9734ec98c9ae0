"""Paths that last: not those below the copy of the working directory that `ray job submit` makes on every node.

Ray starts a submitted job there, so that a relative path of a job file would mean a place that is another one in the
next submission, lies on one node, and is removed some time after the job.
"""

from __future__ import annotations

import os

from pcace_dist.config.job import Job
from pcace_dist.errors import JobError

RAYS_COPY = "/runtime_resources/working_dir_files/"  # below Ray's session folder


def refuse_rays_copy(key: str, *paths: str) -> None:
    """Raise JobError for a local path that lies in Ray's copy. `key`: of the job file, or an argument."""
    for path in paths:
        if "://" not in path and RAYS_COPY in f"{os.path.abspath(path)}/":
            place = os.path.basename(os.path.abspath(path))
            raise JobError(
                f"{key} {path}: lies in the copy of the working directory that `ray job submit` makes and Ray removes; "
                f"write a path from / that all nodes share, or s3://BUCKET/{place}"
            )


def refuse_temporary(job: Job) -> None:
    """Raise JobError where the job's data or runs would be in a copy that Ray removes."""
    refuse_rays_copy("output", job.output)
    refuse_rays_copy("dataset.path", *job.dataset.path)
    for key, run in (("extend", job.extend), ("statistics.plan", job.statistics.plan)):
        refuse_rays_copy(key, *filter(None, [run]))
