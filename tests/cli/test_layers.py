"""`pcace layers`: the table in 80 columns, JSON, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcace_dist import layers
from pcace_dist.cli.layers import _short
from pcace_dist.cli.main import main
from tests.models.library_models import FROM_PRETRAINED, TIMM, saved_processor, saved_vit, vit

JOB = Path(__file__).resolve().parents[2] / "examples/mnist/job.yaml"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcace_dist.cli.layers._width", lambda: 80)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcace_dist.cli.layers._width", lambda: 400)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["layers", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["layers", *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "model",
    [
        ["torchvision:resnet18", "--size", "64"],
        ["torchvision:densenet121", "--size", "64"],
        ["timm:create_model", "--kwargs", "{model_name: vit_tiny_patch16_224, img_size: 32}", "--size", "32"],
        [str(JOB)],
    ],
    ids=lambda model: str(model[0]),
)
def test_the_table_fits_80_columns_and_no_name_is_cut(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *model).splitlines()
    assert max(map(len, lines)) <= 80
    table = lines[lines.index("") + 2 : len(lines) - lines[::-1].index("") - 1]
    names = {line.split()[0] for line in table if not line.startswith(" ")}
    assert main(["layers", *model, "--json"]) == 0
    assert names == {layer["glob"] for layer in json.loads(capsys.readouterr().out)["layers"]}


def test_a_resnet_says_what_all_takes_and_which_globs_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "torchvision:resnet18", "--size", "64x96")
    assert "ResNet: 11,689,512 parameters; maps of images of 3 x 64 x 96 (--size)" in text
    assert "layers: all takes 20 layers, 4,800 channels" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("layer4.*.conv2"))
    assert row == ["layer4.*.conv2", "Conv2d", "2", "512", "2x3", "BCHW", "4,718,592", "all"]


@pytest.mark.usefixtures("wide")
def test_a_transformer_says_what_its_tokens_are_and_what_all_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = saved_vit(tmp_path)
    saved_processor(tmp_path, "ViTImageProcessor", size={"height": 32, "width": 32})
    text = printed(capsys, FROM_PRETRAINED, "--kwargs", json.dumps({"pretrained_model_name_or_path": place}))
    assert f"maps of images of 3 x 32 x 32 (transformers' ViTImageProcessor of {place})" in text
    assert "layers: all takes 1 layer, 16 channels" in text
    assert "it leaves out linear layers on tokens or maps: vit.layers.*.attention.q_proj, " in text
    assert "transformer: 17 tokens of 16 channels: 4 x 4 patches, 1 before them; position 0 of a map is the CLS" in text
    assert "heads: 2 of 8 channels" in text and "MLP: 24 channels; layers: vit.layers.*.mlp.fc1" in text
    assert "classes: 3, from cat to cow" in text


def test_a_jobs_layers_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, str(JOB), "--set", "layers=conv2", "--json"))
    assert [layer["name"] for layer in found["layers"] if layer["job"]] == ["conv2"]
    assert [layer["name"] for layer in found["layers"] if layer["all"]] == ["conv1", "conv2", "conv3"]
    assert found["size"] == [1, 28, 28] and found["images"].startswith("a guess")


def test_the_models_own_preprocessing_says_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = ("--kwargs", f"{{model_name: {TIMM}}}")
    found = json.loads(printed(capsys, "timm:create_model", *kwargs, "--json"))
    assert found["size"] == [3, 160, 160] and found["images"] == "timm's data config of test_resnet"
    assert json.loads(printed(capsys, "timm:create_model", *kwargs, "--size", "32", "--json"))["size"] == [3, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet18"], "resnet18: is neither a job file (.yaml, .yml, .json) nor a factory"),
        (["torchvision:resnet81"], "has no model 'resnet81'; nearest: "),
        (["torchvision:resnet18", "--kwargs", "18"], "--kwargs 18: is not a mapping"),
        (["torchvision:resnet18", "--kwargs", "{a: "], "--kwargs: line 1 is not valid YAML"),
        (["torchvision:resnet18", "--set", "a=1"], "--set: is for a job file; of a factory use --kwargs"),
        ([str(JOB), "--kwargs", "{}"], "--kwargs: is for a factory; of a job file use --set"),
        (["no/such.yaml"], "no/such.yaml: cannot read the job file"),
        ([str(JOB), "--set", "layers=conv9"], "layers 'conv9': matches no module of the model"),
        ([str(JOB), "--size", "12"], "the model fails on images of shape (1, 12, 12)"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *arguments)


def test_a_size_is_a_number_or_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["layers", str(JOB), "--size", "big"])
    assert "write a number of pixels as 224, or height and width as 224x320" in capsys.readouterr().err


def test_in_python_a_model_in_memory_is_left_as_it_is() -> None:
    model = vit().train()
    model.get_submodule("vit.layernorm").eval()
    found = layers(model, size=32)
    assert model.training and not model.get_submodule("vit.layernorm").training
    assert found.transformer is not None and found.transformer.tokens == 17
    assert layers(model).size == (3, 32, 32)  # the first that it takes


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (9408, "9.4k"), (11_689_512, "11.7M")])
def test_numbers_are_short_in_a_narrow_table(number: int, text: str) -> None:
    assert _short(number) == text
