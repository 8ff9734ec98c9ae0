"""The job file's section about storage, as a plain dataclass that `config/job.py` has pydantic fill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """`storage.PREFIX`: how to reach a bucket; None means the AWS chain (environment, profile) decides."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
