"""The job file's section about storage, as a plain dataclass that `config/job.py` has pydantic fill; and how a key of
any section says what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def said(meaning: str, *examples: Any, unit: str | None = None, also: Any = None, **rules: Any) -> dict[str, Any]:
    """What a key says of itself, as pydantic reads it from a field's metadata.

    meaning: one sentence. examples: values as a job file writes them. unit: of its numbers. also: further keywords of
    its JSON schema. rules: pydantic's, as ge=1.
    """
    more = ({"unit": unit} if unit else {}) | (also or {})
    return {"description": meaning, "examples": list(examples), "json_schema_extra": more, **rules}


@dataclass(frozen=True)
class Endpoint:
    """`storage.PREFIX`: how to reach a bucket; null means the AWS chain (environment, profile) decides."""

    endpoint: str | None = field(
        default=None,
        metadata=said("URL of the service; null: AWS_ENDPOINT_URL, else AWS.", "https://minio.example:9000"),
    )
    region: str | None = field(default=None, metadata=said("Its region; null: the AWS chain's.", "eu-central-1"))
    anonymous: bool = field(
        default=False, metadata=said("Whether requests go without credentials, for public buckets.", True)
    )
