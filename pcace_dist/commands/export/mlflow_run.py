"""A run as one of MLflow's: params are the job, metrics what came out, artifacts the results, figures and the page.

A result is exported once: its run is found by tags (fingerprint, data, plan), and gets what has come since, such as a
page. `mlflow-skinny` suffices; its client alone is used, so that no global state of MLflow changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcace_dist.commands.export.folder import Step, is_of, local_folder
from pcace_dist.commands.export.record import RunRecord, Tracked
from pcace_dist.errors import OutputError, require_packages
from pcace_dist.progress.logs import errors_only
from pcace_dist.storage.retry import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

EXPERIMENT = "pcace"
PREFIX = "pcace."  # of our tags
FILE = f"{PREFIX}file."  # of the tags that hold digests of artifacts
LONGEST = {"param": 6000, "tag": 5000, "key": 250}  # characters
AT_ONCE = {"params": 100, "metrics": 1000}  # that one request takes


def to_mlflow(
    record: RunRecord, *, tracking_uri: str | None, experiment: str = EXPERIMENT, out: str | None = None, step: Step
) -> Tracked:
    """Export to the server or store at `tracking_uri`; None: MLFLOW_TRACKING_URI, else MLflow's own default.

    out: a local folder that is a store of its own (mlflow.db and artifacts), in place of a tracking_uri. Raises
    OutputError where MLflow refuses, NotInstalled.
    """
    require_packages("pcace export --to mlflow", "mlflow", "mlflow", "sqlalchemy", "alembic")
    artifacts = None
    if out is not None:
        folder = local_folder(out)
        tracking_uri, artifacts = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    step("opening MLflow")
    from mlflow import MlflowClient  # takes seconds to import

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7, its own number, take minutes
    with _quiet(), _one_line():
        client = MlflowClient(tracking_uri=tracking_uri)
        tracked = _tracked(client, _experiment(client, experiment, artifacts), record, step)
        return replace(tracked, place=f"{client.tracking_uri}, experiment {experiment}, {tracked.place}")


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name, artifacts) if found is None else found.experiment_id)


def _tracked(client: MlflowClient, experiment: str, record: RunRecord, step: Step) -> Tracked:
    wanted = " and ".join(f"tags.`{PREFIX}{key}` = '{value}'" for key, value in record.identity.items())
    found = [run for run in client.search_runs([experiment], wanted) if run.info.status == "FINISHED"]
    run = found[0] if found else _begun(client, experiment, record, step)
    added = tuple(_files(client, run, record, step))
    if not found:
        client.set_terminated(run.info.run_id)
    return Tracked(f"run {run.info.run_id} ({run.info.run_name})", bool(found), added)


def _begun(client: MlflowClient, experiment: str, record: RunRecord, step: Step) -> MlflowRun:
    """A new run with everything but its files."""
    from mlflow.entities import Metric, Param

    step("params, metrics, tags")
    tags = {f"{PREFIX}{key}": value[: LONGEST["tag"]] for key, value in record.tags.items()}
    run = client.create_run(experiment, tags=tags, run_name=record.name)
    params = [Param(_key(key), value[: LONGEST["param"]]) for key, value in record.params.items()]
    metrics = [Metric(_key(key), value, run.info.start_time, 0) for key, value in record.metrics.items()]
    for part in _parts(params, AT_ONCE["params"]):
        client.log_batch(run.info.run_id, params=part)
    for part in _parts(metrics, AT_ONCE["metrics"]):
        client.log_batch(run.info.run_id, metrics=part)
    return run


def _files(client: MlflowClient, run: MlflowRun, record: RunRecord, step: Step) -> Iterator[str]:
    """Logs the files that the run does not have as they are now; their names."""
    with tempfile.TemporaryDirectory() as folder:
        for path in record.write_files(Path(folder)):
            digest, tag = hashlib.sha256(path.read_bytes()).hexdigest(), f"{FILE}{path.name}"
            if run.data.tags.get(tag) != digest:
                step(path.name)
                client.log_artifact(run.info.run_id, str(path))
                client.set_tag(run.info.run_id, tag, digest)
                yield path.name
            path.unlink()


def _key(text: str) -> str:
    """A key as MLflow takes it: letters, digits, and a few signs."""
    return re.sub(r"[^\w/. :-]", "_", text)[: LONGEST["key"]]


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """None of MLflow's lines on the user's screen."""
    with errors_only("mlflow", "alembic", "urllib3"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What MLflow raises, as one line."""
    try:
        yield
    except Exception as error:
        if not is_of(error, "mlflow", "sqlalchemy", "alembic"):
            raise
        raise OutputError(f"--to mlflow: {first_line(error)}; see --tracking-uri") from None
