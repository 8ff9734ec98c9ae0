"""The header of a JPEG: its size and its EXIF block. Pure; no I/O.

Markers are found as libjpeg finds them (`next_marker` and `read_markers` in jdmarker.c), so that the size that is
checked against the limits is the size that libjpeg decodes:

- bytes before a marker, fill bytes (FF FF) and stuffed zeros (FF 00) are skipped, and so are markers without a body;
- the body of a segment begins two bytes after its length, also where the length says less than 2;
- the first frame header counts. libjpeg refuses a second one, wherever it is;
- where libjpeg gives up (a scan, an end, a second begin or an unknown marker before the frame), so does this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pcace_dist.datasets.formats import Encoded
from pcace_dist.errors import RowError

WITHOUT_BODY = frozenset({0x00, 0xFF, 0x01, *range(0xD0, 0xD8)})  # a stuffed zero, a fill byte, TEM, restarts
MARKER = re.compile(rb"\xff[^\x00\xff\x01\xd0-\xd7]")  # any other; found in one step, however many bytes are before it
# Start-of-frame markers hold the size; C4, C8 and CC are tables and reserved.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
APP1, START_OF_SCAN = 0xE1, 0xDA
# DHT, DAC, DQT, DNL, DRI, APP0 to APP15, COM: the only markers allowed before the frame
SKIPPED = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
EXIF = b"Exif\0\0"


def jpeg_size(data: Encoded) -> tuple[int, int]:
    """(width, height) of the frame that libjpeg would decode. Raises RowError where libjpeg would find none."""
    for marker, at in _segments(data):
        if marker in FRAMES:
            if at + 7 > len(data):
                break
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5])
        if marker not in SKIPPED:
            raise RowError("decode", "broken JPEG (no frame header)")
    raise RowError("decode", "truncated JPEG")


def jpeg_exif(data: Encoded) -> bytes:
    """The first EXIF block before the pixels; empty where there is none."""
    for marker, at in _segments(data):
        end = at + int.from_bytes(data[at : at + 2])
        if marker == APP1 and data[at + 2 : at + 8] == EXIF:
            return bytes(data[at + 8 : end])
        if marker not in SKIPPED and marker not in FRAMES:
            break
    return b""


def _segments(data: Encoded) -> Iterator[tuple[int, int]]:
    """Each marker that has a body, and the offset of the body (it begins with its length)."""
    at = 2
    try:
        while True:
            marker = data[at + 1]
            if data[at] != 0xFF or marker in WITHOUT_BODY:
                match = MARKER.search(data, at)
                if match is None:
                    return
                at = match.start()
                marker = data[at + 1]
            yield marker, at + 2
            length = data[at + 2] << 8 | data[at + 3]
            at += 2 + (length if length > 2 else 2)
    except IndexError:  # the file ends within a marker or a length; suppress() would cost more time than the loop
        return
