"""Some hundred rows, spread over the data, and what the model says of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.datasets.loader import Batch, pilot_rows
from pcace_dist.models.forward import Forward
from pcace_dist.models.precision import Numerics
from pcace_dist.models.targets import target_values
from pcace_dist.run.prepare import Preparation
from pcace_dist.statistics.folds import FOLD_HASH
from pcace_dist.worker.pilot_labels import check_labels, seen_labels

BATCH = 16
ROW_GROUPS = 64  # that are opened at most


@dataclass(frozen=True, eq=False)
class Sample:
    """n rows as the job would read them.

    images: uint8 (n, C, H, W); outputs: (n, O); labels: int64 (n,) or None; groups: n or None; columns: the plain
    columns, n values each; ids: n; fold_keys: n; targets: float64 (n, T), NaN where there is none, with the reasons by
    row; map_bytes: of the layers' maps of one image; read_seconds, model_seconds: for
    one image.
    """

    images: Tensor
    outputs: Tensor
    labels: np.ndarray[Any, np.dtype[np.int64]] | None
    groups: Sequence[Any] | None
    columns: dict[str, list[Any]]
    ids: tuple[str, ...]
    fold_keys: list[int]
    targets: np.ndarray[Any, np.dtype[np.float64]]
    reasons: dict[int, str]
    map_bytes: int
    read_seconds: float
    model_seconds: float

    def __len__(self) -> int:
        return len(self.images)


def take_sample(preparation: Preparation, rows: int) -> Sample:
    """Read and forward about `rows` rows. Raises DatasetError or ModelError as the pilot would."""
    spec = preparation.spec
    options = replace(spec.loader_options(BATCH, FOLD_HASH), dataset=replace(spec.dataset, keep=True))
    began = time.perf_counter()
    batches = list(pilot_rows(preparation.listing, rows, options, max_row_groups=ROW_GROUPS))
    read = time.perf_counter() - began
    shared = preparation.shared_model
    model = spec.load_model() if shared is None else shared.model_copy()
    mean, std = spec.model.input.mean, spec.model.input.std
    forward = Forward(model, "cpu", BATCH, mean, std, spec.layers, Numerics())
    maps: dict[str, int] = {}

    def receive(name: str, layer_maps: Tensor, _: tuple[int, ...]) -> None:
        maps[name] = layer_maps[0].nbytes

    outputs, seconds = [], []
    for batch in batches:
        began = time.perf_counter()
        outputs.append(forward(batch.images, receive))
        seconds.append((time.perf_counter() - began) / len(batch))
    return _joined(
        preparation,
        batches,
        torch.cat(outputs),
        map_bytes=sum(maps.values()),
        read_seconds=read / sum(map(len, batches)),
        model_seconds=float(np.median(seconds)),
    )


def _joined(preparation: Preparation, batches: Sequence[Batch], outputs: Tensor, **more: Any) -> Sample:
    spec = preparation.spec
    labels = None if batches[0].labels is None else np.concatenate([b.labels for b in batches if b.labels is not None])
    check_labels(spec, seen_labels(labels), outputs.shape[1])
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    targets, reasons = target_values(spec.targets, outputs, labels, columns)
    kept = [row for batch in batches for row in batch.kept or ()]
    return Sample(
        images=torch.cat([batch.images for batch in batches]),
        outputs=outputs,
        labels=labels,
        groups=None if batches[0].groups is None else [group for batch in batches for group in batch.groups or ()],
        columns={name: [row[name] for row in kept] for name in (kept[0] if kept else ())},
        ids=tuple(ref.id for batch in batches for ref in batch.refs),
        fold_keys=[int(key) for batch in batches for key in batch.fold_keys],
        targets=targets,
        reasons=reasons,
        **more,
    )
