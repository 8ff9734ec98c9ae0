"""`pcace stability`: how a finished run's rankings would look with fewer images, and with more. Without the model.

    run -> sums of each block by group and fold -> scores from some of the folds -> agreement (analysis/stability)

The sums are those of the run's attempts, by fold. A run from kept codes has none: there the expectation, which needs
the published pseudo-values alone, stands without a measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pcace_dist.analysis.stability import RELIABLE, Stability, parts_of, stability_of
from pcace_dist.artifacts.attempt import BlockPart, ChannelBlock, CorruptAttempt, blocks_of
from pcace_dist.artifacts.jackknife import by_fold
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.run import Run
from pcace_dist.config.choice import Wanted
from pcace_dist.config.resolve import absolute
from pcace_dist.errors import JobError, OutputError
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.statistics.gram import Gram
from pcace_dist.statistics.plan import Plan, TargetPlan
from pcace_dist.statistics.score import OK, required_images, score_channels
from pcace_dist.storage.store import open_store
from pcace_dist.worker.block_sums import BlockSums
from pcace_dist.worker.memory import default_memory
from pcace_dist.worker.reduce import block_parts

Floats: TypeAlias = npt.NDArray[np.float64]
Folds: TypeAlias = tuple[int, ...]
Key: TypeAlias = tuple[str, Any]  # target, group

MOST_RANKINGS = 60  # targets x groups, unless they were chosen
LEAST = 20  # images of a part; their scores are only compared, and need no interval


@dataclass(frozen=True)
class StabilitySettings:
    """What is asked. top: K of the top in common. None: all there are."""

    top: int = 10
    layers: Wanted = None
    target: Wanted = None
    group: Wanted = None


@dataclass(frozen=True, eq=False)
class _Ranking:
    """One ranking: its ranked channels by layer, score_squared, pseudo-values and plan's noise as published."""

    images: int
    channels: Mapping[str, npt.NDArray[np.int64]]
    squared: Floats
    pseudo: Floats
    plan_noise: Floats

    def of_block(self, block: ChannelBlock) -> npt.NDArray[np.int64]:
        """Its channels in a block, by their place there."""
        own = self.channels.get(block.layer, np.empty(0, np.int64))
        return own[(own >= block.start) & (own < block.stop)] - block.start


def stability(
    run: Run, settings: StabilitySettings, on_block: Callable[[int, int], object] = lambda *_: None
) -> list[Stability]:
    """The stability of every ranking that is asked for. on_block: told how many blocks of how many are done.

    Raises UserError for a run without a jackknife, and for more rankings than are drawn unasked.
    """
    rankings = _rankings(run, settings)
    plan = plan_of_run(absolute(run.path), run.storage)
    try:
        scores = _scores(run, plan, rankings, on_block)
    except CorruptAttempt as corrupt:
        raise OutputError(f"{run.path}: attempt {corrupt.attempt}: {corrupt.reason}; rank it anew") from None
    return [
        stability_of(
            *key,
            ranking.images,
            ranking.squared,
            ranking.pseudo,
            ranking.plan_noise,
            scores[key],
            plan.folds,
            top=settings.top,
            least=RELIABLE * required_images(plan.components, plan.knots),
            seed=run.job.compute.seed,
        )
        for key, ranking in rankings.items()
    ]


# -- what is asked


def _rankings(run: Run, settings: StabilitySettings) -> dict[Key, _Ranking]:
    if run.job.statistics.estimator != "gram":
        raise JobError(f"{run.path}: was ranked by estimator {run.job.statistics.estimator}, without a jackknife")
    table = run.with_jackknife(layer=settings.layers, group=settings.group, target=settings.target)
    rows: dict[Key, list[int]] = {}
    columns = (table[name].to_pylist() for name in ("target", "group", "status"))
    for row, (target, group, status) in enumerate(zip(*columns, strict=True)):
        if status == OK:
            rows.setdefault((target, group), []).append(row)
    if not rows:
        raise JobError(f"{run.path}: no channel is ranked in what is asked for")
    if len(rows) > MOST_RANKINGS and not (settings.target or settings.group):
        raise JobError(
            f"{run.path}: has {len(rows):,} rankings: choose with --group or --target (at most {MOST_RANKINGS} are "
            "looked at unasked)"
        )
    return {key: _ranking(table.take(own)) for key, own in rows.items()}


def _ranking(table: pa.Table) -> _Ranking:
    channels: dict[str, list[int]] = {}
    for layer, channel in zip(table["layer"].to_pylist(), table["channel"].to_pylist(), strict=True):
        channels.setdefault(layer, []).append(channel)
    squared = np.asarray(table["score_squared"].to_numpy(zero_copy_only=False), np.float64)
    by_layer = {layer: np.array(own) for layer, own in channels.items()}
    pseudo, plan_noise = (by_fold(table, name) for name in ("pseudo_values", "plan_noise"))
    return _Ranking(int(table["images"][0].as_py()), by_layer, squared, pseudo, plan_noise)


# -- scores from some of the folds


def _scores(
    run: Run, plan: Plan, rankings: Mapping[Key, _Ranking], on_block: Callable[[int, int], object]
) -> dict[Key, dict[Folds, Floats]]:
    """By ranking and folds the score_squared (C,) of the ranking's channels, in its order; none where there are no
    attempts."""
    if run.summary.get("from_codes") is not None:
        return {key: {} for key in rankings}
    chosen = dict.fromkeys(folds for parts in parts_of(plan.folds).values() for folds in parts)
    layers = {layer for ranking in rankings.values() for layer in ranking.channels}
    blocks = [block for block in blocks_of(plan) if block.layer in layers]
    store = open_store(absolute(run.path), run.storage)
    receipts = Ledger(store).load().accepted_receipts()
    apart: dict[Key, dict[Folds, list[Floats]]] = {key: {folds: [] for folds in chosen} for key in rankings}
    for done, block in enumerate(blocks):
        on_block(done, len(blocks))
        layer = plan.layer(block.layer).block(block.channels)
        for target, group, gram in _grams(plan, block, partial(block_parts, store, plan, block, receipts), rankings):
            key = (target.name, group)
            own = rankings[key].of_block(block)
            for folds, of_block in apart[key].items():
                some = gram.without(set(range(plan.folds)) - set(folds))
                [scores] = score_channels(
                    some, layer, [target], penalty=run.job.statistics.penalty, min_images=LEAST, min_folds=2
                )
                of_block.append(scores.score_squared[own])
    return {key: {folds: np.concatenate(own) for folds, own in parts.items()} for key, parts in apart.items()}


def _grams(
    plan: Plan, block: ChannelBlock, parts: Callable[[], Iterable[BlockPart]], rankings: Mapping[Key, _Ranking]
) -> Iterator[tuple[TargetPlan, Any, Gram]]:
    """For each ranking with channels in this block its target, group and Gram."""
    wanted = {group for (_, group), ranking in rankings.items() if block.layer in ranking.channels}
    sums = BlockSums(plan, block, memory=default_memory(1))
    for group, group_sums in sums.groups(lambda: (part for part in parts() if part.group in wanted)):
        for number, target in enumerate(plan.targets):
            ranking = rankings.get((target.name, group))
            if ranking is not None and len(ranking.of_block(block)):
                yield target, group, sums.add_up(group_sums, slice(number, number + 1))
