"""What happens inside a private namespace: clusters that lose nodes, take submitted jobs, grow and shrink.

Run by `namespace.run_scenario`; each function gets a folder that holds `job.json` with output `run` beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.faults.harness import (
    ROOT,
    START,
    Driver,
    accepts_of,
    environment,
    is_worker,
    kinds,
    ledger,
    summary,
    until,
    write_job,
)
from tests.faults.submitting import submit
from tests.faults.warm import WarmDriver, warm_server

HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@contextlib.contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """A head without CPUs and some nodes with one, all on this machine; RAY_ADDRESS is set for drivers."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": HEALTH})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def shared_node(cpus: int) -> Iterator[str]:
    """One node for several drivers; its address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def workers_below(raylet: psutil.Process) -> list[psutil.Process]:
    return [process for process in raylet.children(recursive=True) if is_worker(process)]


def busy_node(cluster: Any) -> Any:
    """A node that carries a worker."""
    return next(node for node in cluster.worker_nodes if workers_below(raylet_of(node)))


def node_loss(folder: Path) -> None:
    """A node goes with all its processes while units are in its worker's hands; another node comes later."""
    output = folder / "run"
    with cluster_of(2) as cluster, Driver(folder / "job.json", env=environment(RAY_ADDRESS=cluster.address)) as driver:
        assert driver.wait_until(lambda: accepts_of(output) > 0), driver.errors
        node = busy_node(cluster)
        for process in raylet_of(node).children(recursive=True):
            process.kill()
        cluster.remove_node(node, allow_graceful=False)
        print("node lost at", accepts_of(output), flush=True)
        time.sleep(3)
        cluster.add_node(num_cpus=1)
        assert driver.finish(240) == 0, driver.errors
        print(driver.errors)


def zombie(folder: Path) -> None:
    """The raylet goes alone: its actor lives on for a while and may finish and write what must not count."""
    output = folder / "run"
    with cluster_of(2) as cluster, Driver(folder / "job.json", env=environment(RAY_ADDRESS=cluster.address)) as driver:
        assert driver.wait_until(lambda: accepts_of(output) > 0), driver.errors
        node = busy_node(cluster)
        raylet = raylet_of(node)
        (worker, *_) = workers_below(raylet)
        raylet.kill()
        time.sleep(0.5)
        print("the worker lives on:", worker.is_running(), flush=True)
        cluster.add_node(num_cpus=1)
        assert driver.finish(240) == 0, driver.errors
        print(driver.errors)


def drained(folder: Path) -> None:
    """A node is told that it will go, as cluster/drain.py tells it: its worker flushes and goes, then the node does."""
    output = folder / "run"
    with cluster_of(2) as cluster, Driver(folder / "job.json", env=environment(RAY_ADDRESS=cluster.address)) as driver:
        assert driver.wait_until(lambda: accepts_of(output) > 0), driver.errors
        node = busy_node(cluster)
        raylet = raylet_of(node)
        command = [sys.executable, "cluster/drain.py", "now", "--seconds", "60", "--node-id", node.node_id]
        drain = subprocess.Popen(command, cwd=ROOT, env=environment(RAY_ADDRESS=cluster.address))
        until(lambda: not workers_below(raylet), 60, every=0.2)
        drain.kill()  # on one machine it goes on to wait for the other node's worker
        drain.wait()
        assert not driver.ended, "the run was over before the node was empty"
        print("the node is empty at", accepts_of(output), flush=True)
        cluster.remove_node(node, allow_graceful=False)
        assert driver.finish(240) == 0, driver.errors
        print(driver.errors)


# -- many drivers on one node

REPETITIONS = int(os.environ.get("PCACE_RACES", "20"))
AT_A_TIME = 4


