"""One image under a run: contributions against autograd and by replacing maps, percentiles, places, and mistakes."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from pcace_dist.artifacts.run import open_run
from pcace_dist.cli.main import main
from pcace_dist.commands.explain.explain import ExplainSettings, explain
from pcace_dist.commands.explain.explained import ChannelPart, Explained
from pcace_dist.commands.explain.page import folder_of, page
from pcace_dist.config.job import parse_job
from pcace_dist.config.resolve import images_of
from pcace_dist.datasets.images import decode
from pcace_dist.errors import UserError
from pcace_dist.run.rank import run_job
from pcace_dist.statistics.plan import Plan
from tests.planted import png
from tests.reporting.conftest import square_job
from tests.reporting.opened import pixels
from tests.reporting.square import (
    CLS,
    FILE,
    GROUPS,
    PATCH,
    RING,
    SIDE,
    SQUARE,
    square_network,
    square_vit,
    write_squares,
)
from tests.whole_jobs import jobs_without_ray

EMBEDDINGS = "vit.embeddings"
SHARD = FILE.format(0)


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the first shard."""
    data: list[dict[str, Any]] = pq.read_table(run.parent / "data" / SHARD).to_pylist()
    return data


def row_with(run: Path, label: int) -> int:
    return next(number for number, row in enumerate(rows(run)) if row["label"] == label)


def image(run: Path, number: int) -> Tensor:
    """As the model takes it, (1, 1, H, W)."""
    decoded = decode(rows(run)[number]["image"], images_of(open_run(str(run)).job))
    return decoded[None].float() / 255


def explained(run: Path, given: str, **settings: Any) -> Explained:
    return explain(open_run(str(run)), given, ExplainSettings(**settings))


def by_channel(found: Explained, layer: str) -> dict[int, ChannelPart]:
    return {channel.channel: channel for channel in found.channels if channel.layer == layer}


def mean_maps(run: Path, layer: str) -> Tensor:
    opened = open_run(str(run))
    effects = Plan.from_bytes(opened.plan_bytes()).effects
    assert effects is not None
    return effects.layer(layer).mean_of_positions


@pytest.mark.parametrize("label", [0, 1])
def test_contributions_are_those_of_autograd_and_add_up_to_the_models_change(label: int, square_run: Path) -> None:
    number = row_with(square_run, label)
    found = explained(square_run, f"{SHARD}#{number}")
    network = square_network()
    maps = network.look(image(square_run, number)).detach()
    mean = mean_maps(square_run, "look").reshape(maps.shape)
    leaf = maps.clone().requires_grad_()
    logits = torch.stack([-leaf[:, 0].mean(), leaf[:, 0].mean()]) * 100
    logits[label].backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    expected = (leaf.grad * (maps - mean)).sum((0, 2, 3))
    parts = by_channel(found, "look")
    assert len(parts) == 4 and found.channels[0].channel == 0
    for channel, part in parts.items():
        assert part.adds == pytest.approx(float(expected[channel]), abs=1e-4)
        assert part.checked == pytest.approx(float(expected[channel]), abs=1e-4)
        assert part.activation == pytest.approx(float(maps[0, channel].mean()), rel=1e-5)
    (layer,) = found.layers
    at_mean = (1 if label else -1) * 100 * float(mean[0, 0].mean())
    assert found.value is not None
    assert layer.adds == pytest.approx(found.value - at_mean, abs=1e-4)
    assert layer.checked == pytest.approx(layer.adds, abs=1e-4)
    assert found.outputs[0].output == label and found.label == str(label)
    assert sum(output.probability or 0 for output in found.outputs) == pytest.approx(1)


def test_percentiles_are_those_of_the_runs_sample_and_the_planted_channel_is_high(square_run: Path) -> None:
    sample = open_run(str(square_run)).sample()
    assert sample is not None
    means = np.stack(sample["means/look"].to_pylist())
    for label in (0, 1):
        number = row_with(square_run, label)
        parts = by_channel(explained(square_run, f"{SHARD}#{number}"), "look")
        mask = pc.and_(pc.equal(sample["file"], SHARD), pc.equal(sample["row"], number)).to_numpy()
        own = means[mask][0]
        for channel, part in parts.items():
            below, same = (means[:, channel] < own[channel]).mean(), (means[:, channel] == own[channel]).mean()
            assert part.percentile == pytest.approx(100 * (below + same / 2))
        assert (parts[0].percentile > 50) == (label == 1) == (parts[0].tells > 0)


