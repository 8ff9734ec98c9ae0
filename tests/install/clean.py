"""Commands in clean environments: as somebody gives them who has never seen the project."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = ["-c", str(ROOT / "constraints.txt")]


def environment(*first: Path) -> dict[str, str]:
    """The environment of somebody who has never seen the project, with these folders at the head of PATH."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "RAY_", "VIRTUAL_", "PCACE_"))}
    return kept | {"PATH": ":".join([*map(str, first), os.environ["PATH"]])}


def ran(*command: str | Path, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> str:
    """stdout and stderr of a command that ends with this code."""
    done = subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def wheel(folder: Path) -> str:
    (found,) = (folder / "dist").glob("pcace_dist-*-py3-none-any.whl")
    return str(found)
