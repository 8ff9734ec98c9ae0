"""Which runs are small enough for threads of the driver's process, and which models can be shared by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from torch import nn

from pcace_dist.config.job import Job, parse_job
from pcace_dist.datasets.listing import DataFile, Listing
from pcace_dist.worker import shared_model
from tests.planted import planted_network
from tests.run.test_main_job import planted_job


def asked(rows: int = 300, **workers: Any) -> tuple[Job, Listing]:
    job = parse_job(planted_job(Path("data"), Path("run"), workers={"max": 2} | workers))
    return job, Listing((DataFile("data/a", "a", 1000, "v", (rows,)),), pa.schema([]))


def count(job: Job, listing: Listing) -> int | None:
    shared = shared_model.share_model(job, listing, planted_network())
    return None if shared is None else shared.workers


@pytest.mark.parametrize(
    "cores, workers, expected",
    [
        (2, {}, 2),
        (1, {}, 1),
        (8, {}, 2),
        (8, {"max": 5}, 5),
        (8, {"max": 5, "cpus": 2}, 4),
        (8, {"max": 5, "cpus": 0.5}, 5),
        (2, {"min": 2}, 2),
        (1, {"min": 2}, None),
        (2, {"cpus": 4}, None),
        (2, {"resources": {"unicorn": 1}}, None),
        (2, {"memory": "1GiB"}, None),
    ],
)
def test_as_many_workers_as_there_are_cores_for_and_none_where_more_is_asked_for(
    cores: int, workers: dict[str, Any], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: cores)
    assert count(*asked(**workers)) == expected


def test_many_rows_large_models_and_such_as_cannot_be_copied_are_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: 2)
    assert count(*asked(shared_model.ROWS)) == 2
    assert count(*asked(shared_model.ROWS + 1)) is None
    network = planted_network()
    network.__dict__["held"] = (line for line in "a generator cannot be copied")
    assert shared_model.share_model(*asked(), network) is None
    monkeypatch.setattr(shared_model, "MODEL_BYTES", 8)
    assert count(*asked()) is None


def replaced_forward(network: nn.Module) -> None:
    forward = network.forward
    network.forward = lambda images: forward(images)


def hooked(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_: network.training)


def with_default(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_, whole=network: None)


def harmless(network: nn.Module) -> None:
    network.register_forward_hook(lambda *_: None)
    network.forward = network.__call__  # a method is copied with its module


@pytest.mark.parametrize(
    "change, expected", [(replaced_forward, None), (hooked, None), (with_default, None), (harmless, 2)]
)
def test_models_whose_copies_would_lead_back_to_them_are_for_ray(
    change: Callable[[nn.Module], None], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_model, "cores", lambda: 2)
    network = planted_network()
    change(network)
    shared = shared_model.share_model(*asked(), network)
    assert (None if shared is None else shared.workers) == expected
