"""Starting or joining Ray, and nothing else about it: a local one where no cluster is named, else the one of
RAY_ADDRESS (`local`: a local one, whatever the size of the run).

Ray is imported where it is first needed: work that is done without it does not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from pcace_dist import logs
from pcace_dist.errors import PcaceError

LOCAL = "local"  # of RAY_ADDRESS, as Ray understands it
LOCAL_OBJECT_STORE = 256 << 20  # bytes; large state never crosses the object store


def names_a_cluster() -> bool:
    """Whether RAY_ADDRESS names one (a job of `ray job submit` has it from Ray)."""
    return (os.environ.get("RAY_ADDRESS") or LOCAL) != LOCAL


def is_wanted() -> bool:
    """Whether this process is to work on Ray in any case: RAY_ADDRESS is set, or Ray has been initialised here."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and ray.is_initialized())


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
    # a call's failure is told by the fleet; of one that nobody waits for any more Ray would print the traceback
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    try:
        if names_a_cluster():
            # workers' lines would come with a prefix: as JSON they stay in Ray's logs on their nodes
            ray.init(logging_level=logging.WARNING, log_to_driver=not logs.is_json())
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # Ray starts workers at nice 15: beside any other work on the machine they would hardly run
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                LOCAL,
                include_dashboard=False,
                object_store_memory=LOCAL_OBJECT_STORE,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS") or LOCAL
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
