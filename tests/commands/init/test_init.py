"""`pcace init`: what it finds in models and data, what it writes, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
import yaml
from torch import nn

from pcace_dist.cli.main import main
from pcace_dist.commands.init import text
from pcace_dist.commands.init.data import look_at_data
from pcace_dist.commands.init.init import Wishes, _statistics, write_job
from pcace_dist.commands.init.model import _layers, default_weights
from pcace_dist.config.job import Job, load_job_file
from pcace_dist.errors import OutputError, UserError
from pcace_dist.storage.files import Storage
from tests.digits import MNIST, digits_table, write_digits
from tests.models.library_models import small_timm, vit

NET = ("--factory", "examples.mnist.model:mnist_cnn", "--weights", str(MNIST / "weights.safetensors"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(*options: str, data: Path | str) -> Job:
    assert main(["init", *NET, "--data", str(data), *options]) == 0
    return load_job_file("job.yaml")


def test_digits_in_parquet(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 300)
    job = written(data=tmp_path / "data")
    assert (job.dataset.label, job.targets[0].name, job.model.input.mode) == ("label", "logit:label", "L")
    assert job.model.input.resize is None, "all images are of one size, and the model takes it"
    assert job.layers == ["conv3"]
    said = Path("job.yaml").read_text()
    assert "# fold_by: writer " in said and "# target: {column: " in said and "300 rows of Parquet" in said


def test_the_schema_lies_beside_the_job_and_takes_it(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 300)
    written(data=tmp_path / "data")
    first = Path("job.yaml").read_text().splitlines()[0]
    schema = json.loads(Path(first.partition("$schema=")[2]).read_text())
    jsonschema.validate(yaml.safe_load(Path("job.yaml").read_text()), schema)


def test_folders_that_are_columns(tmp_path: Path) -> None:
    table = digits_table(0, 120).drop_columns(["label"])
    for label, place in enumerate(("bonn", "kiel")):
        folder = tmp_path / f"data/label={label}/place={place}"
        folder.mkdir(parents=True)
        pq.write_table(table.slice(60 * label, 60), folder / "part.parquet")
    job = written(data=tmp_path / "data")
    said = Path("job.yaml").read_text()
    assert job.dataset.label == "label" and "(0 to 1)" in said
    assert "# fold_by: place " in said and "place (string)" in said


def test_few_images_get_fewer_components(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 70)
    assert written(data=tmp_path / "data").statistics.components == 3


@pytest.mark.parametrize(
    "rows, layers, pilot",
    [(65_000, "conv3", None), (100_000, "conv3", 3125), (10**6, "conv3", 8192), (10**6, "all", None)],
)
def test_many_images_get_a_larger_pilot(tmp_path: Path, rows: int, layers: str, pilot: int | None) -> None:
    write_digits(tmp_path / "data", 120)
    data = replace(look_at_data(str(tmp_path / "data"), Storage({}), str(tmp_path)), rows=rows)
    said = yaml.safe_load(_statistics(data, [layers]) or "{}")
    assert said.get("statistics") == (None if pilot is None else {"pilot": pilot})


def test_what_is_said_is_taken(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 120)
    options = ("--label", "none", "--layers", "all", "--target", "{column: ink}", "--output", "runs/mine")
    job = written(*options, data=tmp_path / "data")
    assert (job.dataset.label, job.layers, job.targets[0].name) == (None, ["all"], "column:ink")
    assert job.output == "runs/mine"


def test_a_csv_with_paths(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rows = digits_table(0, 60).select(["image", "label"]).to_pylist()
    for number, row in enumerate(rows):
        (folder / f"{number}.png").write_bytes(row["image"]["bytes"])
    lines = [f"{number}.png,{row['label']},{number * 0.5}" for number, row in enumerate(rows)]
    (folder / "list.csv").write_text("\n".join(["file,label,price", *lines]) + "\n")
    job = written(data=folder / "list.csv")
    assert (job.dataset.image, job.dataset.label) == ("file", "label")
    assert "price" in Path("job.yaml").read_text()


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_digits(tmp_path / "data", 120)
    Path("job.yaml").write_text("mine")
    command = ["init", *NET, "--data", str(tmp_path / "data")]
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err and Path("job.yaml").read_text() == "mine"
    assert main([*command, "--force"]) == 0 and load_job_file("job.yaml")


@pytest.mark.parametrize(
    "options, line",
    [
        (["--data", "nowhere"], "--factory: is needed"),
        ([*NET], "--data: is needed"),
        ([*NET, "--data", "nowhere"], "nowhere"),
        ([*NET, "--data", ".", "--kwargs", "3"], "--kwargs 3: is not a mapping"),
    ],
)
def test_what_is_missing_is_one_line(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(["init", *options]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and not Path("job.yaml").exists()


def test_a_terminal_is_asked_with_the_defaults(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 120)
    asked: dict[str, str] = {}

    def ask(question: str, default: str) -> str:
        asked[question] = default
        return {"Column": "none", "Which": "all"}.get(question.split()[0], default)

    wishes = Wishes(NET[1], str(tmp_path / "data"), {}, weights=NET[3])
    write_job(wishes, "job.yaml", ask=ask)
    assert len(asked) == 4 and asked["Where the results go"] == "runs/job"
    assert load_job_file("job.yaml").dataset.label is None


def test_hostile_names_stay_in_their_comments(tmp_path: Path) -> None:
    table = digits_table(0, 60).select(["image", "label"])
    table = table.append_column("x\noutput: /etc", pa.array([1.5] * 60)).append_column("a: #b", pa.array([1] * 60))
    pq.write_table(table, tmp_path / "data.parquet")
    assert written(data=tmp_path / "data.parquet").output == "runs/job"


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 60)
    with pytest.raises(UserError, match="labl"):
        write_job(Wishes(NET[1], str(tmp_path / "data"), {}, weights=NET[3], label="labl"), "job.yaml")
    with pytest.raises(OutputError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        write_job(Wishes(NET[1], str(tmp_path / "data"), {}, weights=NET[3]), "file/job.yaml")


def test_data_without_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "data.parquet")
    with pytest.raises(UserError, match=r"no column of data\.parquet holds images"):
        look_at_data(str(tmp_path / "data.parquet"), Storage({}), str(tmp_path))


@pytest.mark.parametrize(
    "model, layers",
    [
        (torchvision.models.resnet18(), ["layer4.*"]),
        (torchvision.models.vgg11(), ["features.*"]),
        (torchvision.models.vgg16(), ["features.28"]),
        (torchvision.models.vit_b_16(), ["encoder.layers.encoder_layer_11.mlp.0"]),
        (small_timm(), ["layer4.*"]),
        (vit(), ["vit.layers.1.mlp.fc1"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), ["1"]),
    ],
    ids=["resnet18", "vgg11", "vgg16", "vit_b_16", "timm", "vit", "mlp"],
)
def test_layers_to_begin_with(model: nn.Module, layers: list[str]) -> None:
    assert _layers(model, head=0)[0] == layers


def test_weights_to_begin_with() -> None:
    assert default_weights("torchvision:resnet18", {}) == "random"
    assert default_weights("torchvision:resnet18", {"weights": "DEFAULT"}) == "factory"
    assert default_weights("timm:create_model", {"pretrained": False}) == "random"
    assert default_weights("transformers:AutoModel.from_pretrained", {}) == "factory"
    assert default_weights("mynet:build", {}) == "factory"


def test_lines_of_a_job_are_read_back() -> None:
    assert yaml.safe_load(text.line("path", "a#b: c", "1 # 2")) == {"path": "a#b: c"}
    assert yaml.safe_load(text.line("layers", ["*.fc", "!x"], "globs")) == {"layers": ["*.fc", "!x"]}
    assert text.comment("a\nb: c") == "# a\\nb: c"
