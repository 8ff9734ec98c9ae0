"""What a worker on Ray knows of the others."""

from __future__ import annotations

from typing import Any

import ray

from pcace_dist.executors.ray_actor import Worker


def test_a_worker_counts_those_of_its_run_on_its_node(local_ray: None) -> None:
    actor: Any = Worker
    handles = [actor.options(num_cpus=0).remote(name) for name in ("one", "other")]
    ray.get([handle.progress.remote() for handle in handles])  # both are there
    counted = ray.get(handles[0]._workers_here.remote())
    ray.kill(handles[1])
    ray.kill(handles[0])
    assert counted >= 2, "those of the tests before may be on their way out"
