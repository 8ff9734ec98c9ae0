"""Where a Ray worker looks for modules: libraries first.

Ray puts the driver's working directory before everything else on its workers' sys.path. What lies there must not take
the place of a library's module; factories find it all the same (models/load.py). No Ray is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path


def libraries_first() -> None:
    """In a Ray worker the driver's folders go to the end of sys.path; elsewhere nothing happens."""
    if not sys.argv or not sys.argv[0].endswith("ray/_private/workers/default_worker.py"):
        return
    rays = f"{Path(sys.argv[0]).parents[2]}/"  # folders that Ray adds before those of the interpreter
    driver = sys.path[: next((place for place, folder in enumerate(sys.path) if folder.startswith(rays)), 0)]
    sys.path[:] = sys.path[len(driver) :] + driver
