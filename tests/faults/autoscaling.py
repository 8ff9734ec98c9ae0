"""A cluster on this machine whose autoscaler starts nodes as processes. Only in a namespace of its own: starting and
ending it calls `ray stop --force`.

Ray's own `AutoscalingCluster` reads a file that its wheel lacks; the configuration is written out here instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PORT = 6379
SHAPES = Path(__file__).resolve().parents[2] / "cluster" / "ray-up" / "aws.yaml"
STORE = 150 << 20  # bytes of an object store: many nodes share one machine here


@contextlib.contextmanager
def fake_autoscaling_cluster(workers: int, shapes: Path = SHAPES) -> Iterator[str]:
    """The head and node types that a file for `ray up` declares, `workers` nodes at most in all; its address."""
    declared = yaml.safe_load(shapes.read_text())
    from ray.cluster_utils import AutoscalingCluster

    class FakeCluster(AutoscalingCluster):  # type: ignore[misc]
        def _generate_config(
            self, head_resources: dict[str, Any], worker_node_types: dict[str, Any], *_: object, **overrides: Any
        ) -> dict[str, Any]:
            head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
            commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
            return {
                "cluster_name": "fake",
                "max_workers": workers,
                "provider": {
                    "type": "fake_multinode",
                    "use_node_id_as_ip": True,
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "available_node_types": {**worker_node_types, "ray.head.default": head},
                "head_node_type": "ray.head.default",
                "upscaling_speed": 1.0,
                "idle_timeout_minutes": 0.1,
                "auth": {},
                "docker": {},
                **{f"{name}_commands": [] for name in commands},
                "file_mounts": {},
                "cluster_synced_files": [],
                "file_mounts_sync_continuously": False,
                "rsync_exclude": [],
                "rsync_filter": [],
            } | overrides

    types = dict(declared["available_node_types"])
    head = types.pop(declared["head_node_type"])["resources"] | {"object_store_memory": 2 * STORE}
    nodes = {
        name: {
            "resources": one["resources"] | {"object_store_memory": STORE},
            "node_config": {},
            "min_workers": one["min_workers"],
            "max_workers": min(workers, one["max_workers"]),
        }
        for name, one in types.items()
    }
    cluster = FakeCluster(head, nodes, idle_timeout_minutes=0.2)
    cluster.start()
    try:
        yield f"127.0.0.1:{PORT}"
    finally:
        cluster.shutdown()
