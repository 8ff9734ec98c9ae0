"""CSV columns: numbers, dates and truth values only where no text is lost by it; null is an empty field."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcace_dist.errors import DatasetError
from pcace_dist.packing.csv_table import read_table


def column(*fields: str, encoding: str = "utf-8", **types: str) -> tuple[pa.ChunkedArray, list[str]]:
    """The column `x` of these fields, as they stand in the file."""
    text = "x,y\n" + "".join(f"{cell},.\n" for cell in fields)
    table, notes = read_table(text.encode(encoding), "list.csv", encoding, types)
    return table["x"], notes


@pytest.mark.parametrize(
    ("fields", "values", "kind"),
    [
        (["NA", "DE", "FR"], ["NA", "DE", "FR"], pa.string()),
        (["null", "NaN", "None"], ["null", "NaN", "None"], pa.string()),
        (["a", "", '""'], ["a", None, ""], pa.string()),
        (["0007", "0012"], ["0007", "0012"], pa.string()),
        (["7", "12", ""], [7, 12, None], pa.int64()),
        (["1.5", "2", "-3e-2"], [1.5, 2.0, -0.03], pa.float64()),
        (["1.1", "1.10"], ["1.1", "1.10"], pa.string()),
        (["0x10", "0x11"], ["0x10", "0x11"], pa.string()),
        (["12345678901234567890", "1.5"], ["12345678901234567890", "1.5"], pa.string()),
        (["true", "false"], [True, False], pa.bool_()),
        (["true", "TRUE"], ["true", "TRUE"], pa.string()),
        (["NA", "NA"], ["NA", "NA"], pa.string()),
        (["", ""], [None, None], pa.null()),
    ],
)
def test_values_keep_what_their_text_tells(fields: list[str], values: list[Any], kind: pa.DataType) -> None:
    typed, _ = column(*fields)
    assert typed.to_pylist() == values and typed.type == kind


def test_what_is_assumed_is_said_and_can_be_told_otherwise() -> None:
    typed, notes = column("1.5", "NA", "3")
    assert typed.to_pylist() == [1.5, None, 3.0]
    assert notes == ["column 'x' is double: 'NA' is taken for missing in 1 rows; --type x=text keeps it"]
    assert column("1.5", "NA", "3", x="text")[0].to_pylist() == ["1.5", "NA", "3"]
    typed, notes = column("0007", "0012")
    assert notes == ["column 'x' stays text: '0007' begins with a zero; --type x=number takes it as numbers"]
    assert column("0007", "0012", x="number")[0].to_pylist() == [7, 12]
    assert column("1.1", "1.10")[1][0].startswith("column 'x' stays text: '1.1' and '1.10' would be the same;")


def test_types_are_those_of_all_rows() -> None:
    rows = ["1"] * 300_000 + ["one"]  # beyond the first megabyte, by which Arrow alone would judge
    assert column(*rows)[0][-1].as_py() == "one"


CELLS = st.sampled_from(
    [
        *("", "NA", "null", "nan", "0", "7", "07", "-1", "+3", "1.0", "1.5", "1.50", "1e3", "true", "True", "abc"),
        *("2024-01-02", "10:30", "2024-01-02 10:30", "2024-01-02 10:30:00", "12345678901234567890", "0x1F", " 5"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELLS, st.booleans()), min_size=1, max_size=6))
def test_two_texts_never_become_one_value(cells: list[tuple[str, bool]]) -> None:
    fields = [f'"{text}"' if quoted else text for text, quoted in cells]
    typed, notes = column(*fields)
    by_value: dict[object, str] = {}
    for (text, quoted), value in zip(cells, typed.to_pylist(), strict=True):
        if value is None:
            assert text == "" or any("is taken for missing in" in note for note in notes), (text, quoted)
            continue
        assert by_value.setdefault((type(value), value), text) == text
        if typed.type == pa.string():
            assert value == text
        elif typed.type == pa.int64():
            assert str(value) == text.strip(" +")


@given(st.lists(st.text("aé07,;\" 'N", max_size=4), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_text_comes_back_as_it_was(words: list[str]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([["x"], *([word] for word in words), ["word"], ["other"]])
    table, _ = read_table(buffer.getvalue().encode(), "list.csv", "utf-8", {})
    assert table["x"].to_pylist() == [*words, "word", "other"]


def test_other_encodings_are_named_not_guessed() -> None:
    data = "x\nBern\nZürich\n".encode("latin-1")
    with pytest.raises(DatasetError, match=r"^list\.csv: line 3 is not utf-8 .*; name the file's encoding"):
        read_table(data, "list.csv", "utf-8", {})
    assert read_table(data, "list.csv", "latin-1", {})[0]["x"].to_pylist() == ["Bern", "Zürich"]
    for encoding in ("utf-8-sig", "utf-16"):
        read, _ = read_table("x\nZürich\n".encode(encoding), "list.csv", encoding.removesuffix("-sig"), {})
        assert read["x"].to_pylist() == ["Zürich"]
    with pytest.raises(DatasetError, match=r"^--encoding klingon: is not an encoding"):
        read_table(data, "list.csv", "klingon", {})


@pytest.mark.parametrize(
    ("data", "types", "message"),
    [
        (b"x,x\n1,2\n", {}, r"more than one column 'x'$"),
        (b"x\n1\n", {"y": "text"}, r"^--type y=text: list\.csv has no such column$"),
        (b"x\none\n", {"x": "number"}, r"^--type x=number: list\.csv has other values there, such as 'one'$"),
        (gzip.compress(b"x\n1\n")[:-6], {}, r"broken gzip file$"),
        (b"", {}, r"not a readable CSV file \("),
        (b"a,b\n1\n", {}, r"not a readable CSV file \("),
    ],
)
def test_files_that_will_not_do(data: bytes, types: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_table(data, "list.csv", "utf-8", types)
