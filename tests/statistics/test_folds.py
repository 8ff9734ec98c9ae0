from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from pcace_dist.errors import StatisticsError
from pcace_dist.statistics.folds import BLAKE2B, XXH3, fold_hash, key_of_bytes, key_of_value

KNOWN = {"blake2b": [4, 0, 5, 2, 5, 8, 8, 12], "xxh3": [11, 11, 15, 13, 2, 2, 5, 15]}


def test_fold_is_blake2b_of_the_bytes() -> None:
    digest = blake2b(b"image", digest_size=8).digest()
    assert key_of_bytes(b"image") % 16 == int.from_bytes(digest, "little") % 16


@pytest.mark.parametrize("name", [BLAKE2B, XXH3])
def test_known_folds_never_change(name: str) -> None:
    assert [fold_hash(name)(bytes([byte])) % 16 for byte in range(8)] == KNOWN[name]


def test_new_plans_hash_the_bytes_with_xxh3_wherever_they_lie() -> None:
    data = bytes(range(256)) * 500
    for held in (data, bytearray(data), memoryview(b"before" + data)[6:]):
        assert fold_hash(XXH3)(held) == xxh3_64_intdigest(data) < 2**64
        assert fold_hash(BLAKE2B)(held) == key_of_bytes(data)


def test_a_hash_of_a_later_version_is_refused_by_name() -> None:
    with pytest.raises(StatisticsError, match="fold_hash is sha3"):
        fold_hash("sha3")


@pytest.mark.parametrize("name", [BLAKE2B, XXH3])
def test_folds_are_about_equally_full(name: str) -> None:
    counts = np.bincount([fold_hash(name)(str(row).encode()) % 16 for row in range(16_000)], minlength=16)
    assert counts.min() > 850 and counts.max() < 1150


def test_equal_values_of_any_width_share_a_fold() -> None:
    assert key_of_value(7) == key_of_value(np.int8(7)) == key_of_value(np.int64(7))
    assert key_of_value(0.5) == key_of_value(np.float64(0.5))


def test_values_of_other_types_are_other_values() -> None:
    values: list[object] = [3, "3", b"3", 3.0, None, (3,)]
    assert len({key_of_value(value) for value in values}) == len(values)
