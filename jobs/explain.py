"""`pcace explain` as a script, for `ray job submit --working-dir . -- python jobs/explain.py ...`; same arguments,
same codes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)  # jobs/: its names are not modules
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pcace_dist.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["explain", *sys.argv[1:]]))
