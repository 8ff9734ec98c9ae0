"""The job file's section about storage, as a plain dataclass that `config/job.py` has pydantic fill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """`storage.PREFIX`: how to reach a bucket; None is what the AWS chain (environment, profile) says."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
