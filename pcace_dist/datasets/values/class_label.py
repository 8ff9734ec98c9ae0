"""Names of classes in a file's own metadata: Hugging Face's ClassLabel, which `pcace pack` writes too. Pure; no I/O."""

from __future__ import annotations

import json

import pyarrow as pa

METADATA = b"huggingface"


def class_label_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Names of a column's values 0, 1, ...; None where the schema's metadata has none that can be read."""
    try:
        feature = json.loads(schema.metadata[METADATA])["info"]["features"][column]
        if feature["_type"] != "ClassLabel" or not isinstance(feature["names"], list):
            return None
        return tuple(map(str, feature["names"])) or None
    except (KeyError, ValueError, TypeError):
        return None
