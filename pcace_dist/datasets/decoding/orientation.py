"""The orientation tag of EXIF and TIFF: reads it from a block of tags, and turns pixels as it says.

The same functions serve all formats and decoders. With a broken block, or a value other than 1 to 8, pixels stay as
stored: the tag says how to show an image, and no pixel depends on it.
"""

from __future__ import annotations

import struct

import torch

AS_STORED = 1
ORIENTATION = 274
VALUES = {1: "B", 3: "H", 4: "I"}  # types of the tag: byte, short (as EXIF has it) and long
MOST_TAGS = 65_535  # in a block; BigTIFF could claim any number
BYTE_ORDERS = {b"II": "<", b"MM": ">"}
EXIF_BEGIN = b"Exif\0\0"
# The axes of (C, H, W) to mirror; for 5 to 8, after height and width were exchanged
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}


def orientation_in(block: bytes) -> int:
    """The orientation, 1 to 8, from an EXIF block or a TIFF file (BigTIFF too); 1 if there is none or it is broken."""
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
    for offset in range(first, first + width * min(tags, MOST_TAGS), width):
        tag, value_type, value_count = entry.unpack_from(block, offset)
        if tag == ORIENTATION:
            if value_count != 1 or value_type not in VALUES:
                return AS_STORED
            (value,) = struct.unpack_from(f"{order}{VALUES[value_type]}", block, offset + entry.size)
            return int(value) if 1 <= value <= 8 else AS_STORED
    return AS_STORED


def turned_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) after turning."""
    return (height, width) if orientation >= 5 else (width, height)


def turned(image: torch.Tensor, orientation: int) -> torch.Tensor:
    """An image (C, H, W) turned for viewing. Its memory is then channels-last, like that of a decoded image."""
    if orientation == AS_STORED:
        return image
    if orientation >= 5:
        image = image.transpose(1, 2)
    image = image.flip(MIRRORED.get(orientation, ()))
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
