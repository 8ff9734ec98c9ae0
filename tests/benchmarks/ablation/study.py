"""Trains, ranks and measures, one training of one network at a time; what was found is a small JSON file of each."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save
from torch import nn

from examples.mnist import train as digits
from examples.street import train as streets
from examples.street.city import make_city, write_city
from pcace_dist.analysis.standings import Judged, judge
from pcace_dist.api import rank
from pcace_dist.cli.main import main as pcace
from pcace_dist.commands.evaluate import EvaluationSettings, evaluate

REPLACEMENT = "mean"


@dataclass(frozen=True)
class Network:
    """One entry of the protocol: how it is trained (None: its weights come with it), ranked and measured."""

    name: str
    seeds: tuple[int, ...]
    train: Mapping[str, Any] | None
    job: Mapping[str, Any]
    measure: Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    """protocol.yaml, with its folders filled in."""

    claimed: str
    baselines: tuple[str, ...]
    beside: tuple[str, ...]
    measures: tuple[str, ...]
    draws: int
    networks: tuple[Network, ...]
    mnist: Path
    photos: Path
    work: Path

    @property
    def orders(self) -> tuple[str, ...]:
        return (self.claimed, *self.beside, *self.baselines)


def read_protocol(path: Path, *, mnist: Path, photos: Path, work: Path) -> Protocol:
    """The protocol in a file. Raises KeyError where something is missing."""
    text = path.read_text()
    for name, folder in (("mnist", mnist), ("photos", photos), ("work", work)):
        text = text.replace(f"{{{name}}}", str(folder))
    content = yaml.safe_load(text)
    networks = tuple(
        Network(name, tuple(own["seeds"]), own.get("train"), own["job"], own["measure"])
        for name, own in content["networks"].items()
    )
    lists = {name: tuple(content[name]) for name in ("baselines", "beside", "measures")}
    return Protocol(
        content["claimed"], draws=content["draws"], networks=networks, mnist=mnist, photos=photos, work=work, **lists
    )


def measured(protocol: Protocol, network: Network, seed: int) -> dict[str, Judged]:
    """What was found of one training, by measure; measured now if it was not yet."""
    path = protocol.work / f"{network.name}-{seed}.json"
    if not path.exists():
        path.write_text(json.dumps(_measure(protocol, network, seed), indent=1))
    return {
        measure: Judged(measure, tuple(own["names"]), np.array(own["area"]), np.array(own["pseudo"]), own["curves"])
        for measure, own in json.loads(path.read_text())["measures"].items()
    }


def _measure(protocol: Protocol, network: Network, seed: int) -> dict[str, Any]:
    output = protocol.work / f"{network.name}-{seed}"
    for folder in (network.job["dataset"]["path"], network.measure["data"]):
        make_data(protocol, Path(folder))
    job = {**network.job, "output": str(output), "compute": {"precision": "float32"}, "workers": {"max": 1}}
    if network.train is not None:
        weights = trained(protocol, network, seed)
        job["model"] = {**network.job["model"], "weights": str(weights)}
    run = rank(job)
    evaluation = evaluate(run, EvaluationSettings(draws=protocol.draws, replacements=(REPLACEMENT,), **network.measure))
    found = {measure: judge(evaluation.curves, REPLACEMENT, measure) for measure in protocol.measures}
    return {
        "network": network.name,
        "seed": seed,
        "curves": len(evaluation.curves),
        "left_out": list(evaluation.left_out),
        "measures": {name: _as_json(own) for name, own in found.items()},
    }


def _as_json(own: Judged) -> dict[str, Any]:
    return {"names": own.names, "area": own.area.tolist(), "pseudo": own.pseudo.tolist(), "curves": own.curves}


def trained(protocol: Protocol, network: Network, seed: int) -> Path:
    """The file with a training's weights."""
    path = protocol.work / f"{network.name}-{seed}.safetensors"
    settings = network.train or {}
    if not path.exists():
        torch.set_num_threads(1)  # products are too small to share, and the sums keep their order
        model = (
            _of_digits(protocol, settings, seed)
            if settings["kind"] == "digits"
            else _of_streets(protocol, settings, seed)
        )
        path.write_bytes(save(model.state_dict()))
    return path


def _of_digits(protocol: Protocol, settings: Mapping[str, Any], seed: int) -> nn.Module:
    module, _, name = settings["network"].partition(":")
    images, labels = digits.load(protocol.mnist, "train")
    rows = slice(settings["images"])
    make = getattr(importlib.import_module(module), name)
    return digits.train(images[rows], labels[rows], epochs=settings["epochs"], seed=seed, make=make)


def _of_streets(protocol: Protocol, settings: Mapping[str, Any], seed: int) -> nn.Module:
    folder = protocol.work / f"city-{settings['city']}-{settings['panoramas']}"
    make_data(protocol, folder)
    return streets.train(streets.load(folder, "no2"), epochs=settings["epochs"], seed=seed)


def make_data(protocol: Protocol, folder: Path) -> None:
    """Make a data set that is not there yet, by its name: city-SEED-PANORAMAS, drawn; digits-SHARD-ROWS, the first rows
    of a shard; photos-rank, photos-measure: every third photograph, by name, is measured on, all others are ranked."""
    if folder.exists():
        return
    kind, *parts = folder.name.split("-")
    if kind == "city":
        _draw_city(int(parts[0]), int(parts[1]), folder)
    elif kind == "digits":
        _write(pq.read_table(protocol.mnist / f"part-{int(parts[0]):05d}.parquet").slice(0, int(parts[1])), folder)
    else:
        table = pq.read_table(protocol.photos)
        measured = sorted(set(table["photo"].to_pylist()))[1::3]
        chosen = pc.is_in(table["photo"], pa.array(measured))
        _write(table.filter(chosen if parts[0] == "measure" else pc.invert(chosen)), folder)


def _draw_city(seed: int, panoramas: int, folder: Path) -> None:
    drawn = folder.with_name(f"drawn-{seed}")
    stations = write_city(make_city(panoramas, seed=seed), drawn)
    if pcace(["pack", str(stations), str(folder), "--image-column", "path", "--shard-rows", "1000"]):
        raise SystemExit(f"{folder}: could not be packed")


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00000.parquet", row_group_size=250)


def seeds_of(protocol: Protocol, only: Sequence[str]) -> list[tuple[Network, int]]:
    """All trainings, or those of some networks."""
    return [(own, seed) for own in protocol.networks if not only or own.name in only for seed in own.seeds]