def test_the_page_shows_where_the_planted_square_is(square_run: Path) -> None:
    number = row_with(square_run, 1)
    row = rows(square_run)[number]
    part = by_channel(explained(square_run, f"{SHARD}#{number}"), "look")[0]
    assert part.heat is not None and part.signed is not None
    top, left = np.unravel_index(pixels(part.heat, "RGBA")[..., 3].argmax(), (SIDE, SIDE))
    middle = row["left"] + SQUARE / 2, row["top"] + SQUARE / 2
    assert abs(left - middle[0]) <= 2 and abs(top - middle[1]) <= 2
    red = pixels(part.signed, "RGB")
    reddest = np.unravel_index((red[..., 0] - red[..., 2]).argmax(), (SIDE, SIDE))
    assert abs(reddest[1] - middle[0]) <= RING and abs(reddest[0] - middle[1]) <= RING


def test_a_file_is_explained_as_the_row_is_with_its_class_and_group(square_run: Path, tmp_path: Path) -> None:
    number = row_with(square_run, 1)
    row = rows(square_run)[number]
    (tmp_path / "a.png").write_bytes(row["image"])
    of_file = explained(square_run, str(tmp_path / "a.png"), group=row["region"])
    of_row = explained(square_run, f"{SHARD}#{number}")
    assert of_file.row is None and of_row.row == f"{SHARD}#{number}" and of_row.group == row["region"]
    assert of_file.channels == of_row.channels and of_file.layers == of_row.layers
    assert "without a label the image is taken as what the model says, 1; see --label" in of_file.notes
    other = explained(square_run, str(tmp_path / "a.png"), group=row["region"], label="0")
    assert other.label == "0" and other.value == pytest.approx(-(of_file.value or 0))
    assert not any("--label" in note for note in other.notes)
    row_as_other = explained(square_run, f"{SHARD}#{number}", label="0")
    assert row_as_other.label == "0" and row_as_other.value == other.value
    with pytest.raises(UserError, match=r"--label \*: are 2 labels; choose one"):
        explained(square_run, f"{SHARD}#{number}", label="*")


def test_without_effects_it_says_what_channels_tell(square_run: Path) -> None:
    found = explained(square_run, f"{SHARD}#{row_with(square_run, 1)}", target="column:amount")
    assert found.value is None and found.layers == ()
    assert all(np.isnan(channel.adds) and np.isnan(channel.checked) for channel in found.channels)
    assert found.channels[0].channel == 0 and found.channels[0].tells > 0
    assert any("effect_status of column:amount is not_of_the_model" in note for note in found.notes)
    assert b"Layer by layer" not in page(found)
    assert found.to_json()["channels"][0]["adds"] is None


@pytest.fixture(scope="module")
def vit_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    write_squares(folder / "data", 300)
    model = {"factory": "tests.reporting.square:square_vit", "weights": "factory", "input": {"mode": "L"}}
    changes = {"layers": [EMBEDDINGS], "target": {"logit": 1}, "group_by": None, "effect": {"gradient": "image"}}
    with jobs_without_ray():
        assert run_job(parse_job(square_job(folder / "data", folder / "run", model=model, **changes))) == 0
    return folder / "run"


def embeddings(network: nn.Module, batch: Tensor, change: Any) -> tuple[Tensor, Tensor]:
    """Tokens (1, D, C) with their gradient, and the target with what `change` makes of them."""
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return torch.as_tensor(change(kept[0]))

    handle = network.get_submodule(EMBEDDINGS).register_forward_hook(hook)
    value = network(batch).logits[0, 1]
    handle.remove()
    return kept[0], value


