"""The body of a worker, without Ray: makes the plan, works through units, accumulates, flushes attempts.

It exists once; the Ray actor only calls it, and so can a script on a bare GPU box. A unit enters the accumulator only
when it is finished; rows that fail are written down and never end a run (docs/protocol.md, items 5 to 7).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pcace_dist.artifacts.attempt import Block, write_attempt
from pcace_dist.artifacts.block_scores import BlockScores
from pcace_dist.artifacts.codes import CodesWriter, KeptRows, read_unit
from pcace_dist.artifacts.examples import ShownRows, merge_shown
from pcace_dist.artifacts.plan_metadata import Facts
from pcace_dist.datasets.device_images import decoder_of
from pcace_dist.datasets.listing import Listing
from pcace_dist.datasets.loader import Batch, UnitReader, UnitStream
from pcace_dist.datasets.rows import BadRow, RowRef
from pcace_dist.datasets.units import Unit
from pcace_dist.errors import DatasetError, ModelError, RowError
from pcace_dist.ledger.ledger import Receipt, UnitCount
from pcace_dist.models import layouts
from pcace_dist.models.device import free_memory, once_more, to_device, to_host
from pcace_dist.models.forward import Forward, numeric_class
from pcace_dist.models.load import weights_digest
from pcace_dist.models.precision import CHANNELS_LAST
from pcace_dist.models.settings import set_deterministic
from pcace_dist.models.tap import Receive
from pcace_dist.models.targets import target_values
from pcace_dist.statistics.code_buffer import CodeBuffer
from pcace_dist.statistics.folds import key_of_bytes, key_of_value
from pcace_dist.statistics.group_accumulator import GroupAccumulator, RowCodes, row_bytes
from pcace_dist.statistics.plan import LayerCodes, Plan
from pcace_dist.statistics.samples import SampleRows, row_key
from pcace_dist.storage.store import Store
from pcace_dist.worker.admission import Admission, CheckRows
from pcace_dist.worker.allocator import keep_memory
from pcace_dist.worker.memory import memory_of
from pcace_dist.worker.pilot import make_plan
from pcace_dist.worker.pilot_cache import ForwardedUnit, Leftovers
from pcace_dist.worker.reduce import reduce_block
from pcace_dist.worker.spec import WorkSpec

if TYPE_CHECKING:
    from pcace_dist.worker.shared_model import Together

log = logging.getLogger(__name__)

FLUSH_SHARE = 0.05  # flush once the attempt is at most this share of the bytes read since the last flush,
FLUSH_PAUSE = 60.0  # but not more often than this, in seconds: many small attempts cost the reduce


_Forward = Callable[[Tensor, Receive], Tensor]


class Abandoned(Exception):
    """The unit in hand was given up because the worker was told to stop; it will be redone."""


@dataclass(frozen=True)
class UnitReport:
    """What a finished unit came to: counts and seconds by stage."""

    unit: str
    count: UnitCount
    forwarded: int
    seconds: Mapping[str, float]
    bytes_read: int
    last_fault: str | None = None
    of_pilot: bool = False  # its rows had been forwarded by the pilot


@dataclass
class _UnitRows:
    """Encoded rows of the unit in hand, batch by batch."""

    codes: CodeBuffer
    target_codes: list[Tensor] = field(default_factory=list)
    target_fixed: list[Tensor] = field(default_factory=list)
    folds: list[Tensor] = field(default_factory=list)
    samples: list[SampleRows] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    kept: list[KeptRows] = field(default_factory=list)
    refs: list[RowRef] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Passed:
    """A batch that has been forwarded: components and means by layer on the device; `wait` gives outputs and the mask
    of the rows that are finite, on the host."""

    batch: Batch
    projected: Mapping[str, tuple[Tensor, Tensor]]
    wait: Callable[[], tuple[Tensor, ...]]


class Engine:
    """One worker's model, reader and accumulator.

    Life: `Engine(spec, actor, store)`, perhaps `pilot(listing)`, `begin(plan, epoch)`, then `process(unit)` again and
    again and `flush()` whenever `should_flush`; at the end `reduce(...)`.
    """

    def __init__(self, spec: WorkSpec, actor: str, store: Store, together: Together | None = None) -> None:
        """`together`: of workers that are threads of one process; else the model is loaded. Raises ModelError."""
        keep_memory()
        self.spec = spec
        self.actor = actor
        self.store = store
        set_deterministic(spec.threads, strict=spec.exact == "strict")
        self.device = torch.device(spec.device)
        self.model = spec.load_model() if together is None else together.model_copy()
        self.weights = weights_digest(self.model)
        self.model.to(self.device)
        self._together = together
        self.leftovers = Leftovers() if together is None else together.leftovers
        self._stop = threading.Event()
        self._passed: _Passed | None = None
        self._ahead: Unit | None = None
        self._keeps_samples = spec.statistics.estimator == "ace"
        self._flushes = 0
        self._largest_unit = 0  # bytes of its rows as codes
        self.images_seen = 0
        self.pilot_batches = 0

    # -- the plan

    def pilot(self, listing: Listing) -> tuple[Plan, CheckRows]:
        """Make the plan from the pilot, and the rows by which workers are admitted; the caller records both."""
        copies = (
            [] if self._together is None else [self._together.model_copy() for _ in range(1, self._together.workers)]
        )
        made = make_plan(
            [self.model, *copies],  # the other workers wait for the plan
            self.spec,
            listing,
            device=self.device,
            weights=self.weights,
            check=self._give_up_if_stopped,
        )
        if self.spec.plan is None:  # another run's plan may be of another numeric class
            self.leftovers.plan = made.plan.digest
        self.leftovers.units.update(made.units)
        return made.plan, made.check

    def _give_up_if_stopped(self) -> None:
        """Before every batch of the pilot."""
        self.pilot_batches += 1
        if self._stop.is_set():
            raise Abandoned("the pilot")

    def begin(self, plan: Plan, check: CheckRows, epoch: int) -> Admission:
        """Take the frozen plan; only from here on units can be worked on.

        Raises ModelError for other weights, NotAdmitted where `exact: strict` refuses this worker, JobError where the
        plan's images are decoded on a GPU and this worker cannot.
        """
        facts = Facts.of(plan)
        if facts.weights != self.weights:
            raise ModelError(f"model.weights {self.spec.weights}: this worker loaded other weights than the plan's")
        self.epoch = epoch
        self._memory = memory_of(self.spec)
        if self.device.type == "cuda":  # sums stay there until they are flushed
            self._memory = min(self._memory, free_memory(self.device) // 4)
        layouts.keep([self.model], facts.channel_axes)
        self._forward = Forward(
            self.model, self.device, facts.batch, self.spec.mean, self.spec.std, self.spec.layers, facts.numerics
        )
        self._layers = {layer.name: layer.to(self.device).with_projection_layout() for layer in plan.layers}
        self.plan = plan if self.device.type != "cpu" else replace(plan, layers=tuple(self._layers.values()))
        mine = numeric_class(
            self.device,
            numerics=facts.numerics,
            batch_size=facts.batch,
            threads=self.spec.threads,
            decode=facts.decode,
        )
        plans, exact = facts.numeric_class, self.spec.exact
        made_here = self.leftovers.plan
        if made_here is not None and made_here == self.plan.digest:  # one pass shows that the model does it again
            check = check.first(facts.batch)
        admission = once_more(
            lambda: check.admit(self._forward, self._layers, mine=mine, plans=plans, exact=exact),
            self.device,
            facts.batch,
        )
        self._reader = UnitReader(
            self.spec.dataset,
            self.spec.images,
            self.spec.storage,
            batch_size=facts.batch,
            threads=self.spec.threads,
            image_shape=facts.image_shape,
            channels_last=facts.layout == CHANNELS_LAST,
            pinned=self.device.type == "cuda",
            decoder=decoder_of(facts.decode, self.device),
            fold_bytes=key_of_bytes,
            fold_value=key_of_value,
        )
        self._reset()
        return admission

    # -- units

    def process(self, unit: Unit, upcoming: Unit | None = None) -> UnitReport:
        """Work through one unit and add it to the accumulator, reading the upcoming one ahead meanwhile.

        Raises Abandoned after `stop`.
        """
        forwarded = self.leftovers.take(unit.id)
        if forwarded is not None:
            return self._process_forwarded(unit, forwarded, upcoming)
        stream = self._reader.submit(unit)
        self._read_ahead(unit, upcoming)
        rows = self._no_rows()
        before = self.images_seen
        seconds: dict[str, float] = defaultdict(float)
        self._passed = None
        for batch in stream.batches():
            if self._stop.is_set():
                self._reader.discard(unit)
                raise Abandoned(unit.id)
            self._step(batch, self._forward, rows, seconds)
            self.images_seen += len(batch.images)
        for stage, value in stream.seconds.items():
            seconds[stage] += value
        return self._finish(unit, stream, rows, seconds, self.images_seen - before)

    def _process_forwarded(self, unit: Unit, forwarded: ForwardedUnit, upcoming: Unit | None) -> UnitReport:
        """A unit that the pilot has forwarded: what is left to be done. Raises Abandoned after `stop`."""
        self._read_ahead(unit, upcoming)
        rows = self._no_rows()
        seconds: dict[str, float] = defaultdict(float)
        self._passed = None
        for one in forwarded.passes:
            if self._stop.is_set():
                raise Abandoned(unit.id)
            self._step(one.batch, one.again, rows, seconds)
        return self._finish(unit, forwarded, rows, seconds, 0)

    def _read_ahead(self, unit: Unit, upcoming: Unit | None) -> None:
        """Begin to read what follows `unit`, unless it has been forwarded; discard what was begun and does not follow
        any more: it was given to another worker meanwhile."""
        if self._ahead is not None and self._ahead not in (unit, upcoming):
            self._reader.discard(self._ahead)
        self._ahead = None if upcoming is None or upcoming.id in self.leftovers.units else upcoming
        if self._ahead is not None:
            self._reader.submit(self._ahead)

    def _finish(
        self,
        unit: Unit,
        source: UnitStream | ForwardedUnit,
        rows: _UnitRows,
        seconds: dict[str, float],
        forwarded: int,
    ) -> UnitReport:
        """Add a unit's rows to the accumulator and report it."""
        self._settle(rows, seconds)
        rows.bad.extend(source.bad)
        with _Timer(seconds, "statistics"):
            used = self._accumulate(rows)
        count = UnitCount(rows=used, bad=unit.rows - source.filtered - used, filtered=source.filtered)
        self._counts[unit.id] = count
        self._bytes_read += source.bytes_read
        self._largest_unit = max(self._largest_unit, used * row_bytes(self.plan))
        last = rows.bad[-1] if rows.bad else None
        what = {"actor": self.actor, "unit": unit.id, "rows": used}
        log.info("unit %s: %d rows of %d count", unit.id, used, unit.rows, extra=what)
        fault = None if last is None else f"{last.file} row {last.row}: {last.reason}"
        of_pilot = isinstance(source, ForwardedUnit)
        return UnitReport(unit.id, count, forwarded, dict(seconds), source.bytes_read, fault, of_pilot)

    def process_kept(self, unit: Unit, codes_file: str, upcoming: Unit | None = None) -> UnitReport:
        """A unit whose rows are in a codes file of the extended run: the same sums, without forwarding.

        Where that file cannot be read any more, its images are forwarded.
        """
        seconds: dict[str, float] = defaultdict(float)
        try:
            with _Timer(seconds, "read"):
                found = read_unit(f"{self.spec.base}/{codes_file}", self.spec.storage, unit, self.plan)
        except DatasetError as error:
            what = {"actor": self.actor, "unit": unit.id}
            log.warning("%s: unit %s is forwarded instead", error, unit.id, extra=what)
            return self.process(unit, upcoming)
        self._read_ahead(unit, upcoming)
        rows = self._no_rows()
        rows.bad.extend(found.bad)
        if found.rows.refs:
            target_codes, target_fixed = self.plan.encode_targets(found.rows.targets)
            rows.target_codes.append(target_codes)
            rows.target_fixed.append(target_fixed)
            rows.folds.append(self._folds_of(found.rows.fold_keys))
            rows.groups = found.groups(self.spec.dataset.group_by)
            rows.kept.append(found.rows)
            rows.refs.extend(found.rows.refs)
            rows.labels.extend(found.labels(self.spec.dataset.label))
            rows.codes.append(found.codes)
        with _Timer(seconds, "statistics"):
            used = self._accumulate(rows)
        self._counts[unit.id] = UnitCount(rows=used, bad=found.bad_rows, filtered=unit.rows - used - found.bad_rows)
        self._largest_unit = max(self._largest_unit, used * row_bytes(self.plan))
        return UnitReport(unit.id, self._counts[unit.id], 0, dict(seconds), 0)

    def _no_rows(self) -> _UnitRows:
        return _UnitRows(CodeBuffer(self.plan, whole_layers=True, device=self.device))

    def _folds_of(self, keys: np.ndarray) -> Tensor:
        return torch.from_numpy((keys % np.uint64(self.plan.folds)).astype(np.uint8))

    def stop(self) -> None:
        """Give up the unit in hand at the next batch (another thread may call this)."""
        self._stop.set()

    def _step(self, batch: Batch, forward: _Forward, rows: _UnitRows, seconds: dict[str, float]) -> None:
        """Forward one batch. On a GPU, which works on it still, the one before it is encoded meanwhile."""
        passed = once_more(
            lambda: self._pass(batch, forward, seconds),
            self.device,
            self._forward.batch_size,
            before=lambda: self._settle(rows, seconds),
        )
        self._settle(rows, seconds)
        self._passed = passed
        if self.device.type != "cuda":  # nothing runs beside it, and what it gave is in the caches
            self._settle(rows, seconds)

    def _settle(self, rows: _UnitRows, seconds: dict[str, float]) -> None:
        """Encode the batch that was forwarded last, if that is not done."""
        passed, self._passed = self._passed, None
        if passed is not None:
            self._encode(passed, rows, seconds)

    def _pass(self, batch: Batch, forward: _Forward, seconds: dict[str, float]) -> _Passed:
        """Forward one batch: components of all layers stay on the device, outputs start on their way back."""
        projected: dict[str, tuple[Tensor, Tensor]] = {}
        count = len(batch.images)
        finite = torch.ones(count, dtype=torch.bool, device=self.device)

        def receive(name: str, maps: Tensor, _: tuple[int, ...]) -> None:
            start = time.perf_counter()
            components, means = (part[:count] for part in self._layers[name].project(maps))
            projected[name] = components, means
            torch.logical_and(finite, torch.isfinite(components).flatten(1).all(1), out=finite)
            torch.logical_and(finite, torch.isfinite(means).all(1), out=finite)
            seconds["tap"] += time.perf_counter() - start

        before = seconds["tap"]
        start = time.perf_counter()
        outputs = forward(batch.images, receive)
        seconds["forward"] += time.perf_counter() - start - (seconds["tap"] - before)
        return _Passed(batch, projected, to_host(outputs, finite))

    def _encode(self, passed: _Passed, rows: _UnitRows, seconds: dict[str, float]) -> None:
        """Keep codes of a batch's good rows and the reasons of the bad ones."""
        batch, projected = passed.batch, passed.projected
        with _Timer(seconds, "forward"):
            outputs, finite = passed.wait()
        with _Timer(seconds, "statistics"):
            values, reasons = target_values(self.spec.targets, outputs, batch.labels, batch.columns)
            keep = self._sort_out(batch, finite.numpy(), values, reasons, rows)
            kept = torch.from_numpy(np.flatnonzero(keep))
            if not keep.all():  # nothing here waits for a GPU, which is at the next batch already
                on_device = to_device(kept, self.device)
                projected = {name: (parts[0][on_device], parts[1][on_device]) for name, parts in projected.items()}
            rows.codes.append({name: self._layers[name].encode(*parts) for name, parts in projected.items()})
            target_codes, target_fixed = self.plan.encode_targets(values[keep])
            rows.target_codes.append(target_codes)
            rows.target_fixed.append(target_fixed)
            if self._keeps_samples:
                keys = [row_key(f"{batch.refs[i].file}#{batch.refs[i].row}") for i in kept.tolist()]
                held = {name: components.cpu() for name, (components, _) in projected.items()}
                rows.samples.append(SampleRows(torch.tensor(keys), torch.from_numpy(values[keep]), held))
            keys = batch.fold_keys[keep]
            rows.folds.append(self._folds_of(keys))
            if batch.kept is not None:
                held_rows = [(batch.refs[i], batch.kept[i]) for i in kept.tolist()]
                refs, columns = [ref for ref, _ in held_rows], [row for _, row in held_rows]
                rows.kept.append(KeptRows(refs, keys, columns, values[keep]))
            rows.groups.extend(batch.groups[i] if batch.groups is not None else None for i in kept.tolist())
            rows.refs.extend(batch.refs[i] for i in kept.tolist())
            rows.labels.extend(_label(batch, i) for i in kept.tolist())

    def _sort_out(
        self, batch: Batch, finite: np.ndarray, values: np.ndarray, reasons: Mapping[int, str], rows: _UnitRows
    ) -> np.ndarray:
        """Mask of the good rows; every other one is written down with its reason."""
        good = np.isfinite(values).all(1)
        for i in np.flatnonzero(~(finite & good)):
            ref = batch.refs[i]
            stage, reason = (
                ("model", "an activation is NaN or infinite")
                if not finite[i]
                else ("target", reasons.get(int(i), "the target is NaN or infinite"))
            )
            rows.bad.append(BadRow.of(ref, RowError(stage, reason)))
        return np.asarray(finite & good)

    def _accumulate(self, rows: _UnitRows) -> int:
        """Add a finished unit's rows to the segment of each group; the number of rows used."""
        self._bad.extend(rows.bad)
        if not rows.groups:
            return 0
        held_codes = {name: held for name in self._layers if (held := rows.codes.codes(name)) is not None}
        codes = {name: held.cpu() for name, held in held_codes.items()}  # on a GPU: one copy of a unit
        shared = (torch.cat(rows.target_codes), torch.cat(rows.target_fixed), torch.cat(rows.folds))
        self._show(codes, RowCodes(shared[2], shared[0], shared[1]), rows)
        samples = SampleRows.cat(rows.samples) if rows.samples else None
        if rows.kept:
            self._kept_codes().add(KeptRows.cat(rows.kept), codes)
        members: dict[Any, list[int]] = defaultdict(list)
        for i, group in enumerate(rows.groups):
            members[group].append(i)
        for group, indices in members.items():
            index = torch.tensor(indices) if len(members) > 1 else slice(None)  # all rows: no copy
            segment = self._segments.get(group)
            if segment is None:
                segment = self._segments[group] = GroupAccumulator(self.plan, device=self.device)
            segment.append(
                {name: held.take(index) for name, held in held_codes.items()}, *(part[index] for part in shared)
            )
            if samples is not None:
                self._samples[group].append(samples.take(torch.tensor(indices)))
        return len(rows.groups)

    def _show(self, codes: Mapping[str, LayerCodes], shared: RowCodes, rows: _UnitRows) -> None:
        """Keep exemplars and the sample up to date (shown.py)."""
        self._shown.update(codes, shared, rows.refs, rows.groups, rows.labels)

    # -- attempts

    @property
    def should_flush(self) -> bool:
        """Whether the accumulator is small against what was read for it, has waited long enough, or is full."""
        if not self._counts:
            return False
        held = self._shown.nbytes + sum(segment.nbytes for segment in self._segments.values())
        held += sum(part.nbytes for parts in self._samples.values() for part in parts)
        held += 0 if self._codes_writer is None else self._codes_writer.nbytes
        if held + self._largest_unit >= self._memory:
            return True
        waited = time.monotonic() - self._flushed_at
        if waited >= self.spec.flush_seconds:
            return True
        return waited >= FLUSH_PAUSE and held <= FLUSH_SHARE * self._bytes_read

    def flush(self) -> Receipt | None:
        """Write the accumulator as an attempt and return its receipt; None when nothing is held."""
        if not self._counts:
            return None
        self._flushes += 1
        attempt = f"e{self.epoch:05d}-{self.actor}-f{self._flushes:05d}"
        samples = {group: SampleRows.cat(parts) for group, parts in self._samples.items()}
        kept = None if self._codes_writer is None else self._codes_writer.finish()
        shown = self._shown.files()
        segments = {group: segment.cpu() for group, segment in self._segments.items()}
        files = write_attempt(self.store, attempt, self.plan, segments, self._bad, samples, kept, shown)
        receipt = Receipt(
            attempt=attempt,
            epoch=self.epoch,
            actor=self.actor,
            plan=self.plan.digest,
            weights=self.weights,
            units=dict(self._counts),
            files=files,
        )
        what = {"actor": self.actor, "attempt": attempt}
        log.info("attempt %s is written: %d units", attempt, len(receipt.units), extra=what)
        self._reset()
        return receipt

    def _reset(self) -> None:
        self._segments: dict[Any, GroupAccumulator] = {}
        self._samples: dict[Any, list[SampleRows]] = defaultdict(list)
        self._shown = ShownRows(self.plan)
        self._bad: list[BadRow] = []
        self._counts: dict[str, UnitCount] = {}
        self._codes_writer: CodesWriter | None = None
        self._bytes_read = 0
        self._largest_unit = 0
        self._flushed_at = time.monotonic()

    def _kept_codes(self) -> CodesWriter:
        """The writer of this attempt's codes; begun with its first unit."""
        if self._codes_writer is None:
            assert self.spec.kept is not None
            self._codes_writer = CodesWriter(self.plan, self.spec.kept)
        return self._codes_writer

    # -- reduce

    def reduce(self, plan: Plan, block: Block, receipts: Sequence[Receipt]) -> BlockScores:
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

    def merge_shown(self, plan: Plan, receipts: Sequence[Receipt]) -> dict[str, bytes]:
        """One task of the reduce: the rows to show of some attempts."""
        return merge_shown(self.store, plan, receipts)


def _label(batch: Batch, row: int) -> int | None:
    """The class index of a row; None where there is none."""
    label = -1 if batch.labels is None else int(batch.labels[row])
    return None if label < 0 else label


class _Timer:
    """Adds the seconds of a `with` block to a stage."""

    def __init__(self, seconds: dict[str, float], stage: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._seconds, self._stage, self._clock = seconds, stage, clock

    def __enter__(self) -> None:
        self._start = self._clock()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] += self._clock() - self._start
