"""Starting or joining Ray, and nothing else about it: local where no cluster is named, else the one of RAY_ADDRESS.

Ray is imported where it is first needed: work that is done without it does not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from pcace_dist import logs
from pcace_dist.errors import PcaceError

LOCAL_OBJECT_STORE = 256 << 20  # bytes; large state never crosses the object store


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (as `ray job submit` sets it) or start a local one; leave it at the end.

    Inside a process that has initialised Ray already, that Ray is used and left running.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        if os.environ.get("RAY_ADDRESS"):
            # workers' lines would come with a prefix: as JSON they stay in Ray's logs on their nodes
            ray.init(logging_level=logging.WARNING, log_to_driver=not logs.is_json())
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Ray starts workers at nice 15: beside any other work on the machine they would hardly run
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=LOCAL_OBJECT_STORE,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", "local")
        raise PcaceError(f"Ray ({where}) cannot be reached or started: {str(error).strip().splitlines()[0]}") from error
    logs.adopt("ray")
    try:
        yield
    finally:
        ray.shutdown()


def describe_resources() -> str:
    """What the cluster has, for messages."""
    import ray

    wanted = {
        name: amount
        for name, amount in ray.cluster_resources().items()
        if not name.startswith(("node:", "object_store_memory"))
    }
    parts = [
        f"{amount / 2**30:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(wanted.items())
    ]
    return ", ".join(parts) or "no resources"
