"""Writes the tables of a result, each with one put. No Ray.

The caller then records `done` with their digests, then writes summary.json (docs/protocol.md, item 10). A run without
`done` has no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pcace_dist.artifacts.across_groups import across_groups_table, publish_across_groups
from pcace_dist.artifacts.attempt import read_attempt_file
from pcace_dist.artifacts.bad_rows import BAD_ROWS, publish_bad_rows, rows_set_aside
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.examples import publish_examples
from pcace_dist.artifacts.jackknife import publish_jackknife
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.artifacts.rankings import publish_rankings, rankings_table
from pcace_dist.artifacts.reading.class_names import publish_class_names
from pcace_dist.artifacts.reading.data_reading import DataReading
from pcace_dist.artifacts.transforms import publish_transforms
from pcace_dist.errors import OutputError
from pcace_dist.ledger.ledger import RESTORE, Receipt, RunState
from pcace_dist.statistics.order.ranks import Ranks
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Sink, Store


@dataclass(frozen=True)
class Results:
    """What `publish_results` writes. `examples`: see `merge_examples`; `grouped`: the job has group_by;
    `named`: tables may say which images they are about."""

    plan: Plan
    state: RunState
    blocks: Sequence[BlockScores]
    ranks: Sequence[Ranks]
    examples: Sequence[Mapping[str, bytes]]
    group_type: pa.DataType
    grouped: bool
    named: bool = True


def publish_results(sink: Sink, store: Store, results: Results) -> None:
    """Write all tables of a result. store: holds the attempts."""
    plan, blocks, group_type = results.plan, results.blocks, results.group_type
    receipts = results.state.accepted_receipts()
    check_counts(store, blocks, receipts)
    publish_examples(sink, plan, results.examples, group_type, named=results.named)
    publish_transforms(sink, plan, [curves for block in blocks for curves in block.curves], group_type)
    publish_jackknife(sink, plan, blocks, group_type)
    if results.grouped:
        publish_across_groups(sink, across_groups_table(plan, blocks, results.ranks))
    names = DataReading.of(results.state.manifest or {}).names
    if names:
        publish_class_names(sink, names)
    publish_rankings(sink, rankings_table(plan, blocks, results.ranks, PlanMetadata.of(plan).weight_norms, group_type))
    of_attempts = (
        read_attempt_file(store, receipt.attempt, BAD_ROWS, receipt.files[BAD_ROWS])
        for receipt in receipts
        if BAD_ROWS in receipt.files
    )
    publish_bad_rows(sink, of_attempts, rows_set_aside(results.state))


def check_counts(store: Store, blocks: Sequence[BlockScores], receipts: Iterable[Receipt]) -> None:
    """Raises OutputError unless the attempts hold as many images as the ledger says that they do."""
    counted = sum(count.rows for receipt in receipts for count in receipt.units.values())
    for block in blocks:
        stored = sum(int(scores[0].images.max(initial=0)) for scores in block.scores.values())
        if stored != counted:
            raise OutputError(
                f"{store.url}/ledger: its accept records count {counted:,} images, the files of their attempts hold "
                f"{stored:,}; {RESTORE}"
            )
