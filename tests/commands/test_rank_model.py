"""Models and rows in memory: the same bits as a job over the same rows, a planted truth, and what is refused."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pcace_dist
from pcace_dist.cli.main import main
from pcace_dist.errors import DatasetError, JobError, ModelError, OutputError, PcaceError
from pcace_dist.models import in_memory
from pcace_dist.packing.sources.memory import MemoryRows, encode_image, pack_rows, pairs_of
from pcace_dist.storage.files import Storage

ROWS, SIDE, CLASSES = 240, 10, 4
FAST: dict[str, Any] = {"statistics": {"components": 1, "pilot": 256}, "compute": {"batch": 32}, "workers": {"max": 2}}


class Net(nn.Module):
    """The logits are what channel 2 of `maps` holds, by a head of one weight a class."""

    def __init__(self, planes: int = 3) -> None:
        super().__init__()
        self.maps = nn.Conv2d(planes, 5, 1)
        self.drop = nn.Dropout(0.5)  # of no effect, in eval mode
        self.head = nn.Linear(5, CLASSES, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[:, 2] = torch.arange(1.0, CLASSES + 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.maps(images).mean((2, 3))))
        return logits


def network(planes: int = 3) -> Net:
    torch.manual_seed(7)
    return Net(planes)


def images(planes: int = 3) -> Tensor:
    """Of several brightnesses, so that there is something to tell."""
    generator = torch.Generator().manual_seed(1)
    brightness = torch.randn((ROWS, planes, 1, 1), generator=generator)
    return brightness + 0.3 * torch.randn((ROWS, planes, SIDE, SIDE), generator=generator)


LABELS = torch.arange(ROWS) % CLASSES


def rows() -> list[tuple[Tensor, int]]:
    return list(zip(images(), LABELS.tolist(), strict=True))


def ranking_of(run: pcace_dist.Run) -> bytes:
    return (Path(run.path) / "rankings.parquet").read_bytes()


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PCACE_EXECUTOR", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_bits_are_those_of_a_job_over_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network().train()
    run = pcace_dist.rank_model(net, rows(), layers="maps", output="runs/memory", **FAST)
    save_file(net.state_dict(), "net.safetensors")
    job = run.job.model_dump(mode="json", exclude_unset=True)
    job["model"] |= {"factory": f"{__name__}:network", "weights": "net.safetensors"}
    monkeypatch.setenv("PCACE_EXECUTOR", "inline")
    again = pcace_dist.rank(job | {"output": "runs/job"})
    assert ranking_of(run) == ranking_of(again)
    assert run.summary["images"] == ROWS and run.summary["bad_rows"] == 0


def test_a_planted_channel_and_it_alone_carries_the_output() -> None:
    run = pcace_dist.rank_model(network(), rows(), layers=["maps"], target={"output": 1}, **FAST)
    table = run.ranking()
    by_channel = dict(zip(table["channel"].to_pylist(), table["effect"].to_pylist(), strict=True))
    assert table["rank"].to_pylist()[2] == 1 and table["score"].to_pylist()[2] > 0.99
    assert by_channel == pytest.approx({0: 0, 1: 0, 2: 1, 3: 0, 4: 0}, abs=0.01)


def test_the_model_is_left_as_it_was() -> None:
    net = network().train()
    net.maps.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pcace_dist.rank_model(net, rows(), layers="maps", **FAST)
    assert net.training and net.drop.training and not net.maps.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


class WithoutEnd(Dataset[tuple[Tensor, int]]):
    """A map-style data set whose rows do not end by IndexError."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return images()[row % ROWS], row % CLASSES


def spellings() -> dict[str, Any]:
    data = TensorDataset(images(), LABELS)
    return {
        "list": rows(),
        "generator": iter(rows()),
        "Dataset": data,
        "map-style": WithoutEnd(),
        "DataLoader": DataLoader(data, batch_size=32),
        "batches of arrays": [(images().numpy(), LABELS.numpy())],
        "float64": [(images().double(), LABELS)],
    }


