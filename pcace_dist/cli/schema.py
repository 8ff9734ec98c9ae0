"""The verb schema: the job file's JSON Schema, for editors."""

from __future__ import annotations

import argparse
import json

from pcace_dist.cli.parser import AddVerb
from pcace_dist.progress.terminal import tell


def add_verb(add: AddVerb) -> None:
    """Add the verb."""
    verb = add(
        "schema",
        "print the JSON Schema of job files: every key with its type, default and meaning, for editors",
        "pcace schema > job.schema.json\n\n"
        "an editor with a YAML language server then checks and completes a job file that begins with\n"
        "  # yaml-language-server: $schema=job.schema.json",
    )
    verb.set_defaults(run=_schema)


def _schema(_: argparse.Namespace) -> int:
    from pcace_dist.config.schema import job_schema

    tell(json.dumps(job_schema(), indent=2))
    return 0
