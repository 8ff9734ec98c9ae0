"""CSV files as tables without loss: a column becomes numbers, dates or booleans only where different texts stay
different values. Pure functions of the bytes. Knows nothing of images.

An empty field is null; a quoted empty field is the empty text. "NA", "null" and similar words are text in a column of
text, and missing values in a column of numbers or dates; a remark says so.
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
LARGEST = 2**31 - 1  # bytes of a block; the file is one block, so that all rows decide the types
EXACT = 2**53  # up to here, float64 distinguishes all whole numbers
LEADING_ZERO = r"^[+-]?0[\dxX]"


def read_table(
    data: bytes, source: str, encoding: str, types: Mapping[str, str], paths: str | None = None
) -> tuple[pa.Table, list[str]]:
    """The table, and remarks on columns whose type is doubtful. `types`: `text` or `number` by column; the column
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
    types_wanted = dict(types) if paths is None else {**types, paths: "text"}
    columns = [_column(name, texts[name], inferred[name], types_wanted.get(name), notes, source) for name in names]
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
    """The table as Arrow reads it: with the types that it infers; or with `types`, where only a field without quotes
    can be null."""
    convert = pacsv.ConvertOptions(
        column_types=dict(types),
        null_values=[""] if types else None,
        strings_can_be_null=bool(types),
        quoted_strings_can_be_null=not types,
    )
    one_block = pacsv.ReadOptions(block_size=min(LARGEST, max(1 << 20, len(data) + 1)))
    try:
        return pacsv.read_csv(io.BytesIO(data), read_options=one_block, convert_options=convert)
    except pa.ArrowException as error:
        raise DatasetError(f"{source}: not a readable CSV file ({first_line(error)})") from None


def _column(
    name: str, text: pa.ChunkedArray, values: pa.ChunkedArray, type_wanted: str | None, notes: list[str], source: str
) -> pa.ChunkedArray:
    """The column as text, or with Arrow's type where different texts stay different values."""
    inferred_type = values.type
    if type_wanted == "number" and not pa.types.is_null(inferred_type):
        if not (pa.types.is_integer(inferred_type) or pa.types.is_floating(inferred_type)):
            raise DatasetError(f"--type {name}=number: {source} has other values there, such as {_example(text)!r}")
    elif type_wanted == "text" or pa.types.is_string(inferred_type):
        return text
    elif pa.types.is_null(inferred_type):
        return values if text.null_count == len(text) else text
    elif (lost := _lost(text, values)) is not None:
        notes.append(f"column {name!r} stays text: {lost}; --type {name}=number takes it as numbers")
        return text
    missing = text.filter(pc.and_(values.is_null(), text.is_valid()))
    if len(missing):
        notes.append(
            f"column {name!r} is {inferred_type}: {missing[0].as_py()!r} is taken for missing in {len(missing):,} "
            f"rows; --type {name}=text keeps it"
        )
    return values


def _lost(text: pa.ChunkedArray, values: pa.ChunkedArray) -> str | None:
    """What would be lost if the texts became `values`; None where different texts stay different values."""
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
        whole_numbers = (t for t in distinct.to_pylist() if re.fullmatch(r"[+-]?\d+", t) and abs(int(t)) > EXACT)
        if (too_long := next(whole_numbers, None)) is not None:
            return f"{too_long!r} is too long for a number"
    return None


def _alike(text: pa.ChunkedArray, values: pa.ChunkedArray) -> str:
    """Names two texts that would become the same value."""
    first_text: dict[object, str] = {}
    for text_value, value in zip(text.to_pylist(), values.to_pylist(), strict=True):
        if first_text.setdefault(value, text_value) != text_value:
            return f"{first_text[value]!r} and {text_value!r} would be the same"
    return "two texts would be the same value"


def _example(text: pa.ChunkedArray) -> object:
    """The first value that is no number, among the first 1,000; None where there is none."""
    words = text.drop_null().slice(0, 1000).to_pylist()
    return next((word for word in words if not re.fullmatch(r"\s*[+-]?[\d.]+(e[+-]?\d+)?\s*", word, re.I)), None)
