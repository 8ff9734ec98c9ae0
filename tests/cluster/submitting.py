"""`ray job submit` from a folder with nothing but job files, to a Ray that has the package; in a private namespace.

Run by `namespace.run_scenario` as `submitted FOLDER`: FOLDER/alone holds the job files. The name of each ends in the
exit code that it must have.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = ["ray", "start", "--head", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]


def run(folder: Path) -> None:
    subprocess.run(START, env=dict(os.environ) | {"RAY_AUTH_MODE": "disabled"}, check=True, timeout=120)
    for job in sorted((folder / "alone").glob("*.yaml")):
        done = subprocess.run(
            ["ray", "job", "submit", "--working-dir", ".", "--", "pcace", "rank", job.name],
            cwd=folder / "alone",
            env=dict(os.environ) | {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265", "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        text = done.stdout + done.stderr
        print(f"== {job.name}\n{text[-4000:]}", flush=True)
        succeeds = job.stem.endswith("0")
        assert (done.returncode == 0) == succeeds
        assert succeeds or f"exit code {job.stem[-1]}" in text
    subprocess.run(["ray", "stop", "--force"], capture_output=True, timeout=60)


if __name__ == "__main__":
    assert sys.argv[1] == "submitted", sys.argv
    run(Path(sys.argv[2]))
