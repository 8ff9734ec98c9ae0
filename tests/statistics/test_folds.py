from __future__ import annotations

from hashlib import blake2b

import numpy as np

from pcace_dist.statistics.folds import fold_of_bytes, fold_of_value

KNOWN = [4, 0, 5, 2, 5, 8, 8, 12]


def test_fold_is_blake2b_of_the_bytes() -> None:
    digest = blake2b(b"image", digest_size=8).digest()
    assert fold_of_bytes(b"image", 16) == int.from_bytes(digest, "little") % 16


def test_known_folds_never_change() -> None:
    assert [fold_of_bytes(bytes([byte]), 16) for byte in range(8)] == KNOWN


def test_folds_are_about_equally_full() -> None:
    counts = np.bincount([fold_of_bytes(str(row).encode(), 16) for row in range(16_000)], minlength=16)
    assert counts.min() > 850 and counts.max() < 1150


def test_equal_values_of_any_width_share_a_fold() -> None:
    assert fold_of_value(7, 1 << 30) == fold_of_value(np.int8(7), 1 << 30) == fold_of_value(np.int64(7), 1 << 30)
    assert fold_of_value(0.5, 1 << 30) == fold_of_value(np.float64(0.5), 1 << 30)


def test_values_of_other_types_are_other_values() -> None:
    values: list[object] = [3, "3", b"3", 3.0, None, (3,)]
    assert len({fold_of_value(value, 1 << 60) for value in values}) == len(values)
