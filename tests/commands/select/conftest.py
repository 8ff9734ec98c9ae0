"""Whole jobs without Ray."""

from tests.whole_jobs import in_process

__all__ = ["in_process"]
