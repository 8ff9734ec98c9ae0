"""What the pilot's rows say about the job: the cheap checks of `pcace check`, on rows that are read anyway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pcace_dist.checks import accuracy, near_duplicates, values
from pcace_dist.checks.finding import WARNING, Finding
from pcace_dist.config.targets import have_classes
from pcace_dist.datasets.loader import Batch
from pcace_dist.models.library.origin import RANDOM
from pcace_dist.worker.spec import WorkSpec

IMAGES = 32  # at most, of which the range of values is taken: each has thousands


def pilot_warnings(
    spec: WorkSpec,
    batches: Sequence[Batch],
    predicted: Sequence[npt.NDArray[np.int64]],
    outputs: int,
) -> list[Finding]:
    """What is probably wrong, as warnings: the range of values, near-duplicates, accuracy.

    predicted: the class with the largest output, by row, in the order of the batches; outputs: how many the model has.
    At most near_duplicates.MOST rows are compared.
    """
    found: list[Finding | None] = [
        values.finding_of(batches[0].images[:IMAGES], spec.model.input.mean, spec.model.input.std)
    ]
    step = -(-sum(map(len, batches)) // near_duplicates.MOST)
    small = torch.cat([near_duplicates.thumbnails(batch.images[::step]) for batch in batches])
    keys = [int(key) for batch in batches for key in batch.fold_keys[::step]]
    pairs = near_duplicates.near_duplicates(small, keys)
    found.append(near_duplicates.finding_of(pairs, fold_by=spec.dataset.fold_by))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    if labels and spec.model.weights != RANDOM and have_classes(spec.targets):
        found.append(accuracy.finding_of(np.concatenate(predicted), np.concatenate(labels), outputs, {}))
    return [finding for finding in found if finding is not None and finding.level == WARNING]
