"""Where a job's paths lie, as seen by any process: storage settings and absolute paths. No Ray, no torch."""

from __future__ import annotations

import os

from pcace_dist.datasets.storage import Storage
from pcace_dist.job import Job


def storage_of(job: Job) -> Storage:
    return Storage({prefix: endpoint.model_dump() for prefix, endpoint in job.storage.items()})


def absolute(path: str) -> str:
    """A local path from the driver's directory, whatever directory a worker runs in; URLs as they are."""
    return path if "://" in path else os.path.abspath(path)
