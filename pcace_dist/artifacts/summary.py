"""summary.json: how a run went. Written while it works, and last of all when it ends."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pcace_dist.artifacts.checked import parse_json
from pcace_dist.config.job import FORMAT_VERSION
from pcace_dist.ledger.ledger import RunState
from pcace_dist.storage.store import Store

PACKAGES = ("pcace-dist", "ray", "torch", "torchvision", "numpy", "scipy", "pyarrow")
DONE = "done"  # outcomes: with exit code 0, and the others with 4
TOO_MANY_BAD_ROWS = "too_many_bad_rows"
NOTHING_RANKED = "nothing_ranked"

KEYS = {
    "format_version": "of this file and of the run's others",
    "outcome": f"`running`, `{DONE}`, `{TOO_MANY_BAD_ROWS}` or `{NOTHING_RANKED}`",
    "exit_code": "what the command returned: 0 or 4; null while it runs",
    "fingerprint": "digest of all that the result depends on",
    "data": "digest of the data set's files and row groups",
    "images": "rows that count in the result",
    "bad_rows": "rows that were set aside",
    "unlabelled": "rows left out because a target or the groups need a label and theirs is null or -1",
    "files_left_out": "files under dataset.path that are no data: a reason, how many, some names",
    "units": "pieces of work that the data set was cut into",
    "units_set_aside": "units that killed their workers until they were set aside",
    "units_redone": "units that were begun again after a loss",
    "attempts": "flushes that count",
    "workers": "workers at the same time, at most",
    "workers_are": "what they are: Ray's actors, threads, or the driver itself",
    "directory": "of the driver that ran last: relative paths of its job are meant from there",
    "seconds": "of this command, from beginning to end",
    "images_per_second": "of the main pass",
    "stages": "seconds of the driver by stage",
    "worker_stages": "seconds of all workers by stage",
    "worker_seconds": "seconds of all workers in the main pass",
    "shares": "share of the time by stage, 0 to 1",
    "bottleneck": "the stage that takes most, its share, and what would shorten it; null where nothing stands out",
    "last_faults": "the last losses and retries, in words",
    "workers_refused": "only where some were: workers that were not admitted, and why",
    "workers_short": "only where some were: how many workers were missing from workers.min",
    "layers_left_out": "only where images were read: layers that the globs bring and that are not ranked, and why",
    "warnings": "only where the pilot's rows look wrong: level, what, evidence, write, figures, as of `pcace check`",
    "from_codes": "only of runs from kept codes: the run that kept them",
    "drift": "only with `extend`, where codes lie beyond the plan's knots: shares by layer, and advice",
    "stop": "only with `stop`: whether the top is settled, rows that were spared, and every check",
    "plan": "digest of the frozen plan",
    "effect": "only with effects: the gradient, each target's axes and images behind them, where maps are taken from, "
    "bytes of the axes, why some targets have none",
    "plan_noise": "only where the pilot estimated what another one would change: targets, rankings with an estimate of "
    "their own (the first, without a name, is of all rows), and its bytes in the plan",
    "precision": "of the forward pass",
    "layout": "of the tensors: channels last or first",
    "decode": "what decoded the images: cpu or gpu",
    "batch": "images per forward pass",
    "fold_hash": "of an image's bytes, which gives its fold: xxh3, or blake2b under plans of 0.1.0",
    "solver": "of the rankings: lapack, or lanes (compiled) under plans of large jobs",
    "numeric_classes": "processors and libraries that computed; the plan's first",
    "check_codes_differing": "largest share of the check rows' codes that a worker computed differently from the pilot",
    "explained_variance": "share of the maps' variance that the components hold, by layer",
    "versions": "of Python and the libraries",
}
"""Keys of summary.json. Those whose text begins with `only` may be absent."""


def summary_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json, as plain JSON without NaN."""
    content = {"format_version": FORMAT_VERSION, **values, "versions": versions()}
    plain: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return plain


def publish_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """summary.json: written while the run works (outcome `running`) and last of all when it ends."""
    store.put("summary.json", summary_bytes(summary))


def summary_bytes(summary: Mapping[str, Any]) -> bytes:
    return (json.dumps(summary, indent=2, sort_keys=False) + "\n").encode()


def versions() -> dict[str, str]:
    """Of Python and the libraries that results depend on; Numba's is in the numeric class, as it may be missing."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def recorded_summary(store: Store, state: RunState) -> dict[str, Any]:
    """The summary; empty where there is none. Raises Damaged."""
    recorded = (state.done or {}).get("summary")
    return read_summary(store) if recorded is None else dict(recorded)


def read_summary(store: Store) -> dict[str, Any]:
    """summary.json as it is; empty if there is none. Raises Damaged."""
    return parse_json(store.get("summary.json") or b"{}", f"{store.url}/summary.json")
