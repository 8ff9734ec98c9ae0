"""Effects from kept codes: which of those that were kept answer a question. No Ray, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from pcace_dist.config.job import Job
from pcace_dist.config.targets import TargetSpec
from pcace_dist.statistics.effects.plan import EffectPlan
from pcace_dist.statistics.effects.scores import NOT_OF_THE_MODEL, OFF


def question_effects(
    job: Job, kept: EffectPlan | None, targets: Sequence[TargetSpec], layers: Sequence[str]
) -> EffectPlan | None:
    """The part of the kept effects that answers a question; None where none were kept or none are wanted.

    A target that is no function of the model gets those of `effect.of`, where they were kept for some target.
    """
    if kept is None or job.effect.gradient == OFF:
        return None
    watched = job.effect.watched
    numbers: list[int] = []
    names: list[str] = []
    statuses: dict[str, str] = {}
    for target in targets:
        of = target.name if target.of_outputs or watched is None else watched.name
        number = kept.index(target.name)
        if number is None:
            number = next((index for index, own in enumerate(kept.targets) if own.of == of), None)
        if number is None:
            statuses[target.name] = kept.statuses.get(target.name, OFF if target.of_outputs else NOT_OF_THE_MODEL)
        else:
            numbers.append(number)
            names.append(target.name)
    chosen = kept.choose(numbers, layers)
    renamed = tuple(replace(own, name=name) for own, name in zip(chosen.targets, names, strict=True))
    return replace(chosen, targets=renamed, statuses=statuses).grouped_by(job.group_by)


def fixed_values(plan: EffectPlan, kept: EffectPlan, table: pa.Table, rows: np.ndarray) -> torch.Tensor:
    """Values int16 (n, E) of some rows of kept codes under a question's effects; MISSING where there is none."""
    columns = []
    for number in kept.numbers_of(plan):
        column = table[f"effect:{kept.targets[number].name}"].to_numpy(zero_copy_only=False)
        columns.append(np.asarray(column, np.float64)[rows])
    exact = torch.from_numpy(np.stack(columns, 1))
    return plan.encode_targets(exact, torch.zeros_like(exact, dtype=torch.int64))
