"""The dispatcher: who works on which unit. A pure state machine (docs/protocol.md, items 6 to 8).

A unit is lent to one live worker at a time. The worker holds a finished unit in its accumulator until a receipt is
accepted. If it is lost before, the unit is lost with it: the worker is fenced (nothing it says later counts) and all
its unaccepted units are lent anew. A unit during which workers died waits behind units that killed fewer, so that one
lethal unit does not cost more workers while there is other work. After two deaths it runs alone; after the third it is
set aside. A unit is never given to a second worker while the first one lives, not even at the end of a run. Knows no
clock, no threads, no store and no Ray.

A worker that gets nothing to do while it still holds finished units should flush them, then ask again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pcace_dist.ledger.ledger import Receipt


@dataclass(frozen=True)
class Lend:
    """A unit to compute now. `alone`: the worker's accumulator is empty, and nothing else may be read ahead with it."""

    unit: str
    alone: bool = False


@dataclass(frozen=True)
class Accepted:
    """The receipt counts: write it to the ledger."""

    receipt: Receipt


@dataclass(frozen=True)
class Rejected:
    """The receipt does not count. From a live worker this is a fault of that worker: end it and report it as lost."""

    reason: str


@dataclass
class _Worker:
    """What one live worker has in hand."""

    working_on: str | None = None
    unaccepted: list[str] = field(default_factory=list)  # finished units
    reserved: str | None = None  # read ahead, not lent


