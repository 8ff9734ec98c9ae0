"""The rows that a report shows are decoded as the job says: its pictures are what the model saw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcace_dist.artifacts.reading.rows import fetch
from pcace_dist.config.job import parse_job
from pcace_dist.config.resolve import images_of
from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec, decode
from pcace_dist.datasets.listing import list_dataset
from pcace_dist.storage.files import Storage
from tests.datasets.decoding.test_orientation import as_seen, tagged
from tests.datasets.helpers import picture, shard


@pytest.mark.parametrize("orientation", ["none", "exif"])
def test_pictures_are_turned_where_the_job_says_so(tmp_path: Path, orientation: str) -> None:
    files = [tagged(picture(1, 24, 16), kind, 6) for kind in ("JPEG", "PNG", "TIFF")]
    path = shard(tmp_path / "a.parquet", files)
    job = parse_job(
        {
            "dataset": {"path": str(path)},
            "model": {"factory": "a:b", "weights": "random", "input": {"orientation": orientation}},
            "layers": "all",
            "target": {"output": 0},
            "output": "run",
        }
    )
    spec = DatasetSpec(path=[str(path)])
    listing = list_dataset(spec, Storage())
    shape = (24, 16) if orientation == "exif" else (16, 24)
    source: Any = SimpleNamespace(
        dataset=spec, storage=Storage(), listing=listing, images=images_of(job), image_shape=shape
    )
    (batch,) = fetch(source, [(listing.files[0].key, 0, row) for row in range(3)], 8)
    for image, data in zip(batch.images, files, strict=True):
        stored = decode(data, ImageSpec())
        assert torch.equal(image, as_seen(stored, 6) if orientation == "exif" else stored)
