"""HeldCodes: codes of the rows that wait to be added up, of all layers of a plan.

Pure tensors: no I/O, no Ray. Guarantee: the rows come out as they were appended, in their order.

Few rows are held as they come. More are copied into chunks of CHUNK_ROWS rows, one mapping for each layer (pages.py):
neither thousands of small tensors nor a second copy when they are added up, and a layer's chunk goes back to the system
as soon as it is added. On a GPU, whose memory is taken as a whole, rows are always held as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pcace_dist.statistics import pages
from pcace_dist.statistics.plan import LayerCodes, Plan

CHUNK_ROWS = 3072  # added at a time, about: long enough for products of bytes (products.py)
CHUNKS_FROM = 1 << 18  # bytes of a layer, on average, from which rows are copied into chunks


@dataclass(eq=False)
class _Chunk:
    """Up to `capacity` rows, of which the first `rows` are there; a layer that was given up is missing in `layers`."""

    layers: dict[str, LayerCodes]
    capacity: int
    rows: int = 0

    def part(self, layer: str) -> LayerCodes:
        """A view of a layer's rows."""
        held = self.layers[layer]
        return held if self.rows == held.rows else held.take(slice(0, self.rows))

    def add(self, codes: Mapping[str, LayerCodes], rows: slice) -> None:
        """Copies some rows behind those that are there."""
        place = slice(self.rows, self.rows + rows.stop - rows.start)
        for name, held in self.layers.items():
            held.codes[place] = codes[name].codes[rows]
            held.means[place] = codes[name].means[rows]
        self.rows = place.stop


class HeldCodes:
    """Rows as codes, all layers of a plan. See the module."""

    def __init__(self, plan: Plan, *, device: torch.device | str = "cpu") -> None:
        self._channels = {layer.name: layer.channels for layer in plan.layers}
        self._components = plan.components
        self._row_bytes = sum(self._channels.values()) * (plan.components + 2)
        self._in_chunks = False
        self._may_be_in_chunks = torch.device(device).type == "cpu"
        self._chunks: list[_Chunk] = []

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self._chunks)

    def append(self, codes: Mapping[str, LayerCodes]) -> None:
        """Adds rows: codes uint8 (n, C, p) and means int16 (n, C) of every layer of the plan, on the device."""
        rows = next(iter(codes.values())).rows
        if not self._in_chunks:
            many = (self.rows + rows) * self._row_bytes >= CHUNKS_FROM * len(self._channels)
            if not (many and self._may_be_in_chunks):
                self._chunks.append(_Chunk(dict(codes), rows, rows))
                return
            self._in_chunks = True
            loose, self._chunks = self._chunks, []
            for chunk in loose:
                self._copy(chunk.layers, chunk.rows)
        self._copy(codes, rows)

    def codes(self, layer: str, channels: slice = slice(None)) -> LayerCodes | None:
        """All rows of a layer, or of some of its channels; a view where one chunk has them all; None without rows."""
        parts = [chunk.part(layer).block(channels) for chunk in self._chunks]
        return LayerCodes.cat(parts) if parts else None

    def parts(self) -> Iterator[Mapping[str, LayerCodes]]:
        """All rows, some at a time."""
        for chunk in self._chunks:
            yield {layer: chunk.part(layer) for layer in chunk.layers}

    def take_out(self) -> Iterator[tuple[str, slice, LayerCodes]]:
        """All rows, layer by layer and about CHUNK_ROWS at a time, with their places; each given up as it is taken."""
        pieces = list(_pieces([chunk.rows for chunk in self._chunks]))
        chunks, self._chunks = self._chunks, []
        for layer in self._channels:
            first = 0
            for piece in pieces:
                rows = sum(chunk.rows for chunk in chunks[piece])
                yield layer, slice(first, first + rows), LayerCodes.cat(_given_up(chunks[piece], layer))
                first += rows

    def _copy(self, codes: Mapping[str, LayerCodes], rows: int) -> None:
        start = 0
        while start < rows:
            if not self._chunks or self._chunks[-1].rows == self._chunks[-1].capacity:
                self._chunks.append(_Chunk(self._empty(), CHUNK_ROWS))
            chunk = self._chunks[-1]
            stop = min(rows, start + chunk.capacity - chunk.rows)
            chunk.add(codes, slice(start, stop))
            start = stop

    def _empty(self) -> dict[str, LayerCodes]:
        """Room for CHUNK_ROWS rows, one mapping for each layer."""
        layers: dict[str, LayerCodes] = {}
        for name, channels in self._channels.items():
            values = CHUNK_ROWS * channels
            held = pages.zeros((values * (self._components + 2),), torch.uint8)
            means = held[: 2 * values].view(torch.int16).reshape(CHUNK_ROWS, channels)
            layers[name] = LayerCodes(held[2 * values :].reshape(CHUNK_ROWS, channels, self._components), means)
        return layers


def _given_up(chunks: list[_Chunk], layer: str) -> Iterator[LayerCodes]:
    for chunk in chunks:
        part = chunk.part(layer)
        del chunk.layers[layer]
        yield part


def _pieces(counts: list[int]) -> Iterator[slice]:
    """Neighbouring parts of counts[i] rows together: even pieces of about CHUNK_ROWS."""
    total = sum(counts)
    number = max(1, round(total / CHUNK_ROWS))
    start = rows = done = 0
    for index, count in enumerate(counts):
        rows += count
        if rows * number >= total * (done + 1) or index == len(counts) - 1:
            yield slice(start, index + 1)
            start, done = index + 1, rows * number // max(1, total)
