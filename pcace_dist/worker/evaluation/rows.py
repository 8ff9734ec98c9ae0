"""The images of an evaluation, as a worker keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcace_dist.datasets.loader import Batch
from pcace_dist.models.ablation.replacement import BLOCKS


@dataclass(frozen=True, eq=False)
class EvaluationRows:
    """Images uint8 (n, C, H, W) with what is known of each: labels (n,), -1 without; groups; target values by column;
    fold keys.

    classes: whose outputs are the target, where it is one of a class: the labels, or what the untouched model sees.
    """

    images: Tensor
    refs: npt.NDArray[np.object_]
    labels: npt.NDArray[np.int64] | None
    classes: npt.NDArray[np.int64] | None
    groups: npt.NDArray[np.object_]
    columns: Mapping[str, npt.NDArray[Any]]
    keys: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> EvaluationRows:
        """The rows of some batches, one after the other."""
        groups = np.empty(sum(len(batch) for batch in batches), dtype=object)
        groups[:] = [group for b in batches for group in (b.groups if b.groups is not None else [None] * len(b))]
        labels = [batch.labels for batch in batches if batch.labels is not None]
        refs = np.empty(len(groups), dtype=object)
        refs[:] = [ref for batch in batches for ref in batch.refs]
        return cls(
            torch.cat([batch.images for batch in batches]),
            refs,
            np.concatenate(labels) if labels else None,
            np.concatenate(labels) if labels else None,
            groups,
            {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns},
            np.concatenate([batch.fold_keys for batch in batches]),
        )

    def take(self, mask: npt.NDArray[np.bool_]) -> EvaluationRows:
        """Those where the mask (n,) is true."""
        indices = np.flatnonzero(mask)
        return EvaluationRows(
            self.images[torch.from_numpy(indices)],
            self.refs[indices],
            None if self.labels is None else self.labels[indices],
            None if self.classes is None else self.classes[indices],
            self.groups[indices],
            {name: values[indices] for name, values in self.columns.items()},
            self.keys[indices],
        )

    def batch(self, rows: slice) -> Batch:
        """Some of the rows, as they were read."""
        return Batch(
            self.images[rows],
            tuple(self.refs[rows]),
            None if self.labels is None else self.labels[rows],
            tuple(self.groups[rows]),
            {name: values[rows] for name, values in self.columns.items()},
            self.keys[rows],
        )

    def folds(self, count: int) -> npt.NDArray[np.int64]:
        """Each row's fold (n,)."""
        return (self.keys % np.uint64(count)).astype(np.int64)

    @property
    def blocks(self) -> npt.NDArray[np.int64]:
        """Each row's block, from 0 (n,): rows of one key stay together, and keys are dealt out evenly."""
        _, numbers = np.unique(self.keys, return_inverse=True)
        return np.asarray(numbers % BLOCKS, np.int64)

    def __len__(self) -> int:
        return len(self.keys)
