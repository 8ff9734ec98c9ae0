"""Samples: the projected rows themselves, for estimators that need every row (sample-level ACE).

Pure tensors: no I/O, no Ray. Guarantee: for any partition of the same rows, `cat` and then `ordered` give the same
bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from pcace_dist.errors import StatisticsError


@dataclass(frozen=True, eq=False)
class SampleRows:
    """Rows of one group: keys int64 (n,), unique; targets float64 (n, T); by layer components float32 (n, C, p)."""

    keys: Tensor
    targets: Tensor
    components: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.keys, self.targets, *self.components.values()))

    def take(self, rows: Tensor) -> SampleRows:
        """Some of the rows, in the given order."""
        components = {name: values[rows] for name, values in self.components.items()}
        return SampleRows(self.keys[rows], self.targets[rows], components)

    def ordered(self) -> SampleRows:
        """The rows sorted by key. Raises StatisticsError where two rows have the same key."""
        keys, order = torch.sort(self.keys)
        if bool((keys[1:] == keys[:-1]).any()):
            raise StatisticsError("samples: a row comes twice")
        return self.take(order)

    @staticmethod
    def cat(parts: Iterable[SampleRows]) -> SampleRows:
        """Rows of several parts, one after the other."""
        every = list(parts)
        return SampleRows(
            torch.cat([part.keys for part in every]),
            torch.cat([part.targets for part in every]),
            {name: torch.cat([part.components[name] for part in every]) for name in every[0].components},
        )


def row_key(name: str) -> int:
    """The key of a row from its name (file and row): 64 signed bits of blake2b."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
