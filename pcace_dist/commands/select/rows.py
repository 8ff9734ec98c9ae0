"""The rows of a finished run as its kept codes have them: whole layers, in the run's groups, folds and targets.

A run that answers from another's codes has the other's rows that it selects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pcace_dist.artifacts.attempt import BlockPart, blocks_of
from pcace_dist.artifacts.codes.stored import StoredCodes, open_codes
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.run import Run
from pcace_dist.artifacts.selection import Selection
from pcace_dist.config.job import Job
from pcace_dist.config.resolve import absolute, storage_of
from pcace_dist.run.codes_query import SelectedRows
from pcace_dist.run.codes_run import prepare_from_codes
from pcace_dist.statistics.plan import LayerCodes, Plan


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Rows of a run with kept codes. plan: the run's own; codes are on the knots of `kept_codes.plan`."""

    plan: Plan
    kept_codes: StoredCodes
    selection: Selection

    def parts(self, layer: str) -> Iterator[BlockPart]:
        """Codes of all channels of a layer, some rows of one group after the other."""
        blocks = [block for block in blocks_of(self.kept_codes.plan) if block.layer == layer]
        by_block = (self.kept_codes.read_block(block) for block in blocks)
        return self.selection.parts(LayerCodes.cat(parts, dim=1) for parts in zip(*by_block, strict=True))


def open_rows(run: Run) -> KeptRows | None:
    """The rows of a run; None where no codes were kept. Raises UserError where they cannot be read."""
    job = run.job if from_codes(run) else _asks_itself(run)
    preparation = (
        prepare_from_codes(job) if from_codes(run) or open_codes(absolute(run.path), storage_of(job)) else None
    )
    if preparation is None:
        return None
    rows = SelectedRows(job, preparation.kept_codes, preparation.query)
    plan = plan_of_run(absolute(run.path), storage_of(job))
    return KeptRows(plan, preparation.kept_codes, rows.select(plan))


def from_codes(run: Run) -> str | None:
    """The run whose kept codes this one was ranked from."""
    source = run.summary.get("from_codes")
    return None if source is None else str(source)


def _asks_itself(run: Run) -> Job:
    """The run's job as a question to its own codes, which hold the rows that passed its filter."""
    job = run.job
    kept = job.statistics.model_copy(update={"keep_codes": False, "plan": None, "estimator": "gram"})
    dataset = replace(job.dataset, path=[run.path], filter={})
    return job.model_copy(update={"dataset": dataset, "statistics": kept, "stop": None, "extend": None})
