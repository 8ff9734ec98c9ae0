"""The exceptions of pcace_dist, and the exit code of each. A leaf: every room may import it.

PcaceError                  1   anything unforeseen
|-- UserError               2   the job or its input is wrong; one line that names the key or file and what would do
|   |-- JobError                the job file or a command-line argument
|   |-- DatasetError            listing or reading the data set
|   |-- ModelError              factory, weights, layers, outputs
|   |-- StatisticsError         settings that the statistic cannot serve
|   |-- NotInstalled            packages of an extra that this verb needs
|   `-- OutputError             the output directory or its store
|       `-- IllegalHistory          (ledger.records) a ledger that this protocol cannot have written
|-- Stopped                 5   stopped and resumable: the same command continues
|   `-- TakenOver               another driver opened the run; this one writes nothing more
|-- NotAdmitted             1   (worker.admission) a worker does not reproduce the pilot's results
`-- StoreUnavailable        5   storage was away for longer than PCACE_STORAGE_PATIENCE: the same command continues
    `-- OutcomeUnknown          (storage.store) a put was sent and its answer was lost
RowError                        one row must be set aside; never ends a run
"""

from __future__ import annotations

import re
import shlex
import sys
from importlib import util


class PcaceError(Exception):
    """Base of all exceptions that this package raises on purpose."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line, without a traceback (IPython asks for it)."""
        return [f"{type(self).__name__}: {self}"]


class UserError(PcaceError):
    """The job or its input is wrong. The message is one line: key or file, value, what would do."""

    exit_code = 2


class JobError(UserError):
    """A key of the job file or an argument of a command is wrong."""


class DatasetError(UserError):
    """The data set cannot be listed or read as the job says."""


class ModelError(UserError):
    """The model, its weights, its layers or its outputs are not what the job says."""


class StatisticsError(UserError):
    """The statistic cannot serve these settings or this input."""


class NotInstalled(UserError):
    """Packages of an optional extra are missing: the line has the command that installs them into this Python."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages of the extra `{extra}`; install them: {install_command(extra)}")


def require_packages(what: str, extra: str, *modules: str) -> None:
    """Raise NotInstalled unless all modules, which packages of an extra bring, can be imported. Imports none."""
    if any(util.find_spec(module) is None for module in modules):
        raise NotInstalled(what, extra)


def install_command(extra: str) -> str:
    """The command for a shell that installs what an extra names, with its bounds, into the Python that runs."""
    installer = [sys.executable, "-m", "pip", "install"]
    if util.find_spec("pip") is None:  # as in the environments that uv makes
        installer = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*installer, *packages_of(extra)])


def packages_of(extra: str) -> list[str]:
    """Names with bounds, from the metadata of the installed package. Raises UserError where it is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("pcace-dist") or []
    except PackageNotFoundError:
        raise UserError(f"pcace-dist is not installed; in its folder: pip install '.[{extra}]'") from None
    split = [re.split(r"\s*;\s*", requirement) for requirement in requirements]
    return [parts[0] for parts in split if len(parts) == 2 and re.fullmatch(f"extra == [\"']{extra}[\"']", parts[1])]


class OutputError(UserError):
    """The output directory holds something else, or its storage cannot be used."""


class Stopped(PcaceError):
    """The run was stopped and can be resumed by the same command."""

    exit_code = 5


class TakenOver(Stopped):
    """Another driver has opened the run with a higher epoch."""


class StoreUnavailable(PcaceError):
    """Storage was away for longer than PCACE_STORAGE_PATIENCE. Nothing is lost: the same command continues."""

    exit_code = 5


class RowError(Exception):
    """One row must be set aside.

    `stage` is one of read, decode, model, target (column of bad_rows.parquet); `reason` is a short text.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"
