"""Finished runs on disk without a cluster: the files of docs/protocol.md that analysis reads, with chosen scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.config.job import parse_job
from pcace_dist.ledger.ledger import Record

Floats = npt.NDArray[np.float64]
FOLDS = 16
FILES = ("a.parquet", "b.parquet")


def job_of(output: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"path": "data", "label": "label"},
        "model": {"factory": "examples.mnist.model:mnist_cnn", "weights": "random", "input": {"mode": "L"}},
        "layers": "all",
        "target": {"logit": "label"},
        "output": str(output),
    } | changes


def noise(seed: int, channels: int, error: float) -> Floats:
    """Fold noise (C, F), centred, such that the standard error of a score is about `error`."""
    deviations = np.random.default_rng(seed).standard_normal((channels, FOLDS)) * error * np.sqrt(FOLDS)
    centred: Floats = deviations - deviations.mean(axis=1, keepdims=True)
    return centred


def write_run(
    folder: Path,
    squared: dict[str, Floats],
    *,
    fold_noise: dict[str, Floats] | None = None,
    weights: str = "w",
    plan: str = "p",
    files: tuple[str, ...] = FILES,
    images: int = 1000,
    groups: tuple[Any, ...] = (None,),
    targets: tuple[str, ...] = ("logit:label",),
    **changes: Any,
) -> Run:
    """A finished run with `squared` scores (C,) by layer, the same for every target and group; NaN: constant."""
    fold_noise = fold_noise or {layer: noise(1, len(values), 0.01) for layer, values in squared.items()}
    (folder / "ledger").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for target in targets:
        for group in groups:
            rows += _block(target, group, squared, fold_noise, images)
    table = pa.Table.from_pylist(rows)
    pseudo = table.column("pseudo_values")
    pq.write_table(table.drop_columns(["pseudo_values"]), folder / "rankings.parquet")
    keys = table.select(["target", "group", "layer", "channel"])
    pq.write_table(keys.append_column("pseudo_values", pseudo), folder / "jackknife.parquet")
    job = parse_job(job_of(folder, **changes))
    (folder / "job.yaml").write_text(job.to_yaml())
    pieces = [{"key": key, "size": 10, "version": "1", "row_group": 0, "rows": 5} for key in files]
    manifest = {
        "fingerprint": "f" + weights,
        "weights": weights,
        "plan": plan,
        "units": [{"id": "u", "pieces": pieces}],
    }
    summary = {
        "outcome": "done",
        "exit_code": 0,
        "fingerprint": "f" + weights,
        "data": ",".join(files),
        "images": images,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    bodies: dict[str, dict[str, Any]] = {
        "open": {"holder": {}},
        "manifest": manifest,
        "done": {"exit_code": 0, "outcome": "done"},
    }
    for n, (kind, body) in enumerate(bodies.items(), start=1):
        record = Record(n, kind, 1, "nonce", 0.0, body)
        (folder / record.key).write_bytes(record.to_bytes())
    return open_run(str(folder))


def _block(
    target: str, group: Any, squared: dict[str, Floats], fold_noise: dict[str, Floats], images: int
) -> list[dict[str, Any]]:
    values = np.concatenate(list(squared.values()))
    order = np.argsort(np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable"), kind="stable")
    rows, place = [], 0
    for layer, scores in squared.items():
        within = np.argsort(np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable"), kind="stable")
        for channel, value in enumerate(scores):
            ok = bool(np.isfinite(value))
            pseudo = value + fold_noise[layer][channel]
            reach = 2 * pseudo.std(ddof=1) / np.sqrt(FOLDS) if ok else 0.0
            rows.append(
                {
                    "target": target,
                    "group": group,
                    "layer": layer,
                    "channel": channel,
                    "images": images,
                    "rank": int(order[place]) + 1 if ok else None,
                    "rank_low": int(order[place]) + 1 if ok else None,
                    "rank_high": int(order[place]) + 1 if ok else None,
                    "layer_rank": int(within[channel]) + 1 if ok else None,
                    "score": float(np.sqrt(max(value, 0))) if ok else None,
                    "score_squared": float(value) if ok else None,
                    "score_low": float(np.sqrt(max(value - reach, 0))) if ok else None,
                    "score_high": float(np.sqrt(max(value + reach, 0))) if ok else None,
                    "status": "ok" if ok else "constant",
                    "pseudo_values": pseudo.tolist() if ok else None,
                }
            )
            place += 1
    return rows