def test_the_same_rows_are_the_same_files_however_they_come(tmp_path: Path) -> None:
    packed = {
        name: pack_rows(MemoryRows.of(dataset, as_images=False), str(tmp_path / "images"), Storage({}))
        for name, dataset in spellings().items()
    }
    assert len({tuple(paths) for paths in packed.values()}) == 1, packed
    assert [path.name for path in (tmp_path / "images").iterdir()] == [Path(packed["list"][0]).name]


def test_rows_need_not_fit_into_memory(tmp_path: Path) -> None:
    """Of a stream of rows, no more than the one in hand is held."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def stream() -> Iterator[tuple[Tensor, int]]:
        nonlocal most
        for row in range(60):
            image = torch.full((3, 200, 200), float(row))
            alive.append(weakref.ref(image))
            most = max(most, sum(reference() is not None for reference in alive))
            yield image, row % 2

    pack_rows(MemoryRows.of(stream(), as_images=False), str(tmp_path), Storage({}))
    assert len(alive) == 60 and most <= 3


def test_images_go_by_the_usual_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL images with `input`: the bits of tensors that torchvision's transforms make of them, but for the folds, which
    are of the bytes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    tensors = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * (1 / 255)).sub(mean.view(3, 1, 1))
    tensors = tensors.div(std.view(3, 1, 1))
    pictures = [(Image.fromarray(image), row % CLASSES) for row, image in enumerate(pixels)]
    settings = {"mean": mean.tolist(), "std": std.tolist()}
    first = pcace_dist.rank_model(network(), pictures, layers="maps", input=settings, **FAST).ranking()
    second = pcace_dist.rank_model(network(), zip(tensors, LABELS, strict=True), layers="maps", **FAST).ranking()
    names = ["channel", "pearson", "score_in_sample", "mean_activation"]
    assert first.select(names).equals(second.select(names))


def test_images_in_memory_are_stored_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    grey = pixels[:, :, 0]
    for image, wanted in [
        (pixels, pixels),
        (torch.from_numpy(pixels).permute(2, 0, 1), pixels),
        (Image.fromarray(pixels), pixels),
        (grey, grey),
        (grey[:, :, None], grey),
        (torch.from_numpy(grey)[None], grey),
    ]:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(image, 0)))), wanted)


def test_numbers_are_a_target_and_groups_go_by_label(capsys: pytest.CaptureFixture[str]) -> None:
    signal = images().mean((1, 2, 3)).tolist()
    run = pcace_dist.rank_model(network(), zip(images(), signal, strict=True), layers="maps", **FAST)
    assert set(run.ranking()["target"].to_pylist()) == {"column:value"}
    assert "target: {'column': 'value'} (assumed" in capsys.readouterr().err
    names = ["a", "b", "c", "d"]
    run = pcace_dist.rank_model(
        network(), rows(), layers="maps", target={"output": 0}, group_by="label", classes=names, **FAST
    )
    assert set(run.ranking(group="b")["group"].to_pylist()) == {1}


def test_a_kept_run_goes_on_and_other_rows_are_refused(tmp_path: Path) -> None:
    net = network()
    kept: dict[str, Any] = {"layers": "maps", "output": "runs/kept"}
    run = pcace_dist.rank_model(net, rows(), **kept, **FAST)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    times = [path.stat().st_mtime_ns for path in files]
    again = pcace_dist.rank_model(net, rows(), **kept, **FAST)
    assert again.path == run.path and sorted(path for path in tmp_path.rglob("*") if path.is_file()) == files
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(OutputError, match="output runs/kept: holds another job"):
        pcace_dist.rank_model(net, rows()[:-1], **kept, **FAST)
    with pytest.raises(OutputError, match="output runs/kept: holds another job"):
        pcace_dist.rank_model(network().requires_grad_(False).apply(_doubled), rows(), **kept, **FAST)


def _doubled(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.mul_(2)


def test_verbs_that_need_the_model_find_it_while_it_lives(capsys: pytest.CaptureFixture[str]) -> None:
    net = network()
    run = pcace_dist.rank_model(net, rows(), layers="maps", output="runs/kept", target={"output": 0}, **FAST)
    assert "maps" in {curves.layer.name for curves in pcace_dist.evaluate(run, draws=2).curves}
    assert not pcace_dist.report(run, synthesis=False, device="cpu").notes
    assert main(["show", run.path, "--top", "1"]) == 0
    del net
    capsys.readouterr()
    assert main(["report", run.path, "--no-synthesis"]) == 0
    assert "no pictures: in-memory:Net-" in capsys.readouterr().out
    assert main(["evaluate", run.path]) == 2
    assert "write model.factory: module:function and model.weights: FILE" in capsys.readouterr().err


# -- what is refused, in one line


def refused(kind: type[PcaceError], line: str, model: Any = None, dataset: Any = None, **keys: Any) -> None:
    with pytest.raises(kind) as error:
        pcace_dist.rank_model(
            network() if model is None else model, rows() if dataset is None else dataset, **{"layers": "maps"} | keys
        )
    assert line in str(error.value) and "\n" not in str(error.value)
    assert error.value._render_traceback_() == [f"{kind.__name__}: {error.value}"]


IMAGE = torch.zeros(3, SIDE, SIDE)
PICTURE = Image.new("RGB", (SIDE, SIDE))


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (3, "is int, which cannot be iterated over"),
        ([], "gives no rows"),
        ([{"image": IMAGE, "label": 0}], "gives mappings (keys image, label); (image, label) pairs"),
        ([(IMAGE, 0, "a.png")], "gives tuples of 3 values"),
        ([(IMAGE, 0), (IMAGE[:, 1:], 1)], "row 1 is of shape (3, 9, 10), the first of (3, 10, 10)"),
        ([(IMAGE[0], 0)], "row 0 is of shape (10, 10), where (C, H, W) is wanted"),
        ([(PICTURE, 0)], "row 0 is a Image; float tensors (C, H, W) are taken as they are, and images with `input`"),
        ([(IMAGE.byte(), 0)], "row 0 is torch.uint8 Tensor"),
        ([(IMAGE, 0), (IMAGE, "dog")], "the label of row 1 is 'dog', the first row's is of type int"),
        ([(IMAGE, None), (IMAGE, 1)], "the label of row 1 is 1, the first row's is None"),
        ([(IMAGE, torch.zeros(4))], "the label of row 0 is of shape (4,)"),
        ([(IMAGE, [1])], "the label of row 0 is a list"),
        ([(IMAGE[None], torch.zeros(2))], "a batch has 1 images and 2 labels"),
    ],
)
def test_rows_that_are_not_taken(dataset: Any, line: str) -> None:
    refused(DatasetError, line, dataset=dataset, target={"output": 0})


def test_images_with_input_that_are_not_taken() -> None:
    refused(DatasetError, "row 0 is torch.float32 Tensor; with `input`, PIL images", dataset=[(IMAGE, 0)], input={})
    wide = np.zeros((SIDE, SIDE, 7), np.uint8)
    refused(DatasetError, "where (H, W) or (H, W, C) is wanted", dataset=[(wide, 0)], input={})


def test_models_and_keys_that_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(ModelError, "is function, not a torch.nn.Module", model=network)
    refused(ModelError, "maps", layers="conv9")
    refused(ModelError, "weight is lazy", model=nn.Sequential(nn.LazyLinear(3)))
    refused(JobError, "the first row has no label; say one", dataset=list(images()))
    refused(JobError, "rank_model: unknown key 'statistcs'; did you mean 'statistics'?", statistcs={})
    unlabelled = {"dataset": list(images()), "target": {"logit": "label"}}
    refused(JobError, "target {logit: label}: needs the class of each row", **unlabelled)
    refused(JobError, "group_by city: rows in memory have the column label", group_by="city")
    refused(JobError, "target column no2: rows in memory have no column", **unlabelled | {"target": {"column": "no2"}})
    patched = network()
    setattr(patched, "forward", lambda image, maps=patched.maps: maps(image))  # noqa: B010 (as users do)
    refused(ModelError, "cannot be copied", model=patched)
    held = network()
    setattr(held, "stream", (row for row in range(3)))  # noqa: B010
    refused(ModelError, "copy.deepcopy raised TypeError", model=held)
    monkeypatch.setenv("PCACE_EXECUTOR", "ray")
    refused(JobError, "is in memory and stays in its process")


def test_a_name_leads_to_a_model_no_longer_than_it_lives() -> None:
    net = network()
    name = in_memory.remember(net, "0123456789abcdef")
    assert name == "in-memory:Net-0123456789ab" and not in_memory.is_gone(name)
    copied = in_memory.recall(name)
    assert copied is not net and torch.equal(copied.state_dict()["maps.weight"], net.maps.weight)
    del net
    assert in_memory.is_gone(name) and not in_memory.is_gone("torchvision:resnet18")
    with pytest.raises(ModelError, match=r"in-memory:Net-0123456789ab: this model was in the memory"):
        in_memory.recall(name)


def test_of_two_models_of_a_name_each_is_enough() -> None:
    first, second = network(), network()
    name = in_memory.remember(first, "00")
    assert in_memory.remember(second, "00") == name
    del second
    assert not in_memory.is_gone(name) and in_memory.recall(name) is not first
    del first
    assert in_memory.is_gone(name)


def test_models_that_are_built_otherwise_are_not_the_same_with_the_same_weights(tmp_path: Path) -> None:
    def built(activation: nn.Module) -> nn.Module:
        net = network()
        return nn.Sequential(net.maps, activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head)

    keys: dict[str, Any] = {"layers": "0", "output": str(tmp_path / "run"), "target": {"logit": 1}}
    relu, tanh = built(nn.ReLU()), built(nn.Tanh())
    ranked = pcace_dist.rank_model(relu, rows(), **keys, **FAST)
    assert pcace_dist.rank_model(built(nn.ReLU()), rows(), **keys, **FAST).path == ranked.path
    refused(OutputError, "holds another job", model=tanh, **keys, **FAST)


def test_pairs_of_images_without_labels() -> None:
    assert [label for _, label in pairs_of(TensorDataset(images()))] == [None] * ROWS
    assert len(list(pairs_of([images()]))) == ROWS


def test_runs_over_the_same_rows_are_compared(tmp_path: Path) -> None:
    one = pcace_dist.rank_model(network(), rows(), layers="maps", **FAST)
    other = network()
    with torch.no_grad():
        other.maps.weight[0] += torch.randn_like(other.maps.weight[0])
    comparison = pcace_dist.compare(one, pcace_dist.rank_model(other, rows(), layers="maps", **FAST), top=2)
    assert comparison.verdict in ("same", "moved") and comparison.channels.num_rows == 5
    assert "other weights" in comparison.notes and not any("other data" in note for note in comparison.notes)


def test_elsewhere_a_run_has_its_model_by_factory_and_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error says is done, and `report` and `evaluate` have the model again."""
    net = network()
    run = pcace_dist.rank_model(net, rows(), layers="maps", output="runs/kept", target={"output": 0}, **FAST)
    save_file(net.state_dict(), "net.safetensors")
    del net
    job = yaml.safe_load(run.job_text())
    job["model"] |= {"factory": f"{__name__}:network", "weights": "net.safetensors"}
    (tmp_path / "runs/kept/job.yaml").write_text(yaml.safe_dump(job))
    monkeypatch.setenv("PCACE_EXECUTOR", "inline")
    assert main(["report", run.path, "--no-synthesis", "--device", "cpu"]) == 0
    assert main(["evaluate", run.path, "--draws", "2"]) == 0
    assert "no pictures" not in capsys.readouterr().out
