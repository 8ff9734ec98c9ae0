"""Names of classes in a file's metadata."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pcace_dist.datasets.values.class_label import class_label_names


def schema(feature: object) -> pa.Schema:
    content = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    return pa.schema([("label", pa.int64())], {b"huggingface": json.dumps(content).encode()})


def test_names_as_hugging_face_writes_them() -> None:
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    assert class_label_names(schema(feature), "label") == ("cat", "dog")
    assert class_label_names(schema(feature), "image") is None
    assert class_label_names(schema(feature), "other") is None


@pytest.mark.parametrize(
    "feature",
    [
        {"dtype": "int64", "_type": "Value"},
        {"num_classes": 2, "_type": "ClassLabel"},
        {"names": [], "_type": "ClassLabel"},
        {"names": "cat", "_type": "ClassLabel"},
        {"feature": {"names": ["cat"], "_type": "ClassLabel"}, "_type": "Sequence"},
        ["cat"],
        None,
    ],
)
def test_anything_else_is_no_list_of_names(feature: object) -> None:
    assert class_label_names(schema(feature), "label") is None


@pytest.mark.parametrize("metadata", [None, {b"huggingface": b"{"}, {b"huggingface": b"[]"}, {b"pandas": b"{}"}])
def test_metadata_that_is_no_description(metadata: dict[bytes, bytes] | None) -> None:
    assert class_label_names(pa.schema([("label", pa.int64())], metadata), "label") is None
