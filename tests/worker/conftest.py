"""Whole jobs, on one local Ray and without."""

from tests.whole_jobs import in_process, local_ray, without_ray

__all__ = ["in_process", "local_ray", "without_ray"]