class Dispatcher:
    """Lends units, in their order, to workers that are up; those during which workers died come last.

    `max_deaths`: after so many workers died during a unit it runs alone; one more and it is set aside.
    """

    def __init__(self, unit_ids: Iterable[str], *, epoch: int, plan: str, weights: str, max_deaths: int = 2) -> None:
        self._ids = list(unit_ids)
        self._order = {unit: i for i, unit in enumerate(self._ids)}
        if len(self._order) != len(self._ids):
            raise ValueError("a unit is named twice")
        self._epoch, self._plan, self._weights = epoch, plan, weights
        self._max_deaths = max_deaths
        self._waiting = [(0, i) for i in range(len(self._ids))]  # heap of deaths and positions: units that nobody has
        self._workers: dict[str, _Worker] = {}
        self._gone: set[str] = set()
        self._deaths: dict[str, int] = {}
        self._suspects: set[str] = set()  # read ahead when a worker died: not read ahead again
        self._accepted: set[str] = set()
        self._set_aside: dict[str, str] = {}
        self._to_record: list[tuple[str, str]] = []
        self.redone_units = 0  # computed or begun, and lent again since

    # -- workers

    def worker_joined(self, worker: str) -> None:
        """A worker is up and may be given units. Raises ValueError for a name that was lost: it never comes back."""
        if worker in self._gone:
            raise ValueError(f"worker {worker} was fenced; a new process needs a new name")
        self._workers.setdefault(worker, _Worker())

    def worker_lost(self, worker: str, reason: str, *, blame: bool = True) -> list[str]:
        """Fence a worker and lend its unaccepted units anew; returns those units. Further calls do nothing.

        `blame=False` when its end has nothing to do with the unit in hand (its node went or drained, it was let go).
        """
        self._gone.add(worker)
        lost = self._workers.pop(worker, None)
        if lost is None:
            return []
        back = list(lost.unaccepted)
        if lost.reserved is not None:
            self._give_back(lost.reserved)
            if blame:
                self._suspects.add(lost.reserved)
        if lost.working_on is not None:
            back.append(lost.working_on)
            if blame:
                self._count_death(lost.working_on, reason)
        back = [unit for unit in back if unit not in self._set_aside]
        for unit in back:
            self._give_back(unit)
        self.redone_units += len(back)
        return back

    # -- units

    def lend(self, worker: str) -> Lend | None:
        """A unit for an idle worker; None if there is none for it now.

        A unit that must run alone is given only to a worker that holds nothing; others are given other units meanwhile.
        When nothing waits, a unit that a busy worker has only read ahead is taken from it. Raises ValueError for an
        worker that is not up or has a unit in hand.
        """
        state = self._live(worker)
        if state.working_on is not None:
            raise ValueError(f"worker {worker} still has unit {state.working_on}")
        unit, state.reserved = state.reserved, None
        if unit is None:
            unit = self._take(lambda candidate: not (state.unaccepted and self._must_run_alone(candidate)))
        if unit is None:
            unit = self._take_reservation()
        if unit is None:
            return None
        state.working_on = unit
        return Lend(unit, alone=self._must_run_alone(unit))

    def peek_next(self, worker: str) -> str | None:
        """Reserve the unit that this worker will probably be lent next, to be read ahead; None if there is none.

        Asking again gives the same unit. Units during which a worker died, or that were being read ahead then, are not
        read ahead again: should they kill once more, the unit in hand must not be blamed.
        """
        state = self._live(worker)
        if state.working_on is not None and self._must_run_alone(state.working_on):
            return None
        if state.reserved is None:
            state.reserved = self._take(lambda unit: unit not in self._suspects and unit not in self._deaths)
        return state.reserved

    def finished(self, worker: str, unit: str) -> bool:
        """The worker has computed the unit and holds it. False, and nothing changes, when it was not lent this unit."""
        state = self._workers.get(worker)
        if state is None or state.working_on != unit:
            return False
        state.working_on = None
        state.unaccepted.append(unit)
        return True

    def gave_up(self, worker: str, unit: str) -> bool:
        """The worker has dropped the unit in hand (told to stop, or its node drains); it waits again."""
        state = self._workers.get(worker)
        if state is None or state.working_on != unit:
            return False
        state.working_on = None
        self._give_back(unit)
        self.redone_units += 1
        return True

    def receipt(self, worker: str, receipt: Receipt) -> Accepted | Rejected:
        """Whether a receipt counts, all or nothing. Accepted units are settled; write the receipt to the ledger."""
        reason = self._objection(worker, receipt)
        if reason is not None:
            return Rejected(reason)
        state = self._workers[worker]
        if state.working_on in receipt.units:
            state.working_on = None
        state.unaccepted = [unit for unit in state.unaccepted if unit not in receipt.units]
        self._accepted.update(receipt.units)
        return Accepted(receipt)

    def take_set_aside(self) -> list[tuple[str, str]]:
        """Units set aside since the last call, with reasons: to be written to the ledger."""
        set_aside, self._to_record = self._to_record, []
        return set_aside

    # -- queries

    def all_done(self) -> bool:
        """Every unit is accepted or set aside."""
        return len(self._accepted) + len(self._set_aside) == len(self._ids)

    def outstanding(self) -> list[str]:
        """Units that are neither accepted nor set aside, in their order."""
        return [unit for unit in self._ids if not self._is_settled(unit)]

    def finished_unrecorded(self) -> list[str]:
        """Units that are finished but only held in an accumulator."""
        return [unit for state in self._workers.values() for unit in state.unaccepted]

    def holds_unrecorded(self, worker: str) -> bool:
        """Whether a worker holds finished units that a flush would save."""
        state = self._workers.get(worker)
        return state is not None and bool(state.unaccepted)

    @property
    def waiting(self) -> int:
        """Units that nobody works on; more workers than this find nothing to do."""
        return len(self._waiting) + sum(state.reserved is not None for state in self._workers.values())

    # -- inside

    def _objection(self, worker: str, receipt: Receipt) -> str | None:
        """Why a receipt does not count; None if it does (docs/protocol.md, item 7)."""
        if worker in self._gone:
            return f"worker {worker} is fenced"
        state = self._workers.get(worker)
        if state is None:
            return f"worker {worker} is not known"
        if receipt.worker != worker:
            return f"it is of worker {receipt.worker}, and came from {worker}"
        if receipt.epoch != self._epoch:
            return f"it is of epoch {receipt.epoch}, not {self._epoch}"
        if receipt.plan != self._plan:
            return "it was made with another plan"
        if receipt.weights != self._weights:
            return "it was made with other weights"
        if not receipt.units:
            return "it holds no unit"
        for unit in receipt.units:
            if unit not in self._order:
                return f"unit {unit} is not one of this run's"
            if self._is_settled(unit):
                return f"unit {unit} is {'accepted' if unit in self._accepted else 'set aside'} already"
            if unit not in state.unaccepted and unit != state.working_on:
                return f"unit {unit} is not lent to {worker}"
        return None

    def _live(self, worker: str) -> _Worker:
        if worker not in self._workers:
            raise ValueError(f"worker {worker} is not up")
        return self._workers[worker]

    def _is_settled(self, unit: str) -> bool:
        return unit in self._accepted or unit in self._set_aside

    def _must_run_alone(self, unit: str) -> bool:
        return self._deaths.get(unit, 0) >= self._max_deaths

    def _give_back(self, unit: str) -> None:
        heapq.heappush(self._waiting, (self._deaths.get(unit, 0), self._order[unit]))

    def _take(self, suits: Callable[[str], bool]) -> str | None:
        """The first waiting unit that suits, no longer waiting."""
        skipped: list[tuple[int, int]] = []
        unit = None
        while self._waiting and unit is None:
            entry = heapq.heappop(self._waiting)
            if suits(self._ids[entry[1]]):
                unit = self._ids[entry[1]]
            else:
                skipped.append(entry)
        for entry in skipped:
            heapq.heappush(self._waiting, entry)
        return unit

    def _take_reservation(self) -> str | None:
        """The last of the units that others have only read ahead."""
        reserving = [state for state in self._workers.values() if state.reserved is not None]
        if not reserving:
            return None
        last = max(reserving, key=lambda state: self._order[state.reserved or ""])
        unit, last.reserved = last.reserved, None
        return unit

    def _count_death(self, unit: str, reason: str) -> None:
        self._deaths[unit] = self._deaths.get(unit, 0) + 1
        if self._deaths[unit] > self._max_deaths:
            self._put_aside(unit, f"{self._deaths[unit]} workers died while they computed it; the last one: {reason}")

    def _put_aside(self, unit: str, reason: str) -> None:
        self._set_aside[unit] = reason
        self._to_record.append((unit, reason))
