"""A worker without Ray: makes the plan, works through units, writes attempts.

A unit enters the next attempt only when it is finished; rows that fail are recorded and never end a run
(docs/protocol.md, items 5 to 7). Its parts: sources.py finds a unit's batches, encoder.py turns them into codes,
attempt_buffer.py adds these up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from pcace_dist.artifacts.attempt import ChannelBlock
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.examples import merge_examples
from pcace_dist.artifacts.plan_metadata import PlanMetadata
from pcace_dist.checks.finding import Finding
from pcace_dist.datasets.device_images import decoder_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import UnitReader
from pcace_dist.datasets.rows import BadRow
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import ModelError
from pcace_dist.ledger.ledger import Receipt, UnitCount
from pcace_dist.models import layouts
from pcace_dist.models.device import free_memory, retry_on_oom
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.in_memory import copy_of
from pcace_dist.models.load import weights_digest
from pcace_dist.models.precision import CHANNELS_LAST
from pcace_dist.models.settings import set_deterministic
from pcace_dist.statistics.lanes import check_solver
from pcace_dist.statistics.plan import LayerPlan, Plan
from pcace_dist.storage.store import Store
from pcace_dist.worker.admission import Admission, CheckRows
from pcace_dist.worker.allocator import keep_memory
from pcace_dist.worker.attempt_buffer import AttemptBuffer
from pcace_dist.worker.effects.rows import EffectRows
from pcace_dist.worker.encoder import BatchEncoder
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.pilot import make_plan
from pcace_dist.worker.pilot_cache import PilotCache
from pcace_dist.worker.pilot_rows import PilotMeter
from pcace_dist.worker.reduce import reduce_block
from pcace_dist.worker.shared_model import SharedModel, model_bytes
from pcace_dist.worker.sources import CODES, PILOT, UnitSources
from pcace_dist.worker.spec import WorkSpec
from pcace_dist.worker.stage_seconds import StageSeconds

log = logging.getLogger(__name__)

COPIES_BYTES = 512 << 20  # at most, of a worker's copies of its model, in the pilot; PilotMaps bounds their maps


class Abandoned(Exception):
    """The worker was told to stop and gave up its unit, which will be redone."""


@dataclass(frozen=True)
class UnitReport:
    """A finished unit: counts, images forwarded for it, seconds by stage, and the last row that was set aside."""

    unit: str
    count: UnitCount
    forwarded: int
    seconds: Mapping[str, float]
    bytes_read: int
    last_fault: str | None = None
    of_pilot: bool = False  # its rows had been forwarded by the pilot


@dataclass(eq=False)
class _PassState:
    """What a worker works with from `begin` on, under one plan."""

    plan: Plan
    epoch: int
    memory: int  # bytes that `buffer` may hold
    encoder: BatchEncoder
    sources: UnitSources
    buffer: AttemptBuffer


class Engine:
    """One worker's model, and what it has added up.

    Life: `Engine(spec, worker, store)`, perhaps `pilot(listing)`, `begin(plan, check, epoch)`, then `process(unit)`
    again and again and `flush()` whenever `should_flush`; at the end `reduce(...)`.
    """

    def __init__(self, spec: WorkSpec, worker: str, store: Store, shared_model: SharedModel | None = None) -> None:
        """`shared_model`: where workers are threads of one process; else the model is loaded. Raises ModelError."""
        keep_memory()
        self.spec = spec
        self.worker = worker
        self.store = store
        set_deterministic(spec.threads, strict=spec.compute.exact == "strict")
        self.device = torch.device(spec.device)
        self.model = spec.load_model() if shared_model is None else shared_model.model_copy()
        self.weights = weights_digest(self.model)
        self.model.to(self.device)
        self.pilot_cache = PilotCache() if shared_model is None else shared_model.pilot_cache
        self._shared_model = shared_model
        self._pass_state: _PassState | None = None
        self._attempts = 0
        self._stop = threading.Event()
        self.images_seen = 0
        self.pilot_batches = 0
        self.pilot_meter = PilotMeter()
        self.pilot_warnings: tuple[Finding, ...] = ()

    # -- the plan

    def pilot(self, listing: Listing, workers: int = 1) -> tuple[Plan, CheckRows]:
        """Make the plan from the pilot, and the rows by which workers are admitted; the caller records both.

        workers: of this run on this machine, this one among them. The others wait for the plan, so that as many batches
        are forwarded at the same time, each by a copy of the model; they make no difference to the plan.
        Raises DatasetError or ModelError for what only real rows show, Abandoned after `stop`.
        """
        if self.device.type != "cpu":
            workers = 1
        elif self._shared_model is None:
            workers = min(workers, 1 + COPIES_BYTES // max(1, model_bytes(self.model)))
        copies = [copy_of(self.model) for _ in range(1, workers)]
        result = make_plan(
            [self.model, *(model for model in copies if model is not None)],
            self.spec,
            listing,
            device=self.device,
            weights=self.weights,
            check=self._check_pilot,
            meter=self.pilot_meter,
        )
        if self.spec.plan is None:  # another run's plan may be of another numeric class
            self.pilot_cache.plan, self.pilot_cache.repeats = result.plan.digest, result.repeats
        self.pilot_cache.units.update(result.units)
        self.pilot_warnings = result.warnings
        return result.plan, result.check

    def _check_pilot(self) -> None:
        """Before every batch of the pilot."""
        self.pilot_batches += 1
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise Abandoned(f"worker {self.worker} was told to stop")

    def begin(self, plan: Plan, check: CheckRows, epoch: int) -> Admission:
        """Take the plan; only from here on units can be worked on.

        Raises ModelError for other weights, NotAdmitted where `exact: strict` refuses this worker, JobError where the
        plan's images are decoded on a GPU and this worker cannot, StatisticsError where it lacks the plan's solver.
        """
        metadata, spec = PlanMetadata.of(plan), self.spec
        if metadata.weights != self.weights:
            raise ModelError(f"model.weights {spec.model.weights}: this worker loaded other weights than the plan's")
        check_solver(metadata.solver)
        memory = self._memory()
        layouts.keep([self.model], metadata.channel_axes)
        mean, std = spec.model.input.mean, spec.model.input.std
        effects = EffectRows.of(plan.effects, spec.targets, self.device)
        places = {} if effects is None else effects.places
        forward = Forward(self.model, self.device, metadata.batch, mean, std, spec.layers, metadata.numerics, places)
        layers = {layer.name: layer.to(self.device).with_projection_layout() for layer in plan.layers}
        if self.device.type == "cpu":
            plan = replace(plan, layers=tuple(layers.values()))
        admission = self._admit(plan, layers, check, forward)
        reader = self._reader(metadata)
        encoder = BatchEncoder(
            plan,
            layers,
            spec.targets,
            device=self.device,
            batch_size=metadata.batch,
            keep_samples=spec.statistics.estimator == "ace",
            effects=effects,
            check=self._check_stopped,
        )
        pass_of = (lambda _: forward) if effects is None else effects.pass_of(forward)
        sources = UnitSources(spec, plan, reader, pass_of, self.pilot_cache, self._count_images)
        self.close()  # what an earlier pass read with
        self._pass_state = _PassState(plan, epoch, memory, encoder, sources, self._empty_buffer(plan))
        return admission

    def _admit(self, plan: Plan, layers: Mapping[str, LayerPlan], check: CheckRows, forward: Forward) -> Admission:
        """Show that this worker computes what the pilot computed. Raises NotAdmitted."""
        metadata = PlanMetadata.of(plan)
        own_class = numeric_class(
            self.device,
            numerics=metadata.numerics,
            batch_size=metadata.batch,
            threads=self.spec.threads,
            decode=metadata.decode,
        )
        if self.pilot_cache.plan == plan.digest:  # made in this process: one batch shows that the model repeats itself
            if self.pilot_cache.repeats:  # which the pilot has seen already
                return Admission(own_class, 0.0)
            check = check.first(metadata.batch)
        plan_class, exact = metadata.numeric_class, self.spec.compute.exact
        return retry_on_oom(
            lambda: check.admit(forward, layers, own_class=own_class, plan_class=plan_class, exact=exact),
            self.device,
            metadata.batch,
        )

    def _reader(self, metadata: PlanMetadata) -> UnitReader:
        options = replace(
            self.spec.loader_options(metadata.batch, metadata.fold_hash),
            image_shape=metadata.image_shape,
            channels_last=metadata.layout == CHANNELS_LAST,
            pinned=self.device.type == "cuda",
            decoder=decoder_of(metadata.decode, self.device),
        )
        return UnitReader(options)

    def _memory(self) -> int:
        """Bytes that the buffer may hold: on a GPU, whose sums stay there until they are written, a share of it."""
        memory = memory_of(self.spec)
        return min(memory, free_memory(self.device) // 4) if self.device.type == "cuda" else memory

    def _empty_buffer(self, plan: Plan) -> AttemptBuffer:
        return AttemptBuffer(plan, device=self.device, kept_columns=self.spec.kept)

    def _count_images(self, rows: int) -> None:
        self.images_seen += rows

    # -- units

    @property
    def plan(self) -> Plan:
        """The plan as this worker holds it."""
        return self._current.plan

    @property
    def buffer(self) -> AttemptBuffer:
        """What is added up for the next attempt."""
        return self._current.buffer

    @property
    def sources(self) -> UnitSources:
        """Where units' batches come from."""
        return self._current.sources

    @property
    def _current(self) -> _PassState:
        if self._pass_state is None:
            raise RuntimeError(f"worker {self.worker}: has no plan yet; begin comes first")
        return self._pass_state

    def process(self, unit: Unit, upcoming: Unit | None = None, codes_file: str | None = None) -> UnitReport:
        """Work through one unit and add it to the buffer; read the upcoming one ahead meanwhile.

        codes_file: the extended run's file that holds the unit's codes. The unit's rows are then not forwarded, unless
        the file cannot be read any more.

        Raises Abandoned after `stop`; the buffer is as it was then.
        """
        current = self._current
        seconds = StageSeconds()
        images_before = self.images_seen
        with closing(current.sources.open(unit, codes_file, seconds)) as source:
            current.sources.read_ahead(unit, upcoming)
            rows = current.encoder.no_rows()
            for batch in source.encoded(current.encoder, seconds):
                rows.append(batch)
        totals = source.totals
        rows.bad.extend(totals.bad)
        seconds.add(source.seconds)
        with seconds.stage("statistics"):
            left_out = {"filtered": totals.filtered, "unlabelled": totals.unlabelled}
            count = current.buffer.add(unit, rows, **left_out, bytes_read=totals.bytes_read)
        log_fields = {"actor": self.worker, "unit": unit.id, "rows": count.rows}
        log.info("unit %s: %d rows of %d count", unit.id, count.rows, unit.rows, extra=log_fields)
        return UnitReport(
            unit=unit.id,
            count=count,
            forwarded=self.images_seen - images_before,
            seconds=seconds.by_stage(),
            bytes_read=totals.bytes_read,
            last_fault=None if source.kind == CODES else _last_fault(rows.bad),  # those were reported by that run
            of_pilot=source.kind == PILOT,
        )

    def stop(self) -> None:
        """Give up the unit in hand at the next batch (another thread may call this)."""
        self._stop.set()

    def close(self) -> None:
        """End the threads that read and decode. No unit can be processed after that, until another `begin`."""
        if self._pass_state is not None:
            self._pass_state.sources.reader.close()

    # -- attempts

    @property
    def should_flush(self) -> bool:
        """Whether the buffer is small against what was read for it, has waited long enough, or is full."""
        current = self._current
        return current.buffer.is_due(memory=current.memory, seconds=self.spec.flush_seconds)

    def flush(self) -> Receipt | None:
        """Write the buffer as an attempt and return its receipt; None where no unit is in it."""
        current = self._current
        if not current.buffer.counts:
            return None
        self._attempts += 1
        attempt = f"e{current.epoch:05d}-{self.worker}-f{self._attempts:05d}"
        receipt = Receipt(
            attempt=attempt,
            epoch=current.epoch,
            worker=self.worker,
            plan=current.plan.digest,
            weights=self.weights,
            units=dict(current.buffer.counts),
            files=current.buffer.write(self.store, attempt),
        )
        log_fields = {"actor": self.worker, "attempt": attempt}
        log.info("attempt %s is written: %d units", attempt, len(receipt.units), extra=log_fields)
        current.buffer = self._empty_buffer(current.plan)
        return receipt

    # -- reduce

    def reduce(self, plan: Plan, block: ChannelBlock, receipts: Sequence[Receipt]) -> BlockScores:
        """One reduce task; needs no model, but the worker is up anyway."""
        settings = self.spec.statistics
        return reduce_block(
            self.store,
            plan,
            block,
            receipts,
            penalty=settings.penalty,
            estimator=settings.estimator,
            memory=memory_of(self.spec),
        )

    def merge_examples(self, plan: Plan, receipts: Sequence[Receipt]) -> dict[str, bytes]:
        """One task of the reduce: the example rows of some attempts."""
        return merge_examples(self.store, plan, receipts)


def _last_fault(bad: Sequence[BadRow]) -> str | None:
    return f"{bad[-1].file} row {bad[-1].row}: {bad[-1].reason}" if bad else None