@pytest.mark.jobs
def test_a_vit_by_own_gradients_has_its_patches_and_its_class_token(vit_run: Path) -> None:
    number = row_with(vit_run, 1)
    found = explained(vit_run, f"{SHARD}#{number}", top=100)
    network, batch = square_vit().eval(), image(vit_run, number)
    tokens, value = embeddings(network, batch, lambda own: own)
    value.backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    mean = mean_maps(vit_run, EMBEDDINGS).T[None]  # (1, D, C)
    expected = (tokens.grad * (tokens - mean)).sum((0, 1)).detach()
    parts = by_channel(found, EMBEDDINGS)
    assert found.value == pytest.approx(value.item(), abs=1e-5) and found.target == "logit:1"
    for channel, part in parts.items():
        assert part.adds == pytest.approx(float(expected[channel]), abs=1e-5)
    for channel in (0, 1):

        def without(own: Tensor, channel: int = channel) -> Tensor:
            return torch.where(torch.arange(own.shape[2]) == channel, mean, own)

        _, changed = embeddings(network, batch, without)
        assert parts[channel].checked == pytest.approx((value - changed).item(), abs=1e-5)
    assert found.layers[0].adds == pytest.approx(float(expected.sum()), abs=1e-4)
    assert parts[0].apart == {"CLS": pytest.approx(CLS)}
    row = rows(vit_run)[number]
    square = np.zeros((SIDE, SIDE))
    square[row["top"] : row["top"] + SQUARE, row["left"] : row["left"] + SQUARE] = 1
    covered = square.reshape(SIDE // PATCH, PATCH, -1, PATCH).mean((1, 3))
    assert parts[0].heat is not None
    overlay = pixels(parts[0].heat, "RGBA")[..., 3]
    assert overlay.shape == (4, 4) and covered.flat[overlay.argmax()] == covered.max()


# -- the command


def command(run: Path, *arguments: str) -> int:
    return main(["explain", str(run), *arguments])


class Elements(HTMLParser):
    """Names of a page's elements and of their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_and_json_are_written_and_hostile_names_are_text(
    square_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "<img src=x onerror=hacked()>'\"{{ 7 * 7 }}\x1b[31m.png"
    (tmp_path / name).write_bytes(rows(square_run)[0]["image"])
    assert command(square_run, name, "--group", GROUPS[1], "--out", "out") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "explain.html" in printed
    content = (tmp_path / "out" / "explain.html").read_text()
    elements = Elements(content)
    assert not elements.tags & {"script", "link rel", "iframe", "b"} and "onerror" not in elements.attributes
    assert name in elements.text and GROUPS[1] in elements.text
    assert "default-src 'none'" in content and "http" not in content.replace("http-equiv", "")
    told = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert told["image"] == name and len(told["channels"]) == 4 and "heat" not in told["channels"][0]
    assert set(told["meanings"]) <= set(told["channels"][0])


def test_json_is_printed_and_nothing_is_written(
    square_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(square_run, f"{SHARD}#3", "--json", "--top", "1") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["row"] == f"{SHARD}#3" and len(told["channels"]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given, message",
    [
        ("broken.png", "broken.png: "),
        ("text.png", "text.png: "),
        ("small.png", "small.png: is 8x8 pixels, the run's images are 32x32"),
        ("folder", "folder: "),
        ("nothing.png", "nothing.png: is no file, and no row of the run's data has this id; ids are like part "),
        (f"{SHARD}#300", f"{SHARD}#300: this file has 200 rows, from 0 to 199"),
        (f"{SHARD[:-9]}.parquet#3", "is no file, and no row of the run's data has this id; did you mean part "),
        ("whole.png", "--group: the run has a ranking for each region, and this image's is not known; write --group "),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    given: str,
    message: str,
    square_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = rows(square_run)[0]["image"]
    (tmp_path / "whole.png").write_bytes(whole)
    (tmp_path / "broken.png").write_bytes(whole[:60])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "small.png").write_bytes(png(np.zeros((8, 8), np.uint8)))
    (tmp_path / "folder").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert command(square_run, given, "--out", "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("pcace explain: ") and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_other_weights_are_refused(
    square_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.reporting import square

    other = square_network()
    with torch.no_grad():
        other.look[0].bias.add_(1)  # type: ignore[operator]
    monkeypatch.setattr(square, "square_network", lambda: other)
    assert command(square_run, f"{SHARD}#3", "--json") == 2
    assert "are not the weights that this run ranked" in capsys.readouterr().err


def test_no_picture_where_none_may_be_shown(square_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(square_run, tmp_path / "run"))
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(text.replace("shown: images", "shown: none"))
    found = explained(run, f"{SHARD}#3")
    assert found.picture is None and all(own.heat is own.signed is None for own in found.channels)
    assert b"<img" not in page(found)
    assert any("ranked with `shown: none`" in note for note in found.notes)


def test_the_default_folder_is_named_by_the_image() -> None:
    assert folder_of("s3://bucket/photos/a b.png") == "a_b.png-explained"
    assert folder_of("part-00000.parquet#17") == "part-00000.parquet#17-explained"
