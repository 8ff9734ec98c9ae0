"""A run as one of Weights & Biases: config is the job, summary what came out, the ranking as a table, files as an
artifact. Online, or with WANDB_MODE=offline into a folder that `wandb sync` sends.

The run's id is made from the result's identity, so that a result is one run there however often it is exported.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pcace_dist.commands.export.folder import Step, is_of, local_folder
from pcace_dist.commands.export.record import PAGE, RunRecord, Tracked, plain
from pcace_dist.errors import OutputError, require_packages
from pcace_dist.progress.logs import errors_only
from pcace_dist.storage.retry import first_line

KIND = "pcace-run"  # type of the artifact
ID = 16  # characters


def to_wandb(record: RunRecord, *, project: str, out: str | None, force: bool, step: Step) -> Tracked:
    """Export to the project. out: the folder below which wandb keeps its files (None: this one). force: also what was
    exported to this folder before. Raises OutputError where wandb refuses, NotInstalled."""
    require_packages("pcace export --to wandb", "wandb", "wandb")
    folder, own = Path(out or "."), identifier(record)
    before = [] if force else sorted(folder.glob(f"wandb/offline-run-*-{own}"))
    if before:
        return Tracked(str(before[-1]), True, ())
    there = folder.exists()
    with _one_line(), _without_empty(folder, there=there):
        return _tracked(record, project, local_folder(str(folder)), own, step)


def identifier(record: RunRecord) -> str:
    """The run's id, the same for the same result."""
    return hashlib.sha256(repr(sorted(record.identity.items())).encode()).hexdigest()[:ID]


def _tracked(record: RunRecord, project: str, folder: Path, own: str, step: Step) -> Tracked:
    import wandb

    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
    )
    step("config, summary, table")
    config = {"job": record.run.job.model_dump(mode="json"), **record.tags}
    options: dict[str, Any] = {"project": project, "id": own, "name": record.name, "dir": str(folder)}
    with wandb.init(**options, config=config, resume="allow", settings=quiet) as run:
        run.summary.update(record.metrics)
        table, _ = record.shown()
        run.log({"rankings": wandb.Table(columns=table.column_names, data=plain(table))})
        artifact = wandb.Artifact(f"{KIND}-{own}", KIND, metadata=record.identity)
        added = []
        with tempfile.TemporaryDirectory() as files:
            for path in record.write_files(Path(files)):
                step(path.name)
                artifact.add_file(str(path))
                if path.name == PAGE:
                    run.log({"report": wandb.Html(path.read_text(encoding="utf-8"), inject=False)})
                added.append(path.name)
            run.log_artifact(artifact)
        place = f"{run.dir.removesuffix('/files')}" if run.offline else str(run.url)
        return Tracked(place, bool(run.resumed), tuple(added))


@contextlib.contextmanager
def _without_empty(folder: Path, *, there: bool) -> Iterator[None]:
    """Where wandb refuses before it writes, the folder that was made for it goes; one that was there stays."""
    try:
        yield
    except Exception:
        if not there:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What wandb raises, as one line; its own lines are not shown."""
    try:
        with errors_only("wandb"):
            yield
    except ValidationError as error:  # of its settings, which are environment variables
        first = error.errors()[0]
        name = f"WANDB_{'_'.join(map(str, first['loc'])).upper()}"
        raise OutputError(f"--to wandb: {name}: {first_line(first['msg'])}") from None
    except Exception as error:
        if not is_of(error, "wandb"):
            raise
        raise OutputError(f"--to wandb: {first_line(error)}; WANDB_MODE=offline needs no account") from None
