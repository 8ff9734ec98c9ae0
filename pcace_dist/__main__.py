"""`python -m pcace_dist`: the same as `pcace`."""

from __future__ import annotations

from pcace_dist.cli.main import entry

entry()
