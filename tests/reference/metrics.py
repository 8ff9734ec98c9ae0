"""docs/reference/metrics.md: what a run tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from pcace_dist.executors.ray_metrics import COUNTERS, GAUGES, STAGE_SECONDS, metric_names
from tests.reference import HEAD, code, table

PAGE = """\
# Metrics

The driver of a run gives these to Ray, whose agents serve them to Prometheus; dashboards and alerts are in
[cluster/README.md](../../cluster/README.md). All are labelled with `run`, the start of the job's fingerprint. The
series of a driver that has ended stay for a while: aggregate with `sum by (run)` or `max by (run)`.

{metrics}"""


def page() -> str:
    return HEAD + PAGE.format(metrics=table(["metric", "kind", "is"], rows()))


def rows() -> Iterator[list[str]]:
    said = {**COUNTERS, STAGE_SECONDS: "Seconds of work on all workers, by `stage`", **GAUGES}
    for name, text in zip(metric_names(), said.values(), strict=True):
        yield [code(name), "counter" if name.endswith("_total") else "gauge", text]
