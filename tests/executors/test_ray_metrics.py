"""Metrics are served by Ray's agent under the names that dashboards and alerts use."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import socket, sys, time, urllib.request
import ray
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False,
         logging_level=40, _metrics_export_port=port)
from pcace_dist.executors.ray_metrics import Metrics, Sample, metric_names
metrics = Metrics("abc")
metrics.update(Sample(images=3, bytes=10, bad_rows=1, units_done=1, units_redone=1, queue_depth=4, workers=2,
                      stage_seconds={"decode": 1.5}))
metrics.update(Sample(images=7, bytes=10, bad_rows=1, units_done=1, units_redone=1, queue_depth=2, workers=2,
                      stage_seconds={"decode": 2.0}))
for _ in range(60):
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2).read().decode()
    except OSError:
        continue
    if "ray_pcace_images_total{" in text:
        break
missing = [name for name in metric_names() if name + "{" not in text]
assert not missing, missing
lines = [line for line in text.splitlines() if "pcace" in line and "{" in line]
value = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
assert value["ray_pcace_images_total"] == 7, value
assert value["ray_pcace_queue_depth"] == 2, value
assert value["ray_pcace_stage_seconds_total"] == 2.0, value
"""


def test_all_metrics_are_served_with_the_totals_of_the_last_update() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
