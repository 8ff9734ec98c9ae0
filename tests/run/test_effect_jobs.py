"""Effects in whole jobs: against an independent implementation, and the same bits however the work is split."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from examples.mnist.model import mnist_cnn
from pcace_dist.artifacts.plan_store import plan_of_run
from pcace_dist.artifacts.run import Run
from pcace_dist.config.job import Job, parse_job
from pcace_dist.errors import JobError, ModelError, Stopped
from pcace_dist.run.rank import run_job
from pcace_dist.storage.files import Storage
from pcace_dist.worker.effects import pilot as effect_pilot
from tests.digits import MNIST, bytes_of, digits_job, digits_table, ranked, records, write_digits

ROWS = 1200
FILES = ("rankings.parquet", "jackknife.parquet")

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects") / "data"
    write_digits(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def finished(in_process: None, data: Path) -> Run:
    """A run of two workers' units in one piece."""
    return ranked(digits_job(data, data.parent / "finished"))


@pytest.fixture
def many_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")
    yield


def effects_of(run: Run, **selection: Any) -> pa.Table:
    return run.ranking(**selection)


def statuses(run: Run, **selection: Any) -> set[str]:
    return set(run.ranking(**selection)["effect_status"].to_pylist())


class PlainEffects:
    """Effects from whole arrays in float64, by autograd, with nothing of this package but the example's network."""

    def __init__(self, rows: int) -> None:
        self.model = nn.Sequential(OrderedDict(mnist_cnn().named_children())).double().eval()
        self.model.load_state_dict(load_file(MNIST / "weights.safetensors"))
        table = digits_table(0, rows)
        stored = table["image"].combine_chunks()
        blobs = stored.field("bytes").to_pylist() if pa.types.is_struct(stored.type) else stored.to_pylist()
        images = np.stack([np.asarray(Image.open(BytesIO(blob)).convert("L")) for blob in blobs])
        self.images = (torch.from_numpy(images)[:, None].double() / 255 - 0.1307) / 0.3081
        self.labels = torch.from_numpy(table["label"].to_numpy().copy())

    def own_gradients(self, layer: str, drawn: np.ndarray) -> np.ndarray:
        """Effects (C,) of logit:predicted by every image's own gradient. drawn: rows of the pilot."""
        behind = [name for name, _ in self.model.named_children()].index(layer) + 2
        maps = self.model[:behind](self.images).detach().requires_grad_()
        outputs = self.model[behind:](maps).amax(1)
        (gradients,) = torch.autograd.grad(outputs.sum(), maps)
        steps = -(-maps.shape[-1] // 14)
        blocks = nn.functional.avg_pool2d(maps.detach()[drawn].mean(0), steps)  # the mean map is kept in blocks
        mean = blocks.repeat_interleave(steps, 1).repeat_interleave(steps, 2)
        along, y = ((maps.detach() - mean) * gradients).sum((2, 3)), outputs.detach() - outputs.detach().mean()
        return np.asarray(((along * y[:, None]).mean(0) / y.square().mean()).numpy())

    def of(self, layer: str, drawn: np.ndarray, *, steps: int, own_class: bool = True) -> np.ndarray:
        """Effects (C,) of the layer's channels behind its activation. drawn: rows of the pilot; the first 64 of each
        class among them give its axis. steps: edge of the blocks on which axes are constant."""
        names = [name for name, _ in self.model.named_children()]
        behind = names.index(layer) + 2
        maps = self.model[:behind](self.images).detach().requires_grad_()
        keys = self.labels if own_class else torch.zeros_like(self.labels)
        outputs = self.model[behind:](maps).gather(1, (self.labels if own_class else keys + 3)[:, None])[:, 0]
        (gradients,) = torch.autograd.grad(outputs.sum(), maps)
        blocks = nn.functional.avg_pool2d(gradients, steps)
        axes = torch.zeros(10, *blocks.shape[1:], dtype=torch.float64)
        for key in torch.unique(keys).tolist():
            axes[key] = blocks[[row for row in drawn if keys[row] == key][:64]].mean(0)
        wide = axes.repeat_interleave(steps, 2).repeat_interleave(steps, 3)[keys]
        apart = maps.detach() - maps.detach()[drawn].mean(0)
        along, y = (apart * wide).sum((2, 3)), outputs.detach() - outputs.detach().mean()
        return np.asarray(((along * y[:, None]).mean(0) / y.square().mean()).numpy())


def test_effects_are_those_of_an_independent_implementation(finished: Run) -> None:
    plain = PlainEffects(ROWS)
    pilot = (np.arange(256) * 2 + 1) * ROWS // 512
    for layer, steps in (("conv1", 2), ("conv2", 1)):
        found = np.array(finished.ranking(layer=layer)["effect"].to_pylist(), float)
        expected = plain.of(layer, pilot, steps=steps)
        assert np.abs(found - expected).max() < 3e-4 < 0.05 < np.abs(expected).max(), layer
    assert statuses(finished) == {"ok"}


def test_one_target_of_the_model_has_one_axis(data: Path, tmp_path: Path) -> None:
    run = ranked(digits_job(data, tmp_path / "run", target={"logit": 3}))
    found = np.array(run.ranking(layer="conv2")["effect"].to_pylist(), float)
    pilot = (np.arange(256) * 2 + 1) * ROWS // 512
    assert np.abs(found - PlainEffects(ROWS).of("conv2", pilot, steps=1, own_class=False)).max() < 3e-4
    plan = plan_of_run(run.path, Storage({}))
    assert plan.effects is not None and plan.effects.targets[0].images == (64,)
    said = run.summary["effect"]
    assert said["at"] == {"conv1": "relu1", "conv2": "relu2"} and said["gradient"] == "mean" and said["note"] is None
    assert said["targets"] == {"logit:3": {"of": "logit:3", "axes_by": "one", "axes": 1, "images": [64, 64]}}
    assert said["bytes"] == plan.effects.nbytes > 4 * (8 * 144 + 16 * 100)


def test_columns_hold_together(finished: Run) -> None:
    table = finished.ranking().to_pandas()
    assert (table["effect_low"] < table["effect"]).all() and (table["effect"] < table["effect_high"]).all()
    order = table.sort_values("effect", ascending=False)["effect_rank"].tolist()
    assert order == list(range(1, len(table) + 1))
    assert (table["effect_rank_low"] <= table["effect_rank"]).all()
    assert (table["effect_rank"] <= table["effect_rank_high"]).all()
    pseudo = np.array(finished.jackknife()["effect_pseudo_values"].to_pylist())
    assert np.allclose(pseudo.mean(1), table["effect"])
    error = pseudo.std(1, ddof=1) / 4
    assert np.allclose(table["effect_high"] - table["effect"], 2.1314495 * error)


def test_any_split_of_the_work_gives_the_same_bytes(
    finished: Run, data: Path, tmp_path: Path, many_attempts: None
) -> None:
    again = ranked(digits_job(data, tmp_path / "again", workers={"max": 3}))
    assert len(records(Path(again.path), "accept")) > 2
    for name in FILES:
        assert bytes_of(again, name) == bytes_of(finished, name)


@pytest.mark.usefixtures("many_attempts")
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    finished: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcace_dist.run.main_pass import MainPass

    job = parse_job(digits_job(data, tmp_path / "stopped"))
    receipt = MainPass._receipt

    def stop(self: MainPass, *arguments: Any) -> None:
        receipt(self, *arguments)
        raise Stopped("enough for now")

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(MainPass, "_receipt", stop)
        run_job(job)
    assert run_job(job) == 0
    for name in FILES:
        assert bytes_of(tmp_path / "stopped", name) == bytes_of(finished, name)


def test_an_extended_run_has_the_bytes_of_a_whole_one_with_its_plan(data: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    for path in sorted(data.glob("*.parquet"))[:2]:
        (first / path.name).write_bytes(path.read_bytes())
    base = ranked(digits_job(first, tmp_path / "base", statistics={"keep_codes": True}))
    extended = ranked(digits_job(data, tmp_path / "extended", extend=base.path, statistics={"keep_codes": True}))
    whole = ranked(digits_job(data, tmp_path / "whole", statistics={"plan": base.path}))
    assert statuses(extended) == {"ok"}
    assert bytes_of(extended) == bytes_of(whole)
    assert ranked(digits_job(extended.path, tmp_path / "codes")).ranking().equals(whole.ranking())


def test_what_has_no_effects_says_why(data: Path, tmp_path: Path) -> None:
    targets = [{"column": "ink"}, {"logit": "label"}]
    run = ranked(digits_job(data, tmp_path / "run", target=targets))
    assert statuses(run, target="column:ink") == {"not_of_the_model"}
    assert statuses(run, target="logit:label") == {"ok"}
    off = ranked(digits_job(data, tmp_path / "off", target=targets, effect={"gradient": "off"}))
    assert statuses(off) == {"off"} and off.ranking()["effect"].null_count == len(off.ranking())
    assert plan_of_run(off.path, Storage({})).effects is None
    of = ranked(digits_job(data, tmp_path / "of", target={"column": "ink"}, effect={"of": {"logit": "label"}}))
    both = run.ranking(target="logit:label")["effect"].to_pylist(), of.ranking()["effect"].to_pylist()
    assert statuses(of) == {"ok"} and np.allclose(*both, atol=1e-9)


def test_groups_have_axes_and_noise_of_their_own(data: Path, tmp_path: Path) -> None:
    run = ranked(digits_job(data, tmp_path / "run", target={"output": 3}, group_by="odd"))
    effects = plan_of_run(run.path, Storage({})).effects
    assert effects is not None and effects.targets[0].kind == "group"
    assert effects.targets[0].keys == ("False", "True") and effects.rankings == ("", "False", "True")
    assert statuses(run) == {"ok"}
    across = run.across_groups()
    means = np.array(across["mean_effect"].to_pylist())
    by_group = [np.array(run.ranking(group=name)["effect"].to_pylist()) for name in (False, True)]
    assert np.allclose(means, np.mean(by_group, 0)) and across["groups_with_effect"].to_pylist() == [2] * len(means)


def test_classes_with_few_images_are_read_from_more_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 rows of the pilot have six images of each class; four times as many have 26."""
    run = ranked(digits_job(data, tmp_path / "run", statistics={"pilot": 64}))
    effects = plan_of_run(run.path, Storage({})).effects
    assert effects is not None and min(effects.targets[0].images) >= 16 and sum(effects.targets[0].images) == 256
    assert statuses(run) == {"ok"}
    monkeypatch.setattr(effect_pilot, "MORE", 1)
    few = ranked(digits_job(data, tmp_path / "few", statistics={"pilot": 64}, group_by="label"))
    assert statuses(few) == {"too_few_images"}


def test_axes_that_are_too_large_are_refused_or_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effect_pilot, "MOST_BYTES", 100_000)
    with pytest.raises(ModelError, match=r"^effect.gradient mean: 10 axes of 2 layers take"):
        run_job(parse_job(digits_job(data, tmp_path / "mean", effect={"gradient": "mean"})))
    assert statuses(ranked(digits_job(data, tmp_path / "auto"))) == {"off"}


def test_images_have_gradients_of_their_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = digits_job(data, tmp_path / "run", target={"logit": "predicted"}, effect={"gradient": "image"})
    run = ranked(job)
    plain, pilot = PlainEffects(ROWS), (np.arange(256) * 2 + 1) * ROWS // 512
    for layer in ("conv1", "conv2"):
        found = np.array(run.ranking(layer=layer)["effect"].to_pylist(), float)
        assert np.abs(found - plain.own_gradients(layer, pilot)).max() < 3e-4
    monkeypatch.setenv("PCACE_FLUSH_SECONDS", "0.001")
    again = ranked(job | {"output": str(tmp_path / "again"), "workers": {"max": 3}})
    assert bytes_of(again) == bytes_of(run)


def test_auto_takes_own_gradients_where_there_is_no_mean_and_images_are_few(data: Path, tmp_path: Path) -> None:
    for pilot, gradient, status in ((256, "off", "off"), (300, "image", "ok")):
        job = digits_job(data, tmp_path / gradient, target={"logit": "predicted"}, statistics={"pilot": pilot})
        run = ranked(job)
        effects = plan_of_run(run.path, Storage({})).effects
        assert effects is not None and effects.gradient == gradient and statuses(run) == {status}
        note = run.summary["effect"]["note"]
        assert note is None if status == "ok" else "effect.gradient: image takes it" in note


def test_what_a_path_attributes_to_a_layer_adds_up_to_the_target(data: Path, tmp_path: Path) -> None:
    """All of the output goes through either layer, and it begins at one value for all images."""
    run = ranked(digits_job(data, tmp_path / "run", target={"logit": 3}, effect={"gradient": "path"}))
    for layer in ("conv1", "conv2"):
        assert sum(run.ranking(layer=layer)["effect"].to_pylist()) == pytest.approx(1, abs=0.03)


class NoGradient(nn.Sequential):
    """Computes as ever, and has no gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            outputs = images
            for part in self:
                outputs = part(outputs)
        return outputs


def without_gradient() -> nn.Module:
    return NoGradient(OrderedDict(mnist_cnn().named_children()))


def test_a_model_without_gradient_is_ranked_all_the_same(data: Path, tmp_path: Path) -> None:
    job = digits_job(data, tmp_path / "run")
    job["model"]["factory"] = "tests.run.test_effect_jobs:without_gradient"
    run = ranked(job)
    assert statuses(run) == {"no_gradient"} and set(run.ranking()["status"].to_pylist()) == {"ok"}


# -- the job file


def fingerprint(data: Path, **effect: Any) -> str:
    job: Job = parse_job(digits_job(data, data / "out", **({"effect": effect} if effect else {})))
    return job.fingerprint(layers=["conv1"], weights_digest="w")


def test_the_default_is_outside_of_the_fingerprint_and_all_else_is_in_it(data: Path) -> None:
    plain = fingerprint(data)
    assert plain == fingerprint(data, gradient="auto", images=64)
    others: list[dict[str, Any]] = [{"gradient": "off"}, {"images": 32}, {"at": "output"}, {"of": {"output": 0}}]
    assert len({plain, *(fingerprint(data, **other) for other in others)}) == 5


@pytest.mark.parametrize(
    ("effect", "target", "message"),
    [
        ({"gradient": "means"}, {"logit": 3}, r"effect\.gradient: input should be 'auto', 'mean'"),
        ({"images": 8}, {"logit": 3}, r"effect\.images: input should be greater than or equal to 16"),
        ({"of": {"column": "ink"}}, {"logit": 3}, r"effect\.of: {column: ink} is no function of the model"),
        (
            {"gradient": "mean"},
            {"logit": "predicted"},
            r"effect\.gradient mean: target {logit: predicted} has no classes",
        ),
    ],
)
def test_wrong_keys_are_refused(
    data: Path, tmp_path: Path, effect: dict[str, Any], target: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        run_job(parse_job(digits_job(data, tmp_path / "run", target=target, effect=effect)))


def test_yaml_reads_a_bare_off_as_false(data: Path, tmp_path: Path) -> None:
    assert parse_job(digits_job(data, tmp_path, effect={"gradient": False})).effect.gradient == "off"