def race(folder: Path) -> None:
    """Two drivers started at once, again and again, on one cluster: one gets the run, the other is told by whom.

    Some of the repetitions, each with an output of its own, go on side by side.
    """
    template, server = json.loads((folder / "job.json").read_text()), warm_server()
    with shared_node(AT_A_TIME) as address, contextlib.ExitStack() as stack:
        env = environment(RAY_ADDRESS=address)
        waiting, racing, codes = list(range(REPETITIONS)), list[tuple[WarmDriver, WarmDriver]](), Counter[int]()
        while waiting or racing:
            while waiting and len(racing) < AT_A_TIME:
                output = folder / f"run-{waiting.pop(0):02d}"
                job = write_job(output.with_suffix(".json"), template | {"output": str(output)})
                one, other = (stack.enter_context(WarmDriver(server, job, env)) for _ in range(2))
                racing.append((one, other))
            for pair in [pair for pair in racing if all(driver.code is not None for driver in pair)]:
                racing.remove(pair)
                codes[judge(*pair)] += 1
            time.sleep(0.2)
        print("codes of the second drivers:", dict(codes), flush=True)
        assert sum(codes.values()) == REPETITIONS and codes[2] > 0, codes


def judge(*pair: WarmDriver) -> int:
    """One driver has done the run; the other's code, after a look at what it said."""
    winner, other = sorted(pair, key=lambda driver: driver.code or 0)
    assert winner.code == 0, winner.errors
    assert "Traceback" not in winner.errors + other.errors, winner.errors + other.errors
    last = other.errors.splitlines()[-1]
    if other.code == 2:
        assert f"is held by process {winner.pid} on " in last and " since " in last, other.errors
    elif other.code == 5:  # the holder had finished when it was looked for
        assert "another driver has opened the run" in last, other.errors
    else:  # it came so late that the run was done: the recorded code at once
        assert other.code == 0, other.errors
    return other.code


def cut_writes(folder: Path) -> None:
    """Drivers that die in the middle of a ledger write, one after the other, and a last one that does not."""
    output, server = folder / "run", warm_server()
    with shared_node(1) as address:
        env = environment(RAY_ADDRESS=address)
        for kind in ("open", "manifest", "accept", "done"):
            for point, there in (("before_link", 0), ("after_link", 1)):
                before = kinds(output).count(kind) if output.exists() else 0
                with WarmDriver(server, folder / "job.json", env, (kind, point)) as driver:
                    assert driver.finish() == -signal.SIGKILL, driver.errors
                assert kinds(output).count(kind) == before + there, (kind, point)
                assert list((output / "ledger").glob(".tmp-*")), "the temporary file of the interrupted write"
        assert not summary(output)["exit_code"], "it died before it could write the summary"
        with WarmDriver(server, folder / "job.json", env) as last:
            assert last.finish() == 0, last.errors


# -- autoscaler


def autoscaled(folder: Path) -> None:
    """The head alone, two nodes of the declared shapes while there is work, the head alone again."""
    import ray

    from tests.faults.autoscaling import fake_autoscaling_cluster

    output = folder / "run"
    seen: list[int] = []
    with fake_autoscaling_cluster(workers=2) as address:
        ray.init(address, log_to_driver=False)

        def alive() -> int:
            return sum(node["Alive"] for node in ray.nodes())

        seen.append(alive())
        with Driver(folder / "job.json", env=dict(os.environ) | {"RAY_ADDRESS": address}) as driver:
            deadline = time.monotonic() + 2 * START
            while not driver.ended:
                assert time.monotonic() < deadline, driver.errors
                seen.append(alive())
                time.sleep(0.5)
            assert driver.finish(10) == 0, driver.errors
            print(driver.errors)
        print("nodes while the run worked:", seen, flush=True)
        assert seen[0] == 1 and max(seen) == 3, seen
        until(lambda: alive() == 1, 120, every=1)
        print("nodes afterwards:", alive(), flush=True)
        ray.shutdown()
    assert "done" in kinds(output)
    actors = {x["actor"] for r in ledger(output) if r["kind"] == "accept" for x in r["body"]["receipts"]}
    print("workers that had a part:", sorted(actors), flush=True)
    assert len(actors) == 2, actors


if __name__ == "__main__":
    scenarios = {f.__name__: f for f in (autoscaled, cut_writes, drained, node_loss, race, submit, zombie)}
    scenarios[sys.argv[1]](Path(sys.argv[2]))
