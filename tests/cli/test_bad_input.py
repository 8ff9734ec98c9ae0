"""What wrong input gets: exit 2 and one line on stderr that names the key or file, the value and what would do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pcace_dist.cli.main import main
from tests.planted import write_planted

JOB = """
dataset: {{path: {data}, label: label}}
model: {{factory: "tests.planted:planted_network", weights: factory, input: {{mode: L}}}}
layers: all
target: {{column: exponential}}
output: {output}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_planted(folder, 60, shards=2, row_group=20)
    return folder


Refused = Callable[..., str]


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `pcace rank` with overrides and gives the one line on stderr; nothing may be written."""

    def run(*overrides: str) -> str:
        job = tmp_path / "job.yaml"
        job.write_text(JOB.format(data=data, output=tmp_path / "run"))
        arguments = [part for override in overrides for part in ("--set", override)]
        code = main(["rank", str(job), *arguments])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
        return captured.err

    return run


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("dataset.path=nowhere/shards", ["nowhere/shards"]),
        ("dataset.image=picture", ["picture", "image"]),
        ("dataset.label=lable", ["lable", "label"]),
        ("dataset.image=label", ["dataset.image", "label", "int64"]),
        ("dataset.label=exponential", ["dataset.label", "exponential", "number or the name of a class"]),
        ("dataset.filter={label: three}", ["dataset.filter", "label", "three"]),
        ("group_by=borough", ["borough"]),
        ("target={column: no2}", ["no2"]),
        ("target={column: image}", ["image"]),
        ("target={logit: lable}", ["lable", "label"]),
        ("target={output: two}", ["two"]),
        ("target=[{column: square}, {column: square}]", ["column:square", "twice"]),
        ("model.factory=torchvision:resnet19", ["model.factory", "resnet19", "resnet18"]),
        ("model.factory=nomodule:build", ["model.factory", "nomodule"]),
        ("model.factory=tests.planted:planted_netwrk", ["planted_netwrk", "planted_network"]),
        ("model.factory=resnet18", ["model.factory", "resnet18"]),
        ("model.weights=nowhere.safetensors", ["model.weights", "nowhere.safetensors"]),
        ("model.kwargs={depth: 3}", ["model", "depth"]),
        ("layers=[raed]", ["raed", "read"]),
        ("layers=['layer9.*']", ["layer9.*", "read"]),
        ("statistics.knot=9", ["statistics.knot", "knots"]),
        ("dataset.join=other.parquet", ["dataset.join", "kept codes"]),
    ],
)
def test_it_is_named_in_one_line(refused: Refused, override: str, parts: list[str]) -> None:
    line = refused(override)
    for part in parts:
        assert part in line


def test_a_logit_of_a_label_needs_the_label_column(refused: Refused) -> None:
    assert "dataset.label" in refused("dataset.label=null", "target={logit: label}")


def test_an_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(f"dataset.path={tmp_path / 'empty'}")


def test_files_without_rows(refused: Refused, data: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    pq.write_table(pq.read_table(data / "part-00000.parquet").slice(0, 0), tmp_path / "hollow" / "a.parquet")
    assert "no rows" in refused(f"dataset.path={tmp_path / 'hollow'}")


def test_an_unreadable_parquet_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "part-00000.parquet").write_bytes(b"PAR1 but no more")
    assert "part-00000.parquet" in refused(f"dataset.path={tmp_path / 'bad'}")


def test_duplicate_ids_are_named_with_both_places(refused: Refused, data: Path, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    table = pq.read_table(data / "part-00000.parquet")
    ids = [f"photo-{i}" for i in range(len(table))]
    ids[17] = "photo-3"
    pq.write_table(table.append_column("id", pa.array(ids)), tmp_path / "twice" / "a.parquet")
    line = refused(f"dataset.path={tmp_path / 'twice'}", "dataset.id=id")
    assert "photo-3" in line and "a.parquet" in line and "3" in line and "17" in line


def test_weights_of_another_model_name_the_first_few_keys(refused: Refused, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"head.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    line = refused(f"model.weights={tmp_path / 'w.safetensors'}")
    assert "head.weight" in line and "read.weight" in line


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(refused: Refused, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "was-here",))

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil()))
    assert "w.pt" in refused(f"model.weights={tmp_path / 'w.pt'}")
    assert not (tmp_path / "was-here").exists()


def test_a_job_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_show_and_status_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("show", "status"):
        assert main([verb, str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_ok_turns_a_code_into_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "nowhere.yaml", "--ok", "2,4"]) == 0
