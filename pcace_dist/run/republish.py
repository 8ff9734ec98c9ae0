"""Repairs a finished run: published files that are damaged or missing are written again from its attempts.

Reduce is a pure function of the ledger, so that neither model nor data are needed; what is written must have the
digests that `done` recorded. Runs of version 0.1.0 recorded none: theirs are left as they are. No Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from pcace_dist.artifacts.attempt import CorruptAttempt, blocks_of
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.checked import RESTORE, Digest
from pcace_dist.artifacts.codes.index import INDEX, index_of, publish_index
from pcace_dist.artifacts.done import Publication, recorded_group_type
from pcace_dist.artifacts.examples import merge_examples
from pcace_dist.artifacts.plan_store import read_plan
from pcace_dist.artifacts.publish import Results, publish_results
from pcace_dist.artifacts.summary import summary_bytes
from pcace_dist.config.job import Job, read_job
from pcace_dist.config.resolve import storage_of
from pcace_dist.errors import JobError, OutputError
from pcace_dist.ledger.ledger import RunState
from pcace_dist.models.settings import settings_restored
from pcace_dist.statistics.plan import Plan
from pcace_dist.storage.store import Store
from pcace_dist.worker.memory import default_memory
from pcace_dist.worker.reduce import rank_batch, rank_tasks, reduce_block

READERS = 8  # published files that are checked at the same time


def write_anew(store: Store, state: RunState) -> list[str]:
    """Check all published files of a finished run and write the damaged ones again. Returns their names.

    Raises OutputError where that cannot be done: attempts are gone too, or this machine computes other bits.
    """
    done = state.done or {}
    files = {name: Digest.from_json(value) for name, value in done.get("files", {}).items()}
    with ThreadPoolExecutor(READERS, thread_name_prefix="pcace-check") as pool:
        intact = pool.map(lambda name: _is_intact(files[name], name, store.get(name)), files)
        damaged = [name for name, is_intact in zip(files, intact, strict=True) if not is_intact]
    if not damaged:
        return []
    contents = _small_files(done)
    if not contents.keys() >= set(damaged):
        contents |= _results(store, state, read_job(done["job"]))
    for name in damaged:
        if not files[name].fits(contents.get(name)):
            raise OutputError(
                f"{store.url}/{name}: is not what the run wrote, and this machine computes other bits from its "
                f"attempts (other versions of libraries, or another processor); {RESTORE}"
            )
    for name in damaged:
        store.put(name, contents[name])
    return damaged


def _is_intact(digest: Digest, name: str, data: bytes | None) -> bool:
    """Whether a file is as it was published. job.yaml may have been edited, because the data were moved."""
    if digest.fits(data) or name != "job.yaml" or data is None:
        return digest.fits(data)
    try:
        read_job(data.decode(), name=name)
    except (UnicodeDecodeError, JobError, RecursionError):
        return False
    return True


def _small_files(done: Mapping[str, Any]) -> dict[str, bytes]:
    """What the ledger itself holds."""
    return {"job.yaml": str(done["job"]).encode(), "summary.json": summary_bytes(done["summary"])}


def _results(store: Store, state: RunState, job: Job) -> dict[str, bytes]:
    """All other published files, by name."""
    assert state.manifest is not None and state.done is not None
    plan = read_plan(store, state.manifest["plan"])
    contents: dict[str, bytes] = {}
    sink = Publication(contents.__setitem__)
    try:
        with settings_restored():
            torch.set_num_threads(1)
            blocks = _blocks(store, state, job, plan)
        ranks = [ranking for batch in rank_tasks(plan, blocks) for ranking in rank_batch(batch)]
        images_were_read = state.done["summary"].get("from_codes") is None
        examples = [merge_examples(store, plan, state.accepted_receipts())] if images_were_read else []
        grouped, named = job.group_by is not None, job.shown == "images"
        results = Results(plan, state, blocks, ranks, examples, recorded_group_type(state.done), grouped, named)
        publish_results(sink, store, results)
    except CorruptAttempt as corrupt:
        raise OutputError(
            f"{store.url}: what it published is damaged, and so is attempt {corrupt.attempt} ({corrupt.reason}), from "
            f"which it could be written anew; {RESTORE}"
        ) from corrupt
    if INDEX in state.done["files"]:
        recorded = {name: str(state.manifest[name]) for name in ("fingerprint", "weights")}
        index = index_of(plan, state.accepted_receipts(), fold_by=job.dataset.fold_by, **recorded)
        publish_index(sink, index)
    return contents


def _blocks(store: Store, state: RunState, job: Job, plan: Plan) -> list[BlockScores]:
    """The reduce, in this process: block by block."""
    assert state.done is not None
    source = state.done["summary"].get("from_codes")
    settings, receipts = job.statistics, state.accepted_receipts()
    threads = max(1, int(job.workers.cpus))
    if source is None:
        return [
            reduce_block(
                store,
                plan,
                block,
                receipts,
                penalty=settings.penalty,
                memory=settings.memory or default_memory(threads),
                estimator=settings.estimator,
            )
            for block in blocks_of(plan)
        ]
    from pcace_dist.worker.codes_engine import CodesEngine
    from pcace_dist.worker.spec import CodesSpec

    spec = CodesSpec(
        codes=str(source),
        output=store.url,
        storage=storage_of(job),
        statistics=settings,
        threads=threads,
    )
    engine = CodesEngine(spec, store)
    return [engine.reduce(plan, block, receipts[0]) for block in blocks_of(plan)]
