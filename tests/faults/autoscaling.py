"""A cluster on this machine whose autoscaler starts nodes as processes. Only in a namespace of its own: starting and
ending it calls `ray stop --force`.

Ray's own `AutoscalingCluster` reads a file that its wheel lacks; the configuration is written out here instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

PORT = 6379


@contextlib.contextmanager
def fake_autoscaling_cluster(workers: int) -> Iterator[str]:
    """A head with one CPU and up to `workers` nodes with one each; its address."""
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

    node = {
        "resources": {"CPU": 1, "object_store_memory": 150 << 20},
        "node_config": {},
        "min_workers": 0,
        "max_workers": workers,
    }
    cluster = FakeCluster({"CPU": 1, "object_store_memory": 300 << 20}, {"cpu_node": node}, idle_timeout_minutes=0.2)
    cluster.start()
    try:
        yield f"127.0.0.1:{PORT}"
    finally:
        cluster.shutdown()
