"""Labels as people have them: the same ranking as from class indices, or one line that says what to write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pcace_dist.artifacts.run import Run
from pcace_dist.config.job import parse_job
from pcace_dist.errors import Stopped, UserError
from pcace_dist.run import model_run, read_data
from pcace_dist.run.main_pass import MainPass
from pcace_dist.run.rank import run_job
from tests.digits import bytes_of, digits_job, digits_table, ranked, records
from tests.whole_jobs import in_process

__all__ = ["in_process"]

pytestmark = pytest.mark.usefixtures("in_process")

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ROWS = 400


def write(folder: Path, label: pa.Array | pa.ChunkedArray, names: list[str] | None = None) -> Path:
    """Digits with another column of labels; `names`: as Hugging Face's metadata."""
    table = digits_table(0, len(label)).select(["image", "writer"]).append_column("label", label)
    if names is not None:
        features = {"label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet", row_group_size=100)
    return folder


@pytest.fixture(scope="module")
def digits() -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(digits_table(0, ROWS)["label"].to_numpy(), np.int64)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, digits: np.ndarray, in_process: None) -> Iterator[Run]:
    """The ranking from class indices, by groups."""
    folder = tmp_path_factory.mktemp("plain")
    yield ranked(digits_job(write(folder / "data", pa.array(digits)), folder / "run"))


def job(data: Path, **dataset: Any) -> dict[str, Any]:
    return digits_job(data, data.parent / "run", dataset=dataset)


def refusal(job: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        run_job(parse_job(job))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [pa.uint64(), pa.float32(), pa.int8()], ids=str)
def test_numbers_of_every_type_give_the_same_bytes(
    tmp_path: Path, digits: np.ndarray, plain: Run, kind: pa.DataType
) -> None:
    run = ranked(job(write(tmp_path / "data", pa.array(digits).cast(kind))))
    assert bytes_of(run) == bytes_of(plain)


