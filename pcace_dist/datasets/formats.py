"""What a file is: by its suffix where that tells, else by its first bytes. Pure; no I/O.

A known suffix is trusted here, because the first bytes of every image are checked again when it is packed. Knows
nothing of how an image is decoded.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Encoded: TypeAlias = bytes | memoryview
"""A file's bytes. A JPEG in a writable view is decoded without a copy; for other memory torch would warn."""

ARRAY_BEGIN = b"\x93NUMPY"  # a .npy file
HEAD = 512  # first bytes that tell what a file is
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
CSV_SUFFIXES = (".csv", ".csv.gz")
# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".ico",
)
# their first bytes say TIFF, but Pillow finds only a small preview in them
RAW_SUFFIXES = (
    ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".pef", ".srw", ".raf", ".3fr",
    ".erf", ".kdc", ".mrw",
)
# fmt: on
IDX = re.compile(r"-(images|labels)[-.]idx[13]-ubyte(\.gz)?$")

# The only table of first bytes: the decoder (images.py) uses it too.
BEGINNINGS = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    # libjpeg skips bytes before the first marker; two bytes without such a marker would prove little
    (re.compile(rb"\xff\xd8([^\xff]|\xff+[\x00\x01\xd0-\xd7]){1,64}\xff+[\xc0-\xcf\xdb-\xdd\xe0-\xef\xfe]"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"BM.{8}.{4}[\x0c-\x7c]\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"P[1-6]\s"), "PNM"),
    # where the first brand is only the container's, a later one decides
    (re.compile(rb".{4}ftyp(avi[fs]|(mif1|msf1).{4}(.{4}){0,15}?avi[fs])", re.DOTALL), "AVIF"),
    (re.compile(rb".{4}ftyp(hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xffO\xffQ"), "JPEG 2000"),
    (re.compile(rb"\x00\x00\x01\x00[^\x00]\x00"), "ICO"),
    (re.compile(rb"qoif"), "QOI"),
    (re.compile(rb"PAR1"), "parquet"),
    (re.compile(rb".{257}ustar", re.DOTALL), "tar"),
)
OTHER = ("parquet", "tar")
UNMISTAKABLE = ("JPEG", "PNG", "GIF", "WebP", "TIFF")  # no text begins like these


def format_of(head: bytes) -> str | None:
    """The format of a file that begins with these bytes (JPEG, ..., parquet, tar); None where it is unknown."""
    return next((name for pattern, name in BEGINNINGS if pattern.match(head)), None)


def kind_of_name(name: str) -> str | None:
    """The kind of a file by its name: image, raw, tar, parquet, idx or csv; None where the name does not tell."""
    name = name.rpartition("/")[2].lower()
    if IDX.search(name):
        return "idx"
    for suffixes, kind in (
        (IMAGE_SUFFIXES, "image"),
        (RAW_SUFFIXES, "raw"),
        (TAR_SUFFIXES, "tar"),
        (PARQUET_SUFFIXES, "parquet"),
        (CSV_SUFFIXES, "csv"),
    ):
        if name.endswith(suffixes):
            return kind
    return None


def kind_of_head(head: bytes) -> str | None:
    """The kind of a file by its first bytes: image, tar or parquet; None for anything else."""
    file_format = format_of(head)
    return "image" if file_format and file_format not in OTHER else file_format
