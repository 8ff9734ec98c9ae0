"""CodeBuffer: the codes of rows that wait to be added to Grams, for all layers of a plan.

Pure tensors: no I/O, no Ray. Guarantee: the rows come out as they were appended, in their order.

A few rows are kept as they come. More rows are copied into chunks of CHUNK_ROWS rows, each block of a layer's channels
in a memory mapping of its own (pages.py). So there are neither thousands of small tensors nor a second copy when rows
are added to a Gram, and a block goes back to the system as soon as it is added. On a GPU rows are always kept as they
come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pcace_dist.statistics import pages
from pcace_dist.statistics.plan import LayerCodes, Plan

CHUNK_ROWS = 3072  # added at a time, about: long enough for products of bytes (products.py)
CHUNKS_FROM = 1 << 18  # bytes of a layer, on average, from which rows are copied into chunks
BLOCK_CHANNELS = 64  # of a chunk that lie together; an attempt's files are cut in the same way (artifacts.attempt)


@dataclass(eq=False)
class _Chunk:
    """Up to `capacity` rows, of which the first `rows` are there: codes by layer, then by the block's first channel."""

    layers: dict[str, dict[int, LayerCodes]]
    capacity: int
    rows: int = 0

    def add(self, codes: Mapping[str, LayerCodes], rows: slice) -> None:
        """Copies some rows behind those that are there."""
        place = slice(self.rows, self.rows + rows.stop - rows.start)
        for name, blocks in self.layers.items():
            for first, block in blocks.items():
                channels = slice(first, first + block.means.shape[1])
                block.codes[place] = codes[name].codes[rows, channels]
                block.means[place] = codes[name].means[rows, channels]
                if block.effects is not None:
                    block.effects[place] = codes[name].effects_of(rows, channels)
        self.rows = place.stop

    def part(self, layer: str, channels: slice) -> LayerCodes:
        """The rows of a layer's channels [start, stop); a view where they are of one block."""
        parts: list[LayerCodes] = []
        for first, block in self.layers[layer].items():
            own = slice(max(0, channels.start - first), max(0, channels.stop - first))
            if own.start < block.means.shape[1] and own.stop > 0:
                parts.append(block.take(slice(0, self.rows)).block(own))
        return LayerCodes.cat(parts, dim=1)


class CodeBuffer:
    """Rows as codes, all layers of a plan. See the module.

    whole_layers: all channels of a layer lie together, else BLOCK_CHANNELS of them; they are given up together.
    """

    def __init__(self, plan: Plan, *, whole_layers: bool = False, device: torch.device | str = "cpu") -> None:
        self._channels = {layer.name: layer.channels for layer in plan.layers}
        self._components = plan.components
        self._whole_layers = whole_layers
        self._effects = plan.effect_targets
        self._row_bytes = sum(self._channels.values()) * (plan.components + 2 + 2 * self._effects)
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
                self._chunks.append(_Chunk({name: {0: codes[name]} for name in self._channels}, rows, rows))
                return
            self._in_chunks = True
            loose, self._chunks = self._chunks, []
            for chunk in loose:
                self._copy({name: blocks[0] for name, blocks in chunk.layers.items()}, chunk.rows)
        self._copy(codes, rows)

    def codes(self, layer: str, channels: slice = slice(None)) -> LayerCodes | None:
        """All rows of some of a layer's channels; a view where one chunk and block have them all. None without rows."""
        start, stop, _ = channels.indices(self._channels[layer])
        parts = [chunk.part(layer, slice(start, stop)) for chunk in self._chunks]
        return LayerCodes.cat(parts) if parts else None

    def parts(self) -> Iterator[Mapping[str, LayerCodes]]:
        """All rows, some at a time."""
        for chunk in self._chunks:
            yield {layer: chunk.part(layer, slice(0, channels)) for layer, channels in self._channels.items()}

    def take_out(self) -> Iterator[tuple[str, slice, slice, LayerCodes]]:
        """Empties the buffer, block by block, about CHUNK_ROWS rows at a time: layer, channels, rows and their
        codes. A block's memory is given up as soon as it is taken."""
        pieces = list(_pieces([chunk.rows for chunk in self._chunks]))
        chunks, self._chunks = self._chunks, []
        for layer in self._channels:
            for channels in self._blocks(layer):
                first = 0
                for piece in pieces:
                    rows = slice(first, first + sum(chunk.rows for chunk in chunks[piece]))
                    yield layer, channels, rows, LayerCodes.cat(_given_up(chunks[piece], layer, channels))
                    first = rows.stop

    def _blocks(self, layer: str) -> list[slice]:
        channels = self._channels[layer]
        step = BLOCK_CHANNELS if self._in_chunks and not self._whole_layers else max(1, channels)
        return [slice(first, min(first + step, channels)) for first in range(0, channels, step)]

    def _copy(self, codes: Mapping[str, LayerCodes], rows: int) -> None:
        start = 0
        while start < rows:
            if not self._chunks or self._chunks[-1].rows == self._chunks[-1].capacity:
                layers = {name: {part.start: self._empty(part) for part in self._blocks(name)} for name in codes}
                self._chunks.append(_Chunk(layers, CHUNK_ROWS))
            chunk = self._chunks[-1]
            stop = min(rows, start + chunk.capacity - chunk.rows)
            chunk.add(codes, slice(start, stop))
            start = stop

    def _empty(self, block: slice) -> LayerCodes:
        """Room for CHUNK_ROWS rows of a block, in one mapping."""
        channels = block.stop - block.start
        values = CHUNK_ROWS * channels
        room = pages.zeros((values * (self._components + 2 + 2 * self._effects),), torch.uint8)
        codes = room[: values * self._components].reshape(CHUNK_ROWS, channels, self._components)
        wide = room[values * self._components :].view(torch.int16)
        effects = wide[values:].reshape(CHUNK_ROWS, channels, self._effects) if self._effects else None
        return LayerCodes(codes, wide[:values].reshape(CHUNK_ROWS, channels), effects)


def _given_up(chunks: list[_Chunk], layer: str, channels: slice) -> Iterator[LayerCodes]:
    for chunk in chunks:
        part = chunk.part(layer, channels)
        del chunk.layers[layer][channels.start]
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
