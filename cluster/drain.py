"""Takes a machine out of a Ray cluster before it is reclaimed: its worker finishes its unit, flushes, and is released.

    python drain.py now [--seconds 100]     from a pod's preStop hook, or by hand on the machine
    python drain.py watch [--cloud aws]     on a spot machine: waits for the cloud's notice, then does the same

Without this, a reclaimed machine costs up to ten minutes of its worker's work; with it, nothing. Needs only the
standard library and the command `ray`.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

AWS = "http://169.254.169.254"  # instance metadata, version 2: a token first
GCP = "http://metadata.google.internal"
POLL_SECONDS = 5.0
WORKER = b"ray::Worker"  # the title of pcace_dist's actors while they live


def drain(seconds: int, *, node: str | None = None, ray: str = "ray") -> bool:
    """Tell Ray that this node will be gone in `seconds`, and wait until no worker is left. True if none is left."""
    command = [
        *(ray, "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", "the machine is about to be reclaimed", "--deadline-remaining-seconds", str(seconds)),
    ]
    completed = subprocess.run(command if node is None else [*command, "--node-id", node], timeout=60)
    if completed.returncode:
        return False
    return wait(lambda: not workers(), seconds)


def wait(reached: Callable[[], bool], seconds: float, *, every: float = 1.0) -> bool:
    """Whether a condition holds before the time is over."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def workers(processes: Path = Path("/proc")) -> list[int]:
    """Ids of the processes of this machine (or pod) that are workers of a run."""
    pids = []
    for entry in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(WORKER):
                pids.append(int(entry.name))
    return pids


def aws_notice(base: str = AWS) -> bool:
    """Whether EC2 has announced that it will reclaim this spot machine (two minutes before)."""
    token = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    if token is None:
        return False
    return _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}) is not None


def gcp_notice(base: str = GCP) -> bool:
    """Whether Compute Engine has announced that it will reclaim this spot machine (30 seconds before)."""
    return _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE"


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The response's text, or None where there is none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=2) as response:
            return str(response.read().decode().strip())
    except (urllib.error.URLError, OSError):
        return None


NOTICES = {"aws": aws_notice, "gcp": gcp_notice}
GRACE = {"aws": 110, "gcp": 25}  # seconds between notice and end, with a margin


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="drain.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["now", "watch"])
    parser.add_argument("--seconds", type=int, help="until the machine is gone (default 100, or the cloud's notice)")
    parser.add_argument("--cloud", choices=sorted(NOTICES), default="aws", help="whose notice to watch for")
    parser.add_argument("--node-id", help="Ray's id of the node (default: this one)")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds or (100 if arguments.what == "now" else GRACE[arguments.cloud])
    if arguments.what == "watch":
        wait(NOTICES[arguments.cloud], float("inf"), every=POLL_SECONDS)
        print("drain.py: the cloud takes this machine back", flush=True)
    is_empty = drain(seconds, node=arguments.node_id)
    print(f"drain.py: {'no worker is left' if is_empty else 'a worker is left; its unflushed units are redone'}")
    return 0 if is_empty else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
