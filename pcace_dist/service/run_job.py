"""Running a job: what `pcace rank` does, around the coordinator.

A finished run gives its recorded code at once; an output that holds another job is refused; SIGTERM and SIGINT become a
flush and exit code 5.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pcace_dist.errors import JobError, OutputError, Stopped
from pcace_dist.job import Job, read_job
from pcace_dist.service.account import Account
from pcace_dist.service.cluster import ray_session
from pcace_dist.service.coordinator import Coordinator
from pcace_dist.service.ledger import Ledger
from pcace_dist.service.prepare import Preparation, prepare, storage_of
from pcace_dist.service.progress import Display, display_for
from pcace_dist.service.store import Store, open_store, probe

log = logging.getLogger(__name__)

DIGESTED = {"model.weights", "layers"}  # may be written differently and mean the same: the fingerprint decides


def run_job(job: Job, *, display: Display | None = None) -> int:
    """Run or resume a job; the exit code (0 or 4). Raises UserError, Stopped, TakenOver.

    Ray is joined (RAY_ADDRESS) or started locally and left again.
    """
    store = open_store(job.output, storage_of(job))
    ledger = Ledger(store)
    state = ledger.load()
    recorded = _recorded_job(store)
    if state.done is not None and recorded is not None and _same(recorded, job):
        return int(state.done["exit_code"])
    _refuse_foreign(store, job, recorded, empty=state.epoch == 0)
    preparation = prepare(job)
    _refuse_changed(store, preparation, state.manifest)
    if state.done is not None:
        return int(state.done["exit_code"])
    with _interruptible() as asked, ray_session(), display or display_for() as shown:
        probe(store)
        asked.install()
        store.put("job.yaml", job.to_yaml().encode())
        ledger.open({"host": socket.gethostname(), "boot": _boot_id(), "pid": os.getpid()})
        account = Account(store, ledger, shown, preparation.fingerprint)
        try:
            return Coordinator(preparation, store, ledger, account, asked.is_set).run()
        except Stopped:
            account.write("stopped", Stopped.exit_code)
            raise


def _recorded_job(store: Store) -> Job | None:
    data = store.get("job.yaml")
    try:
        return None if data is None else read_job(data.decode(), name=f"{store.url}/job.yaml")
    except JobError:
        return None


def _same(one: Job, other: Job) -> bool:
    """Whether two jobs ask for the same result, as far as their texts say."""
    return not _differences(one, other)


def _differences(one: Job, other: Job) -> list[str]:
    """Keys in which two jobs differ, of those that the result depends on."""
    free = {"workers", "storage", "max_bad_rows", "output"}
    first, second = (job.model_dump(mode="json", exclude=free) for job in (one, other))
    return [key for key, _ in sorted(_leaves(first).items() ^ _leaves(second).items())]


def _leaves(tree: object, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict) and tree:
        merged: dict[str, str] = {}
        for key, value in tree.items():
            merged |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
        return merged
    return {prefix: repr(tree)}


def _refuse_foreign(store: Store, job: Job, recorded: Job | None, *, empty: bool) -> None:
    """An output directory belongs to one job."""
    if recorded is None:
        if empty and not store.list(""):
            return
        if empty:
            raise OutputError(f"output {job.output}: is not empty and holds no run; use another output")
        return
    different = [key for key in _differences(recorded, job) if key not in DIGESTED]
    if different:
        raise OutputError(
            f"output {job.output}: holds another job (it differs in {different[0]}); "
            "use another output or go on with that job"
        )


def _refuse_changed(store: Store, preparation: Preparation, manifest: dict[str, object] | None) -> None:
    if manifest is None or manifest["fingerprint"] == preparation.fingerprint:
        return
    what = "model.weights: the weights have" if manifest["weights"] != preparation.weights else "the job has"
    raise OutputError(f"{what} changed since the run in {store.url} began; use another output")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class _Interrupt:
    """SIGTERM and SIGINT as a flag. The second signal ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, object] = {}

    def is_set(self) -> bool:
        return self._event.is_set()

    def install(self) -> None:
        """After Ray has started: it puts in a SIGTERM handler of its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    try:
        yield interrupt
    finally:
        interrupt.restore()
