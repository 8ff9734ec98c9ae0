"""Which jackknife fold a row belongs to: a hash of the image's bytes, or of the value of `fold_by`.

Pure: no I/O, no Ray. The fold depends on content alone (blake2b, never Python's salted hash). So it is the same for any
sharding, worker or run, and duplicates of an image are in one fold.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import SupportsIndex


def key_of_bytes(data: bytes | bytearray | memoryview) -> int:
    """The fold key of an image from its undecoded bytes: blake2b, 64 bits. The fold is the key modulo their number."""
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
