"""Files of prototype vectors: read without running anything, and refused in one line."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest

from pcace_dist.config.targets import parse_target
from pcace_dist.errors import JobError
from pcace_dist.models.prototypes import with_prototypes

TABLE = np.arange(6, dtype=np.float32).reshape(3, 2)
LABELLED = {"cosine": "p.npy", "index": "label"}


def npy(values: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values)
    return sink.getvalue()


def npz(**vectors: Any) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **vectors)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("target", "data", "expected"),
    [
        ({"cosine": "p.npy", "index": 2}, npy(TABLE), [[4, 5]]),
        (LABELLED, npy(TABLE + 1), [[1, 2], [3, 4], [5, 6]]),
        ({"cosine": "p.npy", "index": 0}, npy(TABLE[1].astype(np.float16)), [[2, 3]]),
        ({"cosine": "p.npz", "name": "red car"}, npz(**{"red car": TABLE[2], "cat": TABLE[1]}), [[4, 5]]),
    ],
)
def test_vectors_are_picked_by_index_label_or_name(target: dict[str, Any], data: bytes, expected: list[Any]) -> None:
    spec = with_prototypes([parse_target(target)], {target["cosine"]: data}.__getitem__)[0]
    assert spec.prototypes is not None
    assert spec.prototypes.vectors.dtype == np.float64
    assert spec.prototypes.vectors.tolist() == expected
    assert spec.prototypes.digest == hashlib.sha256(data).hexdigest()
    assert spec == parse_target(target)


def test_other_targets_stay_as_they_are() -> None:
    specs = tuple(map(parse_target, ({"logit": "label"}, {"cosine": "text"})))
    assert with_prototypes(specs, dict[str, bytes]().__getitem__) == specs


@pytest.mark.parametrize(
    ("target", "data", "words"),
    [
        ({"cosine": "p.npy", "index": 3}, npy(TABLE), "p.npy has 3 vectors; index must be from 0 to 2"),
        ({"cosine": "p.npz", "name": "dog"}, npz(cat=TABLE[0]), "has no vector of that name; there are: cat"),
        ({"cosine": "p.npz", "name": "cat"}, npz(cat=TABLE), "has 3 vectors under that name, not one"),
        (LABELLED, b"PK torn", "is no file of numpy.save or numpy.savez with numbers in it"),
        (LABELLED, npy(TABLE)[:-3], "is no file of numpy.save or numpy.savez"),
        (
            LABELLED,
            npy(np.array([{"a": 1}], dtype=object)),
            "is no file of numpy.save or numpy.savez with numbers in it",
        ),
        (LABELLED, npy(np.array(["cat"])), r"holds <U3 of shape \(1, 1\), not numbers \(vectors, values\)"),
        (LABELLED, npy(TABLE[None]), r"holds float32 of shape \(1, 3, 2\), not numbers"),
        (LABELLED, npy(TABLE * 0), "has a vector without a direction"),
        (LABELLED, npy(TABLE * np.nan), "has a vector without a direction"),
    ],
)
def test_a_file_that_will_not_do_is_one_line(target: dict[str, Any], data: bytes, words: str) -> None:
    with pytest.raises(JobError, match=rf"^target \{{cosine: p.np[yz], .*{words}") as caught:
        with_prototypes([parse_target(target)], lambda _: data)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line() -> None:
    def read(path: str) -> bytes:
        raise FileNotFoundError(f"{path}: no such file")

    with pytest.raises(JobError, match=r"target \{cosine: p.npy, index: label\}: cannot be read: no such file"):
        with_prototypes([parse_target(LABELLED)], read)
