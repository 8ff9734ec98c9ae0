"""Starting or joining Ray: a local one where no cluster is named, else that of RAY_ADDRESS (`local`: a local one,
whatever the size of the run).

Ray is imported where it is first needed, so that work without it does not wait for the import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator

from pcace_dist.errors import JobError, PcaceError
from pcace_dist.progress import logs

LOCAL = "local"  # of RAY_ADDRESS, as Ray understands it
LOCAL_OBJECT_STORE = 256 << 20  # bytes; large state never crosses the object store
CONNECT_SECONDS = 15.0  # a head that is starting may take so long
GREETING_SECONDS = 5.0  # to connect, and to answer
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and no settings
HTTP2_SETTINGS = 4  # the kind of the frame that answers it
LONGEST = 500  # characters of what Ray says
JOINING = (
    "a driver on a node of the cluster joins host:port of its head (`ray start --head` prints it, mostly port 6379); "
    "from elsewhere use `ray job submit --address http://HOST:8265`; without RAY_ADDRESS a local Ray is started"
)


def names_a_cluster() -> bool:
    """Whether RAY_ADDRESS names one (a job of `ray job submit` has it from Ray)."""
    return (os.environ.get("RAY_ADDRESS") or LOCAL) != LOCAL


def is_wanted() -> bool:
    """Whether this process is to work on Ray in any case: RAY_ADDRESS is set, or Ray has been initialised here."""
    return bool(os.environ.get("RAY_ADDRESS")) or _runs_here()


def _runs_here() -> bool:
    """Whether this process has initialised Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def check_address() -> None:
    """Raises JobError where RAY_ADDRESS names a cluster that this process cannot join; within CONNECT_SECONDS.

    Ray itself would try an address that does not answer for a quarter of an hour.
    """
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    if address == LOCAL or _runs_here():
        return
    try:
        host, port = _host_and_port(_found_on_this_machine() if address == "auto" else address)
        _ask(host, port)
    except _NoCluster as fault:
        raise JobError(f"RAY_ADDRESS {_without_credentials(address)}: {fault}; {JOINING}") from None


class _NoCluster(Exception):
    """Why an address cannot be joined."""


def _found_on_this_machine() -> str:
    """What `auto` stands for: host:port of the Ray that was started here."""
    from ray._private.services import get_ray_address_from_environment

    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError:
        raise _NoCluster("no Ray runs on this machine") from None


def _host_and_port(address: str) -> tuple[str, int]:
    scheme, has_scheme, _ = address.partition("://")
    if has_scheme and scheme in ("http", "https"):
        raise _NoCluster("is an address of the dashboard, where jobs are submitted; a driver does not join there")
    if has_scheme and scheme == "ray":
        raise _NoCluster("Ray Client (ray://) is not supported")
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = not has_scheme and bool(host) and not any(mark in host for mark in " /@[]")
    if not colon or not plain or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _NoCluster("is not host:port")
    return host, int(port)


def _ask(host: str, port: int) -> None:
    """Connect and exchange the greetings of HTTP/2, which Ray's head speaks there (gRPC). Raises _NoCluster."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            with socket.create_connection((host, port), timeout=GREETING_SECONDS) as connection:
                connection.settimeout(GREETING_SECONDS)
                _greet(connection, port)
                return
        except (OSError, UnicodeError) as error:  # a head that is starting is there in a moment
            if time.monotonic() > deadline:
                raise _NoCluster(f"nothing answers at {host}:{port} ({error})") from None
        time.sleep(0.5)


def _greet(connection: socket.socket, port: int) -> None:
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # without the certificates one can only see that it listens
    try:
        connection.sendall(HTTP2_GREETING)
        answer = connection.recv(9)
    except OSError:
        answer = b""
    if len(answer) > 3 and answer[3] == HTTP2_SETTINGS:
        return
    if answer.startswith(b"HTTP/"):
        raise _NoCluster(f"port {port} speaks HTTP, as the dashboard does (8265); a driver does not join there")
    raise _NoCluster(f"port {port} does not answer as the head of a Ray cluster does")


def _without_credentials(address: str) -> str:
    scheme, has_scheme, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if has_scheme else address.rpartition("@")[2]


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (as `ray job submit` sets it) or start a local one; leave it at the end.

    Inside a process that has initialised Ray already, that Ray is used and left running. Raises JobError for a
    RAY_ADDRESS that cannot be joined, PcaceError for whatever else Ray says against it.
    """
    check_address()
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # a failed call is an event of the executor; Ray would also print the traceback of a call that is not waited for
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if names_a_cluster():
        _check_node_here()
    try:
        _start_or_join()
    except Exception as error:  # Ray raises RuntimeError, ConnectionError, ValueError, its own kinds and bare ones
        where = _without_credentials(os.environ.get("RAY_ADDRESS") or LOCAL)
        if names_a_cluster() and isinstance(error, ConnectionError):  # gRPC, but for example the port of Ray Client
            fault = f"what answers there is not the head of a Ray cluster ({_in_one_line(error)})"
            raise JobError(f"RAY_ADDRESS {where}: {fault}; {JOINING}") from error
        raise PcaceError(f"Ray ({where}) cannot be reached or started: {_in_one_line(error)}") from error
    logs.adopt("ray")
    try:
        yield
    finally:
        try:
            _end_autoscaler()
        finally:
            ray.shutdown()


def _end_autoscaler() -> None:
    """Kill the autoscaler of a Ray that was started here, for which `ray.shutdown` would wait a second before it kills
    it, too. Ray has no public way."""
    from ray._private import worker

    node = getattr(worker, "_global_node", None)
    if node is not None and not names_a_cluster():
        node.kill_monitor(check_alive=False)


def _check_node_here() -> None:
    """Raises JobError where no node of any cluster runs on this machine: Ray would look for one for a minute."""
    from ray._private.services import find_node_ids

    deadline = time.monotonic() + CONNECT_SECONDS
    while not find_node_ids():
        if time.monotonic() > deadline:
            where = _without_credentials(os.environ["RAY_ADDRESS"])
            raise JobError(f"RAY_ADDRESS {where}: no node of a Ray cluster runs on this machine; {JOINING}")
        time.sleep(0.5)


def _start_or_join() -> None:
    import ray

    if names_a_cluster():
        # workers' lines would come with a prefix: as JSON they stay in Ray's logs on their nodes
        ray.init(logging_level=logging.WARNING, log_to_driver=not logs.is_json())
        return
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


def _in_one_line(error: Exception) -> str:
    """All of what Ray says: its first line alone may end in a colon."""
    text = " ".join(str(error).partition("Traceback (most recent")[0].split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def describe_resources() -> str:
    """What the cluster has, for messages."""
    import ray

    amounts = {
        name: amount
        for name, amount in ray.cluster_resources().items()
        if not name.startswith(("node:", "object_store_memory"))
    }
    parts = [
        f"{amount / 2**30:.1f} GiB memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(amounts.items())
    ]
    return ", ".join(parts) or "no resources"
