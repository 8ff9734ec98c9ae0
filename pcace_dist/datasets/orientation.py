"""The orientation tag of EXIF and TIFF: reading it from a block of tags, and turning pixels as it says.

One reading and one turning for all formats and decoders. A block that is broken, or a value other than 1 to 8, means
pixels as they are stored: the tag says how to look at an image, and no pixel depends on it.
"""

from __future__ import annotations

import struct

import torch

AS_STORED = 1
ORIENTATION = 274
VALUES = {1: "B", 3: "H", 4: "I"}  # types of the tag: byte, short (as EXIF has it) and long
MOST_TAGS = 65_535  # of a block; BigTIFF could claim any number
BYTE_ORDERS = {b"II": "<", b"MM": ">"}
EXIF_BEGIN = b"Exif\0\0"
# What is left to do after height and width were exchanged (5 to 8): the axes of (C, H, W) that are mirrored
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}


def orientation_in(block: bytes) -> int:
    """1 to 8, from an EXIF block or a TIFF file (BigTIFF too); 1 where it does not say or cannot be read."""
    block = block.removeprefix(EXIF_BEGIN)
    order = BYTE_ORDERS.get(block[:2])
    if order is None:
        return AS_STORED
    try:
        return _orientation(block, order)
    except struct.error:  # it ends before its tags do
        return AS_STORED


def _orientation(block: bytes, order: str) -> int:
    big = struct.unpack_from(f"{order}H", block, 2)[0] == 43
    start, count, entry = (
        ("8xQ", "Q", struct.Struct(f"{order}HHQ")) if big else ("4xI", "H", struct.Struct(f"{order}HHI"))
    )
    (at,) = struct.unpack_from(f"{order}{start}", block)
    (tags,) = struct.unpack_from(f"{order}{count}", block, at)
    first, width = at + struct.calcsize(f"{order}{count}"), entry.size + (8 if big else 4)
    for place in range(first, first + width * min(tags, MOST_TAGS), width):
        tag, kind, values = entry.unpack_from(block, place)
        if tag == ORIENTATION:
            if values != 1 or kind not in VALUES:
                return AS_STORED
            (value,) = struct.unpack_from(f"{order}{VALUES[kind]}", block, place + entry.size)
            return int(value) if 1 <= value <= 8 else AS_STORED
    return AS_STORED


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) after turning."""
    return (height, width) if orientation >= 5 else (width, height)


def turned(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """An image (C, H, W) as it is to be looked at. Its memory is then channels-last, as that of a decoded image is."""
    if orientation == AS_STORED:
        return image
    if orientation >= 5:
        image = image.transpose(1, 2)
    image = image.flip(MIRRORED.get(orientation, ()))
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
