"""Tables fit the terminal: columns go first, then the middle of names; a file or pipe gets everything."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from rich.cells import cell_len

from pcace_dist.progress import table
from pcace_dist.progress.table import Column, Table, cut_names, lines_of, middle_cut, print_records, print_table
from pcace_dist.progress.terminal import Format

BLOCKS = [f"encoder.layers.encoder_layer_{n}.mlp.{part}" for n, part in product(range(12), (0, 3))]

RANKED = Table(
    "logit:label, group 3 (511 images)",
    (
        Column("rank"),
        Column("95 %", drop=1, meaning="95 % of the rank"),
        Column("layer", name=True, among=BLOCKS),
        Column("channel"),
        Column("score"),
        Column("95 %", drop=2, meaning="95 % of the score"),
        Column("status", wide=True),
    ),
    (
        ("1", "1-20", BLOCKS[7], "6", "0.763", "0.721-0.803", "ok"),
        ("2", "1-23", BLOCKS[22], "1012", "0.749", "0.706-0.791", "ok"),
    ),
)


def drawn(width: int | None, *, wide: bool = False) -> str:
    return "\n".join(["", *lines_of(RANKED, width, wide=wide), ""])


def test_eighty_columns_hold_a_ranking() -> None:
    assert (
        drawn(80)
        == drawn(None)
        == """
logit:label, group 3 (511 images)
rank  95 %  layer                                  channel  score         95 %
   1  1-20  encoder.layers.encoder_layer_3.mlp.3         6  0.763  0.721-0.803
   2  1-23  encoder.layers.encoder_layer_11.mlp.0     1012  0.749  0.706-0.791
"""
    )


def test_names_lose_their_middle_and_stay_different_from_all_others() -> None:
    assert (
        drawn(60)
        == """
logit:label, group 3 (511 images)
rank  95 %  layer                channel  score         95 %
   1  1-20  encoder.l…r_3.mlp.3        6  0.763  0.721-0.803
   2  1-23  encoder.l…_11.mlp.0     1012  0.749  0.706-0.791
"""
    )


def test_columns_go_before_names_are_cut_to_little() -> None:
    assert (
        drawn(44)
        == """
logit:label, group 3 (511 images)
rank  95 %  layer             channel  score
   1  1-20  encoder…_3.mlp.3        6  0.763
   2  1-23  encoder…11.mlp.0     1012  0.749
(no room for: 95 % of the score; see --wide)
"""
    )


def test_wide_has_all_columns_and_whole_names() -> None:
    assert (
        drawn(None, wide=True)
        == """
logit:label, group 3 (511 images)
rank  95 %  layer                                  channel  score         95 %  status
   1  1-20  encoder.layers.encoder_layer_3.mlp.3         6  0.763  0.721-0.803      ok
   2  1-23  encoder.layers.encoder_layer_11.mlp.0     1012  0.749  0.706-0.791      ok
"""
    )


@pytest.mark.parametrize("width", range(40, 130))
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    *lines, last = lines_of(RANKED, width)
    assert all(len(line) <= width for line in [*lines, "" if last.startswith("(") else last])


HOSTILE = ["\x1b[31mred", "two\nlines", "x" * 10_000, "x" * 5_000 + "y" + "x" * 5_000, "層" * 300, "", "\u202eevil"]


@pytest.mark.parametrize("width", [None, 40, 80])
def test_names_of_any_text_are_one_line_each(width: int | None) -> None:
    hostile = Table(
        "\x1b]0;title\x07" * 50, (Column("name", name=True), Column("n")), [(name, "1") for name in HOSTILE]
    )
    title, _, *rows = lines_of(hostile, width)
    assert len(rows) == len(HOSTILE) == len(set(rows))
    assert all(line.isprintable() for line in (title, *rows))
    assert max(map(cell_len, (title, *rows))) <= (width or table.LONGEST_NAME + 3)


def test_a_table_without_rows_is_its_heading() -> None:
    assert lines_of(Table("none", (Column("layer", name=True), Column("n")), []), 80) == ["none", "layer  n"]


def test_both_ends_are_kept() -> None:
    assert middle_cut("features.12.conv.weight", 11) == "featu…eight"
    assert middle_cut("層層層層層層", 7) == "層…層" or cell_len(middle_cut("層層層層層層", 7)) <= 7


def test_names_that_differ_in_the_middle_only_get_numbers() -> None:
    assert cut_names(["a" * 20 + c + "z" * 20 for c in "12"], 9) == ["aaa…1…zzz", "aaa…2…zzz"]


def test_records_are_json_or_csv_with_the_values_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [{"layer": "a\nb\x1b", "score": 0.123456789}, {"layer": "c,d", "score": None}]
    print_records(records, Format.JSON)
    assert json.loads(capsys.readouterr().out) == records
    print_records(records, Format.CSV)
    assert capsys.readouterr().out == 'layer,score\n"a\nb\x1b",0.123456789\n"c,d",\n'


def test_a_terminal_that_is_asked_for_csv_obeys_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_records([{"layer": "\x1b[2J"}], Format.CSV)
    assert capsys.readouterr().out == "layer\n\\x1b[2J\n"


def test_a_pipe_has_no_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table("", (Column("name", name=True),), [("x" * 300,)]))
    assert "x" * 300 in capsys.readouterr().out
