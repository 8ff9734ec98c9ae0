"""One more pass for a run that kept no codes: its job once more under its own plan, with codes, in a folder below.

It is a run like any other: on the job's workers, resumed where it stopped, and read again the next time.
"""

from __future__ import annotations

from pcace_dist.artifacts.run import Run, open_run
from pcace_dist.commands.select.rows import KeptRows, open_rows
from pcace_dist.config.job import parse_job
from pcace_dist.config.resolve import absolute
from pcace_dist.errors import JobError, UserError
from pcace_dist.progress import logs
from pcace_dist.run.rank import run_job

BELOW = "select/codes"  # where the codes are kept, below the folder of the results


def rows_by_a_pass(run: Run, folder: str) -> KeptRows:
    """The rows of a run, read again. Raises UserError where model or data have changed since; Stopped."""
    output = f"{folder}/{BELOW}"
    summary = run.summary
    if summary.get("stop", {}).get("settled"):
        raise JobError(f"{run.path}: was stopped early and kept no codes; rank it with statistics.keep_codes: true")
    rows = open_rows(_passed_before(run, output) or _pass(run, output))
    assert rows is not None
    return rows


def _passed_before(run: Run, output: str) -> Run | None:
    """The finished pass of an earlier call, whatever path the run had then."""
    try:
        before = open_run(output, storage=run.storage)
        return before if _identity(before) == _identity(run) else None
    except UserError:  # the pass says what is wrong
        return None


def _pass(run: Run, output: str) -> Run:
    images = run.summary["images"]
    logs.say(f"{run.path} kept no codes (statistics.keep_codes): one more pass over {images:,} images, into {output}")
    written = run.job.model_dump(mode="json", exclude_unset=True)
    statistics = written.get("statistics", {}) | {"keep_codes": True, "plan": absolute(run.path)}
    run_job(parse_job(written | {"statistics": statistics, "stop": None, "extend": None, "output": output}))
    again = open_run(output, storage=run.storage)
    if _identity(again) != _identity(run):
        raise JobError(f"{output}: its codes are not those of {run.path}: model or data have changed; rank it anew")
    return again


def _identity(run: Run) -> tuple[str, str, int]:
    return run.manifest()["weights"], run.plan, run.summary["images"]
