"""Drivers that join a Ray started by hand: from a machine of another kind, by a wrong address. In a private namespace.

Run by `namespace.run_scenario(..., module="tests.faults.joining")`; each function gets a folder that holds `job.json`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.harness import Driver, environment

SMALL = ("--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats")
HEAD = "127.0.0.1:6379"


def open_environment(**more: str) -> dict[str, str]:
    return environment(RAY_AUTH_MODE="disabled", **more)


def ray_start(*arguments: str, before: tuple[str, ...] = ()) -> None:
    command = [*before, "ray", "start", *SMALL, *arguments]
    started = subprocess.run(command, env=open_environment(), capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stdout + started.stderr


def two_kinds(folder: Path) -> None:
    """A node whose processor has another name than the head's; `workers.min` asks for a worker on each."""
    other = folder / "cpuinfo"
    named = re.sub(r"(?m)^model name.*", "model name\t: Some Other Processor", Path("/proc/cpuinfo").read_text())
    other.write_text(named)
    ray_start("--head", "--include-dashboard=false")
    mount = ("unshare", "-m", "sh", "-c", f'mount --bind {other} /proc/cpuinfo && exec "$@"', "_")
    ray_start(f"--address={HEAD}", before=mount)
    with Driver(folder / "job.json", env=open_environment(RAY_ADDRESS=HEAD)) as driver:
        code = driver.finish(400)
        print(driver.errors, flush=True)
        assert code == 0


def wrong_addresses(folder: Path) -> None:
    """Ports of a real Ray that are not its head's, and its head from where none of its nodes runs."""
    ray_start("--head", "--include-dashboard=true")
    answers = {
        "127.0.0.1:8265": "speaks HTTP, as the dashboard does",
        "http://127.0.0.1:8265": "is an address of the dashboard",
        "127.0.0.1:6380": "nothing answers at 127.0.0.1:6380",
        "127.0.0.1:10001": "what answers there is not the head of a Ray cluster",
    }
    for address, said in answers.items():
        began = time.monotonic()
        with Driver(folder / "job.json", env=open_environment(RAY_ADDRESS=address)) as driver:
            code = driver.finish(300)
            print(f"{address}: {code} after {time.monotonic() - began:.0f} s: {driver.errors}", flush=True)
            assert "Traceback" not in driver.errors
            assert code == 2, address
            *before, line = driver.errors.splitlines()
            assert said in line and "RAY_ADDRESS" in line, line
            assert not before or address.endswith(":10001")  # there Ray itself has tried, and said so
    elsewhere = (
        "unshare",
        "--fork",
        "--pid",
        "--mount-proc",
        "--kill-child",
        sys.executable,
        "-m",
        "pcace_dist",
        "rank",
    )
    with Driver(folder / "job.json", env=open_environment(RAY_ADDRESS=HEAD), command=elsewhere) as driver:
        assert driver.finish(300) == 2
        print(f"elsewhere: {driver.errors}", flush=True)
        assert "no node of a Ray cluster runs on this machine" in driver.errors.splitlines()[-1]
    for address in (HEAD, "auto"):
        with Driver(folder / "job.json", env=open_environment(RAY_ADDRESS=address)) as driver:
            assert driver.finish(300) == 0, driver.errors


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    {"two_kinds": two_kinds, "wrong_addresses": wrong_addresses}[sys.argv[1]](Path(sys.argv[2]))