def test_names_of_classes_give_the_same_bytes(
    tmp_path: Path, digits: np.ndarray, plain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = pa.array([NAMES[digit] for digit in digits]).dictionary_encode()
    run = ranked(job(write(tmp_path / "data", texts), classes=NAMES))
    assert bytes_of(run) == bytes_of(plain)
    assert dict(run.names.names) == dict(enumerate(NAMES))
    assert "pcace: dataset.label: labels are names, in the order of dataset.classes" in capsys.readouterr().err


def test_the_order_of_the_model_is_taken_and_another_one_in_the_data_is_said(
    tmp_path: Path, digits: np.ndarray, plain: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_data, "class_names", lambda *_: dict(enumerate(NAMES)))
    texts = pa.array([NAMES[digit] for digit in digits])
    assert bytes_of(ranked(job(write(tmp_path / "texts" / "data", texts)))) == bytes_of(plain)
    assert "in the order of the model" in capsys.readouterr().err
    named = ranked(job(write(tmp_path / "numbers" / "data", pa.array(digits), sorted(NAMES))))
    assert dict(named.names.names) == dict(enumerate(sorted(NAMES))), "of numbers the data's names are shown"
    assert (
        "pcace: dataset.label: class 0 is 'eight', but the model's output 0 is 'zero' and its 'eight' is output 8: is "
        "the order of the classes that of the model?"
    ) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        (["beach", "street"], ["tench", "goldfish", "shark"], True),
        (["n01440764", "n01443537"], ["tench", "goldfish"], False),  # as many: other words for the same
        (["goldfish", "tench"], ["Goldfish", "tench", "shark"], False),
        ([], ["tench"], False),
    ],
)
def test_classes_none_of_which_the_model_has_are_said(
    data: list[str], model: list[str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    read_data._warn_of_other_classes(dict(enumerate(data)), dict(enumerate(model)), read_data.DATA)
    line = "class 0 is 'beach', the model's output 0 is 'tench', and none of the 2 classes is one of its 3"
    assert (line in capsys.readouterr().err) == said


def test_names_in_a_file_and_the_order_of_the_model(tmp_path: Path, digits: np.ndarray, plain: Run) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    texts = pa.array([NAMES[digit] for digit in digits])
    run = ranked(job(write(tmp_path / "data", texts), classes=str(tmp_path / "names.txt")))
    assert bytes_of(run) == bytes_of(plain)


def test_texts_that_nobody_puts_in_an_order_are_refused(tmp_path: Path, digits: np.ndarray) -> None:
    data = write(tmp_path / "data", pa.array([NAMES[digit] for digit in digits]))
    assert refusal(job(data)) == (
        "dataset.label label: labels are texts, and neither the data nor the model says in which order the model has "
        "their classes; write dataset.classes: [first class, second class, ...], or a file with a line for each"
    )
    assert refusal(job(data, classes=NAMES[:5])).startswith("dataset.label label: label ")
    assert "is no name of a class (a.parquet#" in refusal(job(data, classes=NAMES[:5]))
    assert refusal(job(data, classes=NAMES, label_base=1)) == (
        "dataset.label_base: labels in 'label' are names; leave the key out"
    )


def test_labels_from_1_are_refused_with_the_line_to_write(tmp_path: Path, digits: np.ndarray, plain: Run) -> None:
    data = write(tmp_path / "data", pa.array(digits + 1))
    assert refusal(job(data)) == (
        "dataset.label label: labels run from 1 to 10 and are never 0, but the model's outputs are 0 to 9; if labels "
        "count from 1, write dataset.label_base: 1, else dataset.label_base: 0"
    )
    assert refusal(job(data, label_base=0)).startswith("dataset.label label: label 10 is beyond the model's 10 outputs")
    assert bytes_of(ranked(job(data, label_base=1))) == bytes_of(plain)


def test_labels_from_1_are_noticed_where_the_pilot_does_not_see_the_last(tmp_path: Path, digits: np.ndarray) -> None:
    labels = digits.copy()
    labels[labels == 9] = 8
    labels[-1] = 9
    data = write(tmp_path / "data", pa.array(labels + 1))
    said = refusal(job(data) | {"statistics": {"pilot": 32, "components": 2}})
    assert said.startswith("dataset.label label: labels run from 1 to 10 and are never 0")


def test_rows_without_a_label_are_left_out_counted_and_no_bad_rows(
    tmp_path: Path, digits: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = np.arange(ROWS) % 3 == 0
    labels = pa.array(np.where(np.arange(ROWS) % 2 == 0, -1, digits), mask=missing & (np.arange(ROWS) % 2 == 1))
    labels = pc.if_else(pa.array(missing), labels, pa.array(digits))
    run = ranked(job(write(tmp_path / "some" / "data", labels)) | {"max_bad_rows": 0})
    left = int(missing.sum())
    assert (run.summary["images"], run.summary["bad_rows"], run.summary["unlabelled"]) == (ROWS - left, 0, left)
    assert len(run.bad_rows()) == 0
    receipts = [receipt for body in records(Path(run.path), "accept") for receipt in body["receipts"]]
    assert sum(count["unlabelled"] for receipt in receipts for count in receipt["units"].values()) == left
    labelled = write(tmp_path / "all" / "data", pa.array(digits))
    table = pq.read_table(labelled / "a.parquet").filter(pa.array(~missing))
    pq.write_table(table, labelled / "a.parquet", row_group_size=1000)
    assert bytes_of(ranked(job(labelled))) == bytes_of(run), "as if they were not there"
    from pcace_dist.cli.main import main

    (tmp_path / "job.json").write_text(json.dumps(job(tmp_path / "some" / "data") | {"max_bad_rows": 0}))
    assert main(["rank", str(tmp_path / "job.json")]) == 0
    assert f"left out: {left} rows without a label (label is null or -1)" in capsys.readouterr().out


def test_groups_need_the_label_too(tmp_path: Path, digits: np.ndarray) -> None:
    labels = pa.array(digits, mask=digits == 3)
    asked = job(write(tmp_path / "data", labels)) | {"target": {"logit": 3}, "group_by": "label"}
    run = ranked(asked)
    assert run.summary["unlabelled"] == int((digits == 3).sum())
    assert pc.unique(run.ranking()["group"]).to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_run_that_began_without_a_reading_goes_on_as_it_began(
    tmp_path: Path, digits: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As version 0.1.0: null is a group of its own, and the folders of its files are no columns."""
    labels = pa.array(digits, mask=digits == 3)
    data = write(tmp_path / "data" / "city=bonn", labels).parent
    asked = job(data) | {"target": {"logit": 3}, "group_by": "label", "output": str(tmp_path / "run")}
    asked["statistics"] |= {"keep_codes": True}
    with monkeypatch.context() as patch:
        patch.setattr(model_run, "KEY", "unknown")
        patch.setattr(MainPass, "run", lambda _: (_ for _ in ()).throw(Stopped("as a test wants it")))
        with pytest.raises(Stopped):
            run_job(parse_job(asked))
    run = ranked(asked)
    assert None in pc.unique(run.ranking()["group"]).to_pylist()
    assert (run.summary["images"], run.summary["unlabelled"]) == (ROWS, 0)
    for codes in Path(run.path).glob("attempts/*/codes.parquet"):
        assert "column:city" not in pq.read_schema(codes).names


def test_where_nothing_needs_the_label_every_row_counts(tmp_path: Path, digits: np.ndarray) -> None:
    labels = pa.array([None if digit == 3 else NAMES[digit] for digit in digits])
    run = ranked(job(write(tmp_path / "data", labels)) | {"target": {"logit": 3}})
    assert (run.summary["images"], run.summary["unlabelled"]) == (ROWS, 0)


# -- names


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, in_process: None) -> Iterator[Run]:
    """A run by groups of the label, whose classes the data name."""
    folder = tmp_path_factory.mktemp("named")
    data = write(folder / "data", digits_table(0, 1500)["label"], NAMES)
    targets = [{"logit": "label"}, {"logit": 3, "minus": 5}]
    statistics = {"pilot": 256, "components": 1, "knots": 3}
    yield ranked(job(data) | {"group_by": "label", "target": targets, "statistics": statistics})


def test_the_run_has_the_names_of_the_data(named: Run) -> None:
    assert dict(named.names.names) == dict(enumerate(NAMES))
    assert pq.read_table(f"{named.path}/classes.parquet").to_pylist()[3] == {"index": 3, "name": "three"}


def test_a_group_can_be_asked_for_by_its_name(named: Run) -> None:
    assert named.ranking(group="three") == named.ranking(group=3) == named.ranking(group="3 (three)")
    with pytest.raises(UserError, match=r"no group 'eleven'; there are: 0 \(zero\), 1 \(one\),"):
        named.ranking(group="eleven")
    assert named.ranking(target="logit:3 (three)-5 (five)") == named.ranking(target="logit:3-5")


def test_tables_show_the_names(named: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from pcace_dist.cli.main import main

    assert main(["show", named.path, "--group", "three", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "logit:label, group 3 (three)" in shown
    assert "logit:3 (three)-5 (five), group 3 (three)" in shown


def test_names_do_not_change_the_job(named: Run, tmp_path: Path) -> None:
    """A list of names that are only shown may come later: the run stays what it is."""
    manifest = named.manifest()
    one = job(tmp_path / "data")
    assert parse_job(one).dependent() == parse_job(one | {"dataset": one["dataset"] | {"label_base": 0}}).dependent()
    asked = named.job.model_copy(update={"output": named.path})
    told: list[str] = []
    assert run_job(parse_job(json.loads(asked.model_dump_json()) | {"output": named.path}), tell=told.append) == 0
    with_names = json.loads(asked.model_dump_json())
    with_names["dataset"]["classes"] = [name.upper() for name in NAMES]
    assert run_job(parse_job(with_names), tell=told.append) == 0
    assert [line.partition(",")[2] for line in told] == [" nothing to do"] * 2
    assert named.manifest() == manifest


def test_labels_that_are_read_by_name_keep_their_names(tmp_path: Path, digits: np.ndarray) -> None:
    data = write(tmp_path / "data", pa.array([NAMES[digit] for digit in digits]))
    ranked(job(data, classes=NAMES))
    assert refusal(job(data, classes=NAMES[::-1])) == (
        "dataset.classes: the names of the classes, from dataset.classes, are others than when the run began; use "
        "another output"
    )
