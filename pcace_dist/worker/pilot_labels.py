"""Labels against the model's outputs: found in the pilot, before the main pass begins. Never guesses. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcace_dist.datasets.values.labels import NO_ROWS, LabelRange
from pcace_dist.errors import DatasetError
from pcace_dist.worker.spec import WorkSpec


def seen_labels(labels: npt.NDArray[np.int64] | None) -> LabelRange:
    """The range of some class indices; -1 is none."""
    known = None if labels is None else labels[labels >= 0]
    return NO_ROWS if known is None or not len(known) else LabelRange(int(known.min()), int(known.max()), True)


def check_labels(spec: WorkSpec, seen: LabelRange, outputs: int) -> None:
    """Raise DatasetError where labels are no outputs of the model. seen: the range of the pilot's class indices.

    Where they run from 1 to the number of outputs and are never 0, they may count from 1, or be those of another model:
    the job must say.
    """
    if not any(target.needs_label and target.file is None for target in spec.targets):
        return
    column, labelling = spec.dataset.label, spec.dataset.labelling
    stated = None if spec.dataset.filter or labelling.range is None else labelling.range
    whole = seen if stated is None or stated.low is None else stated
    if labelling.base is None and labelling.by_name is None and (whole.low, whole.high) == (1, outputs):
        raise DatasetError(
            f"dataset.label {column}: labels run from 1 to {outputs} and are never 0, but the model's outputs are "
            f"0 to {outputs - 1}; if labels count from 1, write dataset.label_base: 1, else dataset.label_base: 0"
        )
    if seen.high is not None and seen.high >= outputs:
        raise DatasetError(
            f"dataset.label {column}: label {int(seen.high)} is beyond the model's {outputs} outputs (classes are 0 to "
            "the number of outputs less 1); check dataset.label and model.kwargs"
        )
