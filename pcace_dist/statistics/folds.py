"""Jackknife folds: which one a row belongs to, and residuals by fold.

Pure: no I/O, no Ray. A fold is a hash of the image's bytes, or of the value of `fold_by`. It depends on content alone
(never Python's salted hash). So it is the same for any sharding, worker or run, and duplicates of an image are in one
fold. Which hash it is stands in the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from pcace_dist.errors import StatisticsError

Floats: TypeAlias = npt.NDArray[np.float64]


Bytes: TypeAlias = bytes | bytearray | memoryview

XXH3, BLAKE2B = "xxh3", "blake2b"
FOLD_HASH = XXH3  # of new plans: 2 us for 110 KB, where blake2b takes 115


def fold_hash(name: str) -> Callable[[Bytes], int]:
    """The hash of a plan: the fold key of an image, 64 bits, from its undecoded bytes. The fold is the key modulo their
    number. Raises StatisticsError for a hash that is not known here."""
    if name == XXH3:
        from xxhash import xxh3_64_intdigest  # here, so that plans with the other one do without

        return xxh3_64_intdigest
    if name == BLAKE2B:
        return key_of_bytes
    raise StatisticsError(f"the plan's fold_hash is {name}, which is not known here; use the version that wrote it")


def key_of_bytes(data: Bytes) -> int:
    """The first 64 bits of blake2b: fold keys of plans that name no hash, and of values."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def key_of_value(value: object) -> int:
    """The fold key of a row from its value in the `fold_by` column; equal values share it.

    The type is part of the hash, its width is not: 3 as int8 and as int64 are the same value, 3 and "3" are not.
    """
    return key_of_bytes(_canonical(value))


def _canonical(value: object) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b"bytes:" + bytes(value)
    if isinstance(value, str):
        return b"text:" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, float):
        return b"float:" + repr(float(value)).encode()
    if isinstance(value, SupportsIndex):
        return b"int:" + str(value.__index__()).encode()
    return b"other:" + str(value).encode("utf-8", "surrogatepass")


def dealt_anew(noise: Floats, folds: int) -> Floats:
    """Pseudo-values (..., F) of a sum over folds, dealt to another number of folds; the variance of their mean stays,
    about. Fewer folds: each takes in the old ones of its remainder. More: the rest is 0."""
    old = noise.shape[-1]
    if folds == old:
        return noise
    result = np.zeros((*noise.shape[:-1], folds))
    for fold in range(old):
        result[..., fold % folds] += noise[..., fold]
    factor = folds / old if folds < old else np.sqrt(folds * (folds - 1) / (old * (old - 1)))
    return np.asarray(result * factor)


def on_used(noise: Floats, used: npt.NDArray[np.int64]) -> Floats:
    """Residuals (C, F) on the folds that hold rows, about 0, with the variance of the mean that they had on all."""
    if len(used) == noise.shape[1]:
        return noise
    folds, left = noise.shape[1], len(used)
    wanted = np.square(noise).sum(axis=1, keepdims=True) / (folds * (folds - 1))
    kept = noise[:, used] - noise[:, used].mean(axis=1, keepdims=True)
    held = np.square(kept).sum(axis=1, keepdims=True) / (left * (left - 1))
    flat = np.where(np.arange(left) % 2 == 0, 1.0, -1.0) * np.sqrt(wanted * (left - 1))
    return np.asarray(np.where(held > 0, kept * np.sqrt(wanted / np.where(held > 0, held, 1.0)), flat))
