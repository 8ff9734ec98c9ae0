"""One local Ray for the tests of this folder that run whole jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 << 20,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
