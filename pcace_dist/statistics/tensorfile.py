"""Settings and tensors as one safetensors file, and back: the serialisation of plans and Grams. Bytes only; no I/O, no
Ray.

safetensors is imported only when something is serialised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pcace_dist.errors import StatisticsError


def pack(kind: str, settings: str, tensors: Mapping[str, Tensor]) -> bytes:
    """A file of one `kind` ("plan", "Gram"): settings (JSON) and contiguous CPU tensors. Same content, same bytes."""
    from safetensors.torch import save

    return bytes(save(dict(tensors), metadata={kind.lower(): settings}))


def unpack(kind: str, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a file that `pack` wrote; StatisticsError if it is not one of this kind."""
    from safetensors.torch import load

    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        settings: dict[str, Any] = json.loads(header["__metadata__"][kind.lower()])
        return settings, load(data)
    except Exception as error:
        raise StatisticsError(f"{kind}: not a {kind} file ({type(error).__name__})") from error
