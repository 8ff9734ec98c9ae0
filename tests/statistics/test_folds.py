from __future__ import annotations

from hashlib import blake2b

import numpy as np

from pcace_dist.statistics.folds import key_of_bytes, key_of_value

KNOWN = [4, 0, 5, 2, 5, 8, 8, 12]


def test_fold_is_blake2b_of_the_bytes() -> None:
    digest = blake2b(b"image", digest_size=8).digest()
    assert key_of_bytes(b"image") % 16 == int.from_bytes(digest, "little") % 16


def test_known_folds_never_change() -> None:
    assert [key_of_bytes(bytes([byte])) % 16 for byte in range(8)] == KNOWN


def test_folds_are_about_equally_full() -> None:
    counts = np.bincount([key_of_bytes(str(row).encode()) % 16 for row in range(16_000)], minlength=16)
    assert counts.min() > 850 and counts.max() < 1150


def test_equal_values_of_any_width_share_a_fold() -> None:
    assert key_of_value(7) == key_of_value(np.int8(7)) == key_of_value(np.int64(7))
    assert key_of_value(0.5) == key_of_value(np.float64(0.5))


def test_values_of_other_types_are_other_values() -> None:
    values: list[object] = [3, "3", b"3", 3.0, None, (3,)]
    assert len({key_of_value(value) for value in values}) == len(values)
