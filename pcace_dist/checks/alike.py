"""Which column, or which beginning of the ids, says that images belong together: candidates for dataset.fold_by.

Crops of one photograph may share no pixel; what they share is light and colour. The evidence is the intraclass
correlation of the images' mean colours and contrast (Shrout and Fleiss 1979, ICC(1)): the share of their variance that
lies between groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcace_dist.checks.finding import NOTE, WARNING, Finding

ALIKE = 0.4  # intraclass correlation from which a warning is due
SHARED = 0.5  # share of rows that must have a row beside them in their group
_LAST_WORD = re.compile(r"[\W_]+[^\W_]*(\.\w{1,5})?$")  # of an id, with a file's suffix


def looks(images: Tensor) -> npt.NDArray[np.float64]:
    """Mean and standard deviation of each colour: float64 (n, 2 * C), of images uint8 (n, C, H, W)."""
    pixels = images.double().flatten(2)
    looked: npt.NDArray[np.float64] = np.concatenate([pixels.mean(2).numpy(), pixels.std(2).numpy()], axis=1)
    return looked


def intraclass(values: npt.NDArray[np.float64], groups: Sequence[Any]) -> float:
    """ICC(1), averaged over the columns of `values` (n, k) that vary; groups: n. At most 1; 0 or less where images of
    one group are no more alike than others."""
    _, group = np.unique(np.asarray(list(map(str, groups))), return_inverse=True)
    sizes = np.bincount(group).astype(float)
    n, k = len(values), len(sizes)
    if not 1 < k < n:
        return 0.0
    means = np.stack([np.bincount(group, column) / sizes for column in values.T], axis=1)
    between = (sizes[:, None] * (means - values.mean(0)) ** 2).sum(0) / (k - 1)
    within = ((values - means[group]) ** 2).sum(0) / (n - k)
    size = (n - (sizes**2).sum() / n) / (k - 1)
    total = between + (size - 1) * within
    varies = total > 1e-9
    return float(((between - within)[varies] / total[varies]).mean()) if varies.any() else 0.0


def beginnings(ids: Sequence[str]) -> list[str]:
    """What ids begin with, up to the last separator: `street-12` of `street-12/3.jpg` and of `street-12_b.png`."""
    return [_LAST_WORD.sub("", value) or value for value in ids]


def findings_of(
    columns: Mapping[str, Sequence[Any]], labels: Sequence[int] | None, images: Tensor, ids: Sequence[str] | None
) -> Iterator[Finding]:
    """Candidates for fold_by, the best first.

    columns: values of further columns, n each; labels: n class indices; images: uint8 (n, C, H, W); ids: n, None where
    the data have none of their own. A candidate puts rows together, is finer than the classes, and is not a class
    itself.
    """
    values = looks(images)
    candidates = {f"column {name!r}": (name, column) for name, column in columns.items()}
    if ids is not None:
        candidates["the beginning of the ids"] = ("", beginnings(ids))
    scored = [
        (intraclass(values, column), words, name, len(set(map(str, column))))
        for words, (name, column) in candidates.items()
        if _puts_together(column, labels)
    ]
    for alike, words, name, groups in sorted(scored, key=lambda one: -one[0]):
        evidence = (
            f"{words} has {groups} values in {len(values)} images; images that share one are alike in colour and "
            f"contrast (intraclass correlation {alike:.2f})"
        )
        write = f"if they show the same, write dataset.fold_by: {name}" if name else _of_ids(ids)
        figures = {"column": name, "values": groups, "intraclass": round(alike, 4)}
        if alike >= ALIKE / 2:
            yield Finding(WARNING if alike >= ALIKE else NOTE, "dataset.fold_by", evidence, write, figures)


def _of_ids(ids: Sequence[str] | None) -> str:
    example = beginnings(ids or [""])[0]
    return f"if they show the same, add a column with it (here {example!r}) and write dataset.fold_by: that column"


def _puts_together(column: Sequence[Any], labels: Sequence[int] | None) -> bool:
    """Whether most rows share their value with another row, there are more values than classes, and the value does not
    follow from the class."""
    counts: dict[str, int] = {}
    for value in map(str, column):
        counts[value] = counts.get(value, 0) + 1
    together = sum(count for count in counts.values() if count > 1)
    if len(counts) < 3 or together < SHARED * len(column):
        return False
    return labels is None or len(counts) > len(set(labels))
