"""The figures of a run: rows, faults, seconds by stage; shown as progress and written to summary.json."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pcace_dist.artifacts.drift import advice
from pcace_dist.artifacts.effects import effects_summary
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.summary import publish_summary, summary_of
from pcace_dist.datasets.listing import LeftOut
from pcace_dist.datasets.units import Unit, data_digest
from pcace_dist.executors.choice import ExecutorKind
from pcace_dist.executors.start_patience import StartPatience
from pcace_dist.ledger.ledger import Ledger, RunState
from pcace_dist.progress.display import RunDisplay, Tally
from pcace_dist.run.bottleneck import ComputeSettings, find_bottleneck, on_worker, stage_shares
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.status import look_in_words
from pcace_dist.statistics.order.settled import Settlement
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Store
from pcace_dist.worker.admission import Admission

if TYPE_CHECKING:
    from pcace_dist.executors.ray_metrics import Metrics

SUMMARY_EVERY = 5.0  # seconds between two summaries while the run works


@dataclass(frozen=True)
class Recorded:
    """Rows by what the ledger says of them: in settled units, in the result, bad (with all of units that were set
    aside), without a label that they need, and of units without which the top was settled."""

    settled: int = 0
    images: int = 0
    bad: int = 0
    unlabelled: int = 0
    spared: int = 0

    @classmethod
    def of(cls, state: RunState, rows_of: Mapping[str, int]) -> Recorded:
        """`rows_of`: rows of every unit, before the filter."""
        counts = [count for receipt in state.accepted_receipts() for count in receipt.units.values()]
        return cls(
            settled=sum(rows for unit, rows in rows_of.items() if state.is_settled(unit)),
            images=sum(count.rows for count in counts),
            bad=sum(count.bad for count in counts) + sum(rows_of.get(unit, 0) for unit in state.set_aside),
            unlabelled=sum(count.unlabelled for count in counts),
            spared=sum(rows_of.get(unit, 0) for unit in state.spared),
        )


class RunStats:
    """Counts what the ledger has accepted and what this driver has seen of the rest."""

    def __init__(
        self, store: Store, ledger: Ledger, display: RunDisplay, fingerprint: str, executor: ExecutorKind
    ) -> None:
        """`executor`: who runs the workers. Ray's agents are told the metrics."""
        self._store = store
        self._ledger = ledger
        self._display = display
        self._fingerprint = fingerprint
        self._metrics: Metrics | None = None
        if executor == ExecutorKind.RAY:
            from pcace_dist.executors.ray_metrics import Metrics

            self._metrics = Metrics(fingerprint[:12])
        self._started = time.monotonic()
        self._directory = os.getcwd()
        self._summary_at = self._started
        self._rows_of: dict[str, int] = {}
        self._rows = 0
        self._counted: tuple[RunState, Recorded] | None = None
        self._data: str | None = None
        self._passes: list[MainPass] = []
        self.looks: list[dict[str, int]] = []  # of this driver
        self._plan: Plan | None = None
        self._pass_started = self._started
        self._rows_at_start = 0
        self._rate: float | None = None
        self.workers = 0
        self.patience: StartPatience | None = None
        self.drift: dict[str, dict[str, float]] = {}
        self.files_left_out: tuple[LeftOut, ...] = ()
        self.from_codes: str | None = None  # the run whose kept codes are ranked
        self.layers_left_out: Mapping[str, str] | None = None  # with the reason; None where no model is run
        self._executor = executor
        self.seconds: dict[str, float] = defaultdict(float)
        self._reduce_seconds: dict[str, float] = defaultdict(float)  # of its tasks

    # -- what happens

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the wall seconds of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - start

    def planned(self, plan: Plan, units: Mapping[str, Unit]) -> None:
        self._plan = plan
        self._rows_of = {unit.id: unit.rows for unit in units.values()}
        self._rows, self._counted = sum(self._rows_of.values()), None
        self._data = data_digest(row_group for unit in units.values() for row_group in unit.row_groups)

    def main_pass_begins(self, main_pass: MainPass) -> None:
        if not self._passes:
            self._pass_started = time.monotonic()
            self._rows_at_start = self.rows_done
        self._passes.append(main_pass)

    def reduced(self, seconds: Iterable[Mapping[str, float]]) -> None:
        """Seconds by stage of the tasks of a reduce."""
        for by_stage in seconds:
            for stage, value in by_stage.items():
                self._reduce_seconds[stage] += value

    def looked(self, look: int, top: int, checks: Sequence[Settlement]) -> str:
        """One check of `stop`, of every ranking: what is still unsettled, and after how many images; in words."""
        figures = {
            "look": look,
            "images": self.images,
            "top": top,
            "rankings": len(checks),
            "surely": min(check.surely for check in checks),
            "possibly": max(check.possibly for check in checks),
            "open_pairs": sum(check.open_pairs for check in checks),
        }
        self.looks.append(figures)
        return look_in_words(figures)

    def tick(self, stage: str, workers: int, waits_for: str = "", share: float | None = None) -> None:
        """Show progress, and the workers or storage that the run waits for; from time to time also in summary.json.
        share: see `Tally`."""
        self.workers = max(self.workers, workers)
        rows = min(self.rows_done, self.rows)
        elapsed = time.monotonic() - self._pass_started
        if stage == "ranking" and elapsed > 1 and rows > self._rows_at_start:
            self._rate = (rows - self._rows_at_start) / elapsed
        self._display.show(Tally(stage, rows, self.rows, workers, self.bad_rows, self._rate, waits_for, share))
        if time.monotonic() - self._summary_at >= SUMMARY_EVERY:
            self._summary_at = time.monotonic()
            self.report(workers)
            self._ledger.check_held()  # a driver that was taken over must not write over its successor's summary
            now = {"workers_now": workers, "rows_done": rows, "rows": self.rows, "waits_for": waits_for}
            self.write("running", None, stage=stage, **now)

    def report(self, workers: int) -> None:
        """Bring the metrics up to date."""
        if self._metrics is None:
            return
        from pcace_dist.executors.ray_metrics import Sample

        state = self._ledger.state
        done = sum(state.is_settled(unit) for unit in self._rows_of)
        sample = Sample(images=self.images, bad_rows=self.bad_rows, units_done=done, workers=workers)
        if self._passes:
            sample = replace(
                sample,
                bytes=sum(main_pass.stats.bytes_read for main_pass in self._passes),
                units_redone=self._units_redone,
                queue_depth=self._passes[-1].queue_depth,
                stage_seconds=self._worker_seconds(),
            )
        self._metrics.update(sample)

    # -- counts

    @property
    def rows(self) -> int:
        """Rows of all units, before the filter."""
        return self._rows

    @property
    def _recorded(self) -> Recorded:
        """Counted anew only where the ledger has grown: the loop asks at every turn, and there are many units."""
        state = self._ledger.state
        if self._counted is None or self._counted[0] is not state:
            self._counted = state, Recorded.of(state, self._rows_of)
        return self._counted[1]

    @property
    def rows_done(self) -> int:
        """Rows of units that are recorded, finished, or forwarded in a unit that is being worked on."""
        recorded = self._recorded.settled
        if not self._passes:
            return recorded
        unrecorded = sum(self._rows_of[u] for u in self._passes[-1].finished_unrecorded)
        return recorded + unrecorded + self._passes[-1].rows_in_work

    @property
    def rows_spared(self) -> int:
        """Rows of units without which the top was settled."""
        return self._recorded.spared

    @property
    def _units_redone(self) -> int:
        return sum(main_pass.units_redone for main_pass in self._passes)

    @property
    def _last_faults(self) -> list[str]:
        return [fault for main_pass in self._passes for fault in main_pass.stats.last_faults][-10:]

    def _worker_seconds(self) -> dict[str, float]:
        """Seconds by stage, summed over workers."""
        total: dict[str, float] = defaultdict(float)
        for main_pass in self._passes:
            for stage, value in main_pass.stats.seconds.items():
                total[stage] += value
        in_pass = on_worker(total, self._in_pass) if self._passes else {}
        return {**total, **in_pass, **self._reduce_seconds}

    @property
    def _in_pass(self) -> float:
        """Seconds of all workers in the main pass."""
        return sum(main_pass.stats.worker_seconds for main_pass in self._passes)

    def _time(self) -> dict[str, Any]:
        """Where the time went: seconds and shares by stage, and what would help (docs/pipeline.md)."""
        driver, workers = dict(self.seconds), self._worker_seconds()
        compute = ComputeSettings()
        if self._plan is not None:
            metadata = PlanMetadata.of(self._plan)
            compute = ComputeSettings(
                metadata.numeric_class["device"] == "cpu",
                metadata.precision,
                metadata.batch,
                metadata.decode,
                self._plan.knots,
            )
        bottleneck = find_bottleneck(driver, workers, compute)
        return {
            "stages": {name: round(value, 3) for name, value in driver.items()},
            "worker_stages": {name: round(value, 3) for name, value in workers.items()},
            "worker_seconds": round(self._in_pass, 3),
            "shares": {name: round(value, 4) for name, value in stage_shares(driver, workers).items()},
            "bottleneck": None
            if bottleneck is None
            else {"stage": bottleneck.stage, "share": round(bottleneck.share, 4), "advice": bottleneck.advice},
        }

    @property
    def images(self) -> int:
        """Rows that count in the result."""
        return self._recorded.images

    @property
    def bad_rows(self) -> int:
        """Rows of accepted attempts that were set aside, and all rows of units that were."""
        return self._recorded.bad

    @property
    def unlabelled(self) -> int:
        """Rows that need a label and have none."""
        return self._recorded.unlabelled

    @property
    def last_fault(self) -> str:
        return self._last_faults[-1] if self._last_faults else "none"

    # -- summary.json

    def write(self, outcome: str, exit_code: int | None, **more: Any) -> None:
        """Write summary.json."""
        publish_summary(self._store, self.summary(outcome, exit_code, **more))

    def summary(self, outcome: str, exit_code: int | None, **more: Any) -> dict[str, Any]:
        """What summary.json says now."""
        state = self._ledger.state
        images = self.images
        main_pass = self.seconds["main_pass"] or time.monotonic() - self._pass_started
        if any(main_pass.stats.units_of_pilot for main_pass in self._passes):
            main_pass += self.seconds["pilot"]  # which has forwarded them
        forwarded = self.rows_done - self.rows_spared - self._rows_at_start
        values: dict[str, Any] = {
            "outcome": outcome,
            "exit_code": exit_code,
            "fingerprint": self._fingerprint,
            "data": self._data,
            "images": images,
            "bad_rows": self.bad_rows,
            "unlabelled": self.unlabelled,
            "files_left_out": [left_out.to_json() for left_out in self.files_left_out],
            "units": len(self._rows_of),
            "units_set_aside": len(state.set_aside),
            "units_redone": self._units_redone,
            "attempts": len(state.accepted_receipts()),
            "workers": self.workers,
            "workers_are": self._executor.workers_are,
            "directory": self._directory,
            "seconds": round(time.monotonic() - self._started, 3),
            "images_per_second": round(forwarded / main_pass, 3) if main_pass > 0 else None,
            **self._time(),
            "last_faults": self._last_faults,
            **more,
        }
        if self.patience is not None and (self.patience.refusals or self.patience.short):
            values["workers_refused"] = self.patience.refusals
            values["workers_short"] = self.patience.short
        if self.layers_left_out is not None:
            left_out = self.layers_left_out.items()
            values["layers_left_out"] = [{"layer": layer, "reason": reason} for layer, reason in left_out]
        warnings = (state.manifest or {}).get("warnings")
        if warnings:
            values["warnings"] = warnings
        if self.from_codes is not None:
            values["from_codes"] = self.from_codes
        if self.drift:
            values["drift"] = {"layers": self.drift, "advice": advice(self.drift)}
        if self.looks or state.settled is not None:
            values["stop"] = {
                "settled": state.settled is not None,
                "rows_spared": self.rows_spared,
                "looks": (state.settled or {}).get("looks", self.looks),
            }
        if self._plan is not None and self._plan.effects is not None:
            values["effect"] = effects_summary(self._plan.effects)
        if self._plan is not None and self._plan.noise is not None:
            noise = self._plan.noise
            values["plan_noise"] = {"targets": noise.targets, "rankings": noise.rankings, "bytes": noise.nbytes}
        if self._plan is not None:
            metadata = PlanMetadata.of(self._plan)
            values |= {
                "plan": self._plan.digest,
                "precision": metadata.precision,
                "layout": metadata.layout,
                "decode": metadata.decode,
                "batch": metadata.batch,
                "fold_hash": metadata.fold_hash,
                "solver": metadata.solver,
                "numeric_classes": self._numeric_classes(metadata.numeric_class),
                "check_codes_differing": self._differing(),
                "explained_variance": {
                    layer.name: round(float(layer.explained.sum(1).mean()), 4) for layer in self._plan.layers
                },
            }
        return summary_of(values)

    def _numeric_classes(self, plans: dict[str, str | int]) -> list[dict[str, str | int]]:
        """The plan's class first, then those of other workers that were admitted (`exact: off`)."""
        classes = [plans]
        for admission in self._admitted():
            if admission.numeric_class not in classes:
                classes.append(admission.numeric_class)
        return classes

    def _differing(self) -> float:
        """Largest share of the check rows' codes that an admitted worker computed differently from the pilot."""
        return max((admission.differing for admission in self._admitted()), default=0.0)

    def _admitted(self) -> list[Admission]:
        """Workers of other classes that the ledger knows of, of earlier drivers too, and the workers of this one."""
        recorded = [
            Admission(dict(worker["class"]), float(worker["differing"])) for worker in self._ledger.state.foreign
        ]
        own = (admission for main_pass in self._passes for admission in main_pass.stats.admissions.values())
        return [*recorded, *own]
