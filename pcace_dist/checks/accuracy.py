"""Accuracy against the label column: near chance something is wrong, and another order of the classes may say what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcace_dist.checks.finding import NOTE, WARNING, Finding

Ints = npt.NDArray[np.int64]

FROM_1 = "labels that count from 1"
LEAST_ROWS = 50  # labelled rows below which accuracy says nothing
DEVIATIONS = 3.0  # standard errors that an accuracy lies above another before it counts as larger
PER_CLASS = 4  # rows for each class before an assignment of classes is looked for


@dataclass(frozen=True)
class Accuracy:
    """Of `rows` labelled images: the share that the model gets right, and what agreement by chance would give."""

    rows: int
    right: float
    chance: float

    @property
    def near_chance(self) -> bool:
        return not is_above(self.right, self.chance, self.rows)


def is_above(share: float, other: float, rows: int) -> bool:
    """Whether a share of `rows` is above another one by more than chance."""
    return share > other + DEVIATIONS * float(np.sqrt(max(other * (1 - other), 1 / rows) / rows))


def accuracy(predicted: Ints, labels: Ints) -> Accuracy | None:
    """predicted, labels: int64 (n,), labels -1 where there is none. Chance is the agreement of the two margins (Cohen
    1960). None with fewer than LEAST_ROWS labels."""
    labelled = labels >= 0
    predicted, labels = predicted[labelled], labels[labelled]
    if len(labels) < LEAST_ROWS:
        return None
    count = int(max(predicted.max(), labels.max())) + 1
    margins = (np.bincount(values, minlength=count) / len(labels) for values in (predicted, labels))
    first, second = margins
    return Accuracy(len(labels), float((predicted == labels).mean()), float(first @ second))


def orders(labels: Ints, outputs: int, names: Mapping[int, str]) -> dict[str, Ints]:
    """The outputs (n,) that `labels` (n,) would mean under usual mistakes in the order of classes, by their words."""
    ranges = {
        FROM_1: (labels - 1, labels.min() >= 1),
        "outputs that have a class for the background first": (labels + 1, labels.max() < outputs - 1),
    }
    found = {words: meant for words, (meant, possible) in ranges.items() if possible}
    found["numbers sorted as texts (0, 1, 10, 11, 2, ...)"] = _sorted_by(str, labels, outputs)
    if len(names) == outputs:
        found["classes sorted by name"] = _sorted_by(names.__getitem__, labels, outputs)
    return found


def _sorted_by(key: Callable[[int], str], labels: Ints, outputs: int) -> Ints:
    place = np.argsort(sorted(range(outputs), key=key))
    return np.where(labels < outputs, place[labels % outputs], labels)


def best_order(predicted: Ints, labels: Ints, outputs: int, names: Mapping[int, str]) -> tuple[str, float] | None:
    """The order of classes under which the model is right most often, in words, with that accuracy; None where none is
    better than the labels as they are by more than chance.

    Of the usual mistakes, or, with enough rows for each class, the best assignment of outputs to labels (Kuhn 1955),
    chosen on one half of the rows and judged on the other.
    """
    labelled = labels >= 0
    predicted, labels = predicted[labelled], labels[labelled]
    right = float((predicted == labels).mean())
    usual = {words: float((predicted == meant).mean()) for words, meant in orders(labels, outputs, names).items()}
    words, best = max(usual.items(), key=lambda order: order[1])
    may_be_clear = right < 0.5  # nothing is twice as often right as that
    if may_be_clear and not _is_clear(best, right, len(labels)) and len(labels) >= 2 * PER_CLASS * outputs:
        pairs, best = _assigned(predicted, labels, outputs)
        words = f"another order ({pairs})"
    return (words, best) if _is_clear(best, right, len(labels) // 2) else None


def _is_clear(share: float, right: float, rows: int) -> bool:
    return share > max(2 * right, 0.3) and is_above(share, right, rows)


def _assigned(predicted: Ints, labels: Ints, outputs: int) -> tuple[str, float]:
    """The best assignment on the even rows, as text, and its accuracy on the odd ones."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, which most runs need not wait for

    confusion = np.zeros((outputs, outputs), dtype=np.int64)
    inside = labels < outputs
    predicted, labels = predicted[inside], labels[inside]
    np.add.at(confusion, (labels[::2], predicted[::2]), 1)
    rows, columns = linear_sum_assignment(-confusion)
    output_of = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    moved = [f"label {label} is output {output}" for label, output in output_of.items() if label != output]
    judged = np.array([output_of[label] for label in labels[1::2].tolist()])
    return ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else ""), float((predicted[1::2] == judged).mean())


def finding_of(predicted: Ints, labels: Ints, outputs: int, names: Mapping[int, str]) -> Finding | None:
    """None where there is nothing to compare: no labels, or one output.

    predicted, labels: int64 (n,); outputs: how many the model has; names: of the classes, by output.
    """
    measured = accuracy(predicted, labels) if outputs > 1 else None
    if measured is None:
        return None
    said = f"the model is right on {measured.right:.0%} of {measured.rows} labelled images (by chance: "
    said += f"{measured.chance:.0%})"
    figures: dict[str, Any] = {"rows": measured.rows, "accuracy": round(measured.right, 4)}
    figures["chance"] = round(measured.chance, 4)
    better = best_order(predicted, labels, outputs, names)
    if better is not None:
        words, share = better
        write = (
            "write dataset.label_base: 1"
            if words == FROM_1
            else "the labels are in another order than the model's outputs: write the classes' names as labels, and "
            "dataset.classes in the order of the outputs"
        )
        evidence = f"{said}, but on {share:.0%} with {words}"
        return Finding(WARNING, "dataset.label", evidence, write, figures | {"order": words, "then": round(share, 4)})
    if measured.near_chance:
        write = (
            "the preprocessing (model.input: mean, std, resize, mode), the weights or the order of the classes is "
            "probably not the model's; look at the contact sheet of `pcace check`"
        )
        return Finding(WARNING, "accuracy", said, write, figures)
    return Finding(NOTE, "accuracy", said, "", figures)
