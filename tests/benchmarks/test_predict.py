"""docs/scale.md holds what the command prints, and the command's arithmetic is that of `pcace estimate`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pcace_dist.commands.estimate import predict
from pcace_dist.models.layers import conv_layers
from tests.benchmarks import predict as page
from tests.benchmarks.predict import (
    PAGE,
    RESNET50,
    STATED,
    Data,
    Gpu,
    Rates,
    Stated,
    blocks,
    in_page,
    put_into,
    workload,
)


@pytest.fixture(scope="module")
def stated() -> Stated:
    return Stated.read(STATED)


def test_every_table_of_the_page_is_what_the_command_prints(stated: Stated) -> None:
    assert in_page(PAGE.read_text()) == blocks(stated, Gpu())


def test_a_page_is_filled_and_read_back() -> None:
    empty = "a\n<!-- predict: one -->\nold\n<!-- end -->\nb\n<!-- predict: two -->\n<!-- end -->\n"
    filled = put_into(empty, {"one": r"\1 new", "two": "x\ny"})
    assert in_page(filled) == {"one": r"\1 new", "two": "x\ny"}
    assert filled.startswith("a\n") and "\nb\n" in filled


def test_all_layers_of_resnet50_are_counted() -> None:
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    channels = [model.get_submodule(name).out_channels for name in conv_layers(model)]
    assert sorted(channels) == sorted(RESNET50) and sum(RESNET50) == 26_560


def test_images_are_all_in_units(stated: Stated) -> None:
    load = workload(Data("some", 10_001, 110_000), (512, 100))
    assert sum(load.units) == 10_001 and max(load.units) == 156
    assert load.blocks == (64,) * 8 + (64, 36)


def test_a_gpu_twice_as_fast_halves_a_main_pass_that_decoding_does_not_hold_up(stated: Stated) -> None:
    def main_pass(rate: float, cores: float) -> float:
        gpu = Gpu(rate=rate)
        load = workload(page.imagenet(), (512,))
        rates = page.on_a_gpu(replace(stated.one, begin=0.0, flush=0.0, read=0.0), gpu.one, gpu, 1.0)
        return float(predict(load, rates.timings(load.units[0], gpu.batch), 1, cores)["main_pass"])

    assert main_pass(1000, 64) == pytest.approx(2 * main_pass(2000, 64), rel=0.01)
    assert main_pass(100_000, 4) == pytest.approx(main_pass(200_000, 4), rel=0.01)  # decoding holds both up


def test_rates_are_taken_from_a_runs_json(stated: Stated, tmp_path: Path) -> None:
    rates = asdict(stated.one)
    timings = rates | {"stages": rates, "row": {"processor": rates["processor"]}}
    one = {"batch": 32, "pilot": 32, "timings": timings | {"pilot": {"processor": pilot_of(stated.one, 32)}}}
    details = {"machine": "m", "street_decode": 2.0, "more_images": 128, "found": {"1 layer": one, "all": one}}
    details["larger_pilot"] = dict.fromkeys(("1 layer", "all"), pilot_of(stated.one, 160))
    (tmp_path / "taken.json").write_text(
        json.dumps(page.take({"answers": {"rates": {"details": details}}}, "2026-11-29"))
    )
    taken = Stated.read(tmp_path / "taken.json")
    said = (taken.machine, taken.date, taken.batch, taken.street_decode, taken.one)
    assert said == ("m", "2026-11-29", 32, 2.0, stated.one)
    forwards = page.PASSES * stated.one.forward  # of a pilot whose maps are not kept
    assert taken.all_.pilot_row == pytest.approx(stated.one.pilot_row + forwards, rel=1e-3)


def pilot_of(rates: Rates, images: int) -> float:
    return rates.pilot_fixed + images * rates.pilot_row
