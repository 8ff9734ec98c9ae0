"""Prometheus metrics of a run, through `ray.util.metrics`; Ray's agents serve them as `ray_pcace_...` on every node.

    ray_pcace_images_total          images that count in the result
    ray_pcace_bytes_total           bytes read of the data set
    ray_pcace_bad_rows_total        rows that were set aside
    ray_pcace_units_done_total      units accepted or set aside
    ray_pcace_units_redone_total    units lent again after a loss
    ray_pcace_stage_seconds_total   worker seconds, by `stage`
    ray_pcace_queue_depth           units that nobody works on
    ray_pcace_workers               workers that are up

All come from the driver, labelled with `run`, the start of the job's fingerprint. Series of a driver that has ended
stay for a while: aggregate with `sum by (run)` or `max by (run)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray.util.metrics import Counter, Gauge

COUNTERS = {
    "images": "Images that count in the result",
    "bytes": "Bytes read of the data set",
    "bad_rows": "Rows that were set aside",
    "units_done": "Units accepted or set aside",
    "units_redone": "Units lent again after a loss",
}
GAUGES = {"queue_depth": "Units that nobody works on", "workers": "Workers that are up"}
STAGE_SECONDS = "stage_seconds"


def metric_names() -> list[str]:
    """All names as Prometheus sees them."""
    counters = [f"ray_pcace_{name}_total" for name in (*COUNTERS, STAGE_SECONDS)]
    return counters + [f"ray_pcace_{name}" for name in GAUGES]


@dataclass(frozen=True)
class Sample:
    """Where a run stands: totals so far, not differences."""

    images: int = 0
    bytes: int = 0
    bad_rows: int = 0
    units_done: int = 0
    units_redone: int = 0
    queue_depth: int = 0
    workers: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


class Metrics:
    """The metrics of one driver. `update` takes totals; counters move by what has been added since."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._counters = {name: Counter(f"pcace_{name}", text, tag_keys=("run",)) for name, text in COUNTERS.items()}
        self._gauges = {name: Gauge(f"pcace_{name}", text, tag_keys=("run",)) for name, text in GAUGES.items()}
        self._stages = Counter(f"pcace_{STAGE_SECONDS}", "Worker seconds by stage", tag_keys=("run", "stage"))
        self._reported: dict[str, float] = {}

    def update(self, sample: Sample) -> None:
        """Report where the run stands."""
        for name, counter in self._counters.items():
            self._advance(counter, name, getattr(sample, name), self._tags)
        for stage, seconds in sample.stage_seconds.items():
            self._advance(self._stages, f"stage {stage}", seconds, {**self._tags, "stage": stage})
        for name, gauge in self._gauges.items():
            gauge.set(getattr(sample, name), tags=self._tags)

    def _advance(self, counter: Counter, key: str, total: float, tags: dict[str, str]) -> None:
        """Move a counter up to a total; a total that went down (a unit was lost) moves nothing until it is passed."""
        added = total - self._reported.get(key, 0.0)
        if added > 0:
            counter.inc(added, tags=tags)
            self._reported[key] = total
