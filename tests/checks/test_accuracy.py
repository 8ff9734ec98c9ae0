"""Accuracy against planted labels: right, at chance, shifted, sorted as text, swapped."""

from __future__ import annotations

import numpy as np
import pytest

from pcace_dist.checks.accuracy import accuracy, best_order, finding_of
from pcace_dist.checks.finding import NOTE, WARNING, Finding

RANDOM = np.random.default_rng(0)


def noisy(labels: np.ndarray, outputs: int, right: float = 0.8) -> np.ndarray:
    """Predictions that are right in about such a share of the rows."""
    wrong = RANDOM.random(len(labels)) > right
    return np.where(wrong, RANDOM.integers(0, outputs, len(labels)), labels)


def told(predicted: np.ndarray, labels: np.ndarray, outputs: int, names: dict[int, str] | None = None) -> Finding:
    finding = finding_of(predicted, labels, outputs, names or {})
    assert finding is not None
    return finding


def test_chance_is_the_agreement_of_the_margins() -> None:
    predicted, labels = np.array([0] * 90 + [1] * 10), np.array([0] * 80 + [1] * 20)
    measured = accuracy(predicted, labels)
    assert measured is not None and (measured.rows, measured.right) == (100, 0.9)
    assert measured.chance == pytest.approx(0.9 * 0.8 + 0.1 * 0.2)


def test_rows_without_a_label_do_not_count_and_few_rows_say_nothing() -> None:
    labels = np.array([1] * 60 + [-1] * 40)
    measured = accuracy(np.ones(100, np.int64), labels)
    assert measured is not None and measured.rows == 60
    assert accuracy(np.ones(49, np.int64), np.ones(49, np.int64)) is None
    assert finding_of(np.zeros(100, np.int64), np.zeros(100, np.int64), 1, {}) is None


def test_a_model_that_is_right_is_a_note_and_one_at_chance_a_warning() -> None:
    labels = RANDOM.integers(0, 10, 200)
    assert told(noisy(labels, 10), labels, 10).level == NOTE
    finding = told(RANDOM.integers(0, 10, 200), labels, 10)
    assert finding.level == WARNING and finding.what == "accuracy" and "preprocessing" in finding.write


def test_labels_that_count_from_1_are_seen() -> None:
    labels = RANDOM.integers(1, 10, 200)
    finding = told(noisy(labels - 1, 10), labels, 10)
    assert finding.figures["order"] == "labels that count from 1" and "dataset.label_base: 1" in finding.write
    assert finding.figures["then"] > 0.7


def test_numbers_sorted_as_texts_are_seen() -> None:
    labels = RANDOM.integers(0, 12, 200)
    folders = sorted(range(12), key=str)
    outputs = np.array([folders.index(label) for label in labels])
    assert told(noisy(outputs, 12), labels, 12).figures["order"].startswith("numbers sorted as texts")


def test_classes_sorted_by_name_are_seen() -> None:
    names = dict(enumerate(["tench", "bee", "cat", "ant", "dog", "elk", "owl", "hen"]))
    labels = RANDOM.integers(0, 8, 60)
    by_name = sorted(range(8), key=names.__getitem__)
    outputs = np.array([by_name.index(label) for label in labels])
    assert told(noisy(outputs, 8), labels, 8, names).figures["order"] == "classes sorted by name"


def test_two_swapped_classes_are_seen_with_their_numbers() -> None:
    labels = RANDOM.integers(0, 2, 200)
    order = told(noisy(1 - labels, 2), labels, 2).figures["order"]
    assert order == "another order (label 0 is output 1, label 1 is output 0)"


def test_no_order_is_found_in_noise() -> None:
    found = [
        best_order(RANDOM.integers(0, count, 200), RANDOM.integers(0, count, 200), count, {})
        for count in (2, 5, 10, 100, 1000)
        for _ in range(40)
    ]
    assert found == [None] * 200
