"""CSV files as tables that keep what stands in them: a column is of numbers, dates or truth values only where no text
is lost by it. Pure functions of the bytes. Knows nothing of images.

A field that is empty is null; one that is quoted and empty is the empty text. "NA", "null" and the like are text in
columns of text. In a column of numbers or dates they are missing values, and that is said.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from pcace_dist.errors import DatasetError
from pcace_dist.storage.files import first_line

GZIP = b"\x1f\x8b"
LARGEST = 2**31 - 1  # bytes of a block; one block for all, so that the types are those of all rows
EXACT = 2**53  # whole numbers that a float64 tells apart
LEADING_ZERO = r"^[+-]?0[\dxX]"


def read_table(
    data: bytes, source: str, encoding: str, types: Mapping[str, str], paths: str | None = None
) -> tuple[pa.Table, list[str]]:
    """The table, and remarks on columns that may be taken otherwise. `types`: `text` or `number` by column; the column
    `paths` is text.

    Raises DatasetError, one line.
    """
    data = _as_utf8(data, source, encoding)
    inferred = _parsed(data, source, {})
    names = inferred.column_names
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{source}: more than one column {name!r}")
    for name in types:
        if name not in names:
            raise DatasetError(f"--type {name}={types[name]}: {source} has no such column")
    texts = _parsed(data, source, {name: pa.string() for name in names})
    notes: list[str] = []
    wanted = dict(types) if paths is None else {**types, paths: "text"}
    columns = [_column(name, texts[name], inferred[name], wanted.get(name), notes, source) for name in names]
    return pa.table(columns, names=names), notes


def _as_utf8(data: bytes, source: str, encoding: str) -> bytes:
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise DatasetError(f"{source}: broken gzip file") from None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{source}: line {line} is not {encoding} (it holds {data[max(0, error.start - 8) : error.start + 4]!r}); "
            "name the file's encoding, such as --encoding latin-1"
        ) from None
    except (LookupError, UnicodeError):
        raise DatasetError(f"--encoding {encoding}: is not an encoding; name one such as utf-8 or latin-1") from None
    return text.removeprefix("\ufeff").encode()


def _parsed(data: bytes, source: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The table by Arrow: with its types, or with those given, where only a field without quotes may be null."""
    convert = pacsv.ConvertOptions(
        column_types=dict(types),
        null_values=[""] if types else None,
        strings_can_be_null=bool(types),
        quoted_strings_can_be_null=not types,
    )
    whole = pacsv.ReadOptions(block_size=min(LARGEST, max(1 << 20, len(data) + 1)))
    try:
        return pacsv.read_csv(io.BytesIO(data), read_options=whole, convert_options=convert)
    except pa.ArrowException as error:
        raise DatasetError(f"{source}: not a readable CSV file ({first_line(error)})") from None


def _column(
    name: str, text: pa.ChunkedArray, values: pa.ChunkedArray, wanted: str | None, notes: list[str], source: str
) -> pa.ChunkedArray:
    """The column as text, or with Arrow's type where that keeps what the text tells apart."""
    kind = values.type
    if wanted == "number" and not pa.types.is_null(kind):
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DatasetError(f"--type {name}=number: {source} has other values there, such as {_example(text)!r}")
    elif wanted == "text" or pa.types.is_string(kind):
        return text
    elif pa.types.is_null(kind):
        return values if text.null_count == len(text) else text
    elif (lost := _lost(text, values)) is not None:
        notes.append(f"column {name!r} stays text: {lost}; --type {name}=number takes it as numbers")
        return text
    spelled = text.filter(pc.and_(values.is_null(), text.is_valid()))
    if len(spelled):
        notes.append(
            f"column {name!r} is {kind}: {spelled[0].as_py()!r} is taken for missing in {len(spelled):,} rows; "
            f"--type {name}=text keeps it"
        )
    return values


def _lost(text: pa.ChunkedArray, values: pa.ChunkedArray) -> str | None:
    """What the values would not tell any more; None where every two texts stay two values."""
    number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    text = text.filter(values.is_valid())
    values = values.drop_null()
    if number:
        zeros = text.filter(pc.match_substring_regex(text, LEADING_ZERO))
        if len(zeros):
            return f"{zeros[0].as_py()!r} begins with a zero"
    distinct = pc.unique(text)
    if len(distinct) != len(pc.unique(values)):
        return _alike(text, values)
    if pa.types.is_floating(values.type):
        whole = (t for t in distinct.to_pylist() if re.fullmatch(r"[+-]?\d+", t) and abs(int(t)) > EXACT)
        if (long := next(whole, None)) is not None:
            return f"{long!r} is too long for a number"
    return None


def _alike(text: pa.ChunkedArray, values: pa.ChunkedArray) -> str:
    """Two texts that would be one value."""
    first: dict[object, str] = {}
    for word, value in zip(text.to_pylist(), values.to_pylist(), strict=True):
        if first.setdefault(value, word) != word:
            return f"{first[value]!r} and {word!r} would be the same"
    return "two texts would be the same value"


def _example(text: pa.ChunkedArray) -> object:
    """A value that is no number, as far as one of the first tells."""
    words = text.drop_null().slice(0, 1000).to_pylist()
    return next((word for word in words if not re.fullmatch(r"\s*[+-]?[\d.]+(e[+-]?\d+)?\s*", word, re.I)), None)
