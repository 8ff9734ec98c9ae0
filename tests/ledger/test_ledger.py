"""Records, the fold over them, and the ledger on a store that fails."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from pcace_dist.errors import StoreUnavailable, TakenOver
from pcace_dist.ledger.ledger import FileRef, IllegalHistory, Ledger, Receipt, Record, RunState, UnitCount, fold
from tests.memory_store import Bucket, Crash, Fault, MemoryStore

HOLDER = {"host": "one", "pid": 7}
MANIFEST = {"plan": "p", "weights": "w", "units": [{"id": "u0"}, {"id": "u1"}, {"id": "u2"}]}


def receipt(*units: str, attempt: str = "t1", epoch: int = 1, plan: str = "p", weights: str = "w") -> Receipt:
    counts = {unit: UnitCount(10, 1, 2) for unit in units}
    return Receipt(attempt, epoch, "a", plan, weights, counts, {"sums": FileRef(3, "ab")})


def accept(*receipts: Receipt) -> tuple[str, dict[str, Any]]:
    return "accept", {"receipts": [said.to_json() for said in receipts]}


def history(*steps: tuple[str, dict[str, Any]]) -> RunState:
    """The fold over records of rising epochs."""
    epoch, records = 0, []
    for n, (kind, body) in enumerate(steps, 1):
        epoch += kind == "open"
        records.append(Record(n, kind, epoch, f"x{n}", 0.0, body))
    return fold(records)


OPEN = ("open", {"holder": HOLDER})
BEGUN = (OPEN, ("manifest", MANIFEST))


# -- records


def test_a_record_survives_its_bytes() -> None:
    record = Record(17, "accept", 2, "x", 1.5, {"receipts": []})
    assert record.key == "ledger/00000017.json"
    assert Record.from_bytes(record.to_bytes(), 17) == record


def test_a_receipt_survives_json() -> None:
    said = receipt("u0", "u1")
    assert Receipt.from_json(json.loads(json.dumps(said.to_json()))) == said


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"n": 1}', b"\xff"])
def test_what_is_no_record_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(IllegalHistory, match=r"ledger/00000001\.json"):
        Record.from_bytes(data, 1)


def test_a_record_in_the_wrong_place_is_refused() -> None:
    with pytest.raises(IllegalHistory, match="says that it is record 2"):
        Record.from_bytes(Record(2, "open", 1, "x", 0, {}).to_bytes(), 1)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".hidden", "a/b"])
def test_a_receipt_cannot_lead_out_of_its_attempt(name: str) -> None:
    value = receipt("u0").to_json()
    with pytest.raises(IllegalHistory):
        Receipt.from_json(value | {"files": {name: {"size": 1, "sha256": ""}}})
    with pytest.raises(IllegalHistory):
        Receipt.from_json(value | {"attempt": name})


# -- the fold


def test_an_empty_ledger_says_nothing() -> None:
    state = RunState()
    assert (state.epoch, state.holder, state.manifest, state.done) == (0, None, None, None)
    assert state.pending_units() == []


def test_open_names_the_holder() -> None:
    state = history(OPEN, OPEN)
    assert state.epoch == 2
    assert state.holder == HOLDER


def test_units_are_pending_until_accepted_or_set_aside() -> None:
    state = history(*BEGUN, accept(receipt("u1")), ("set_aside", {"units": ["u0"], "reason": "it kills"}))
    assert [state.is_settled(unit) for unit in ("u0", "u1", "u2")] == [True, True, False]
    assert state.pending_units() == ["u2"]
    assert state.set_aside == {"u0": "it kills"}
    assert state.attempt_of("u1") == "t1"


def test_accepted_receipts_stay_in_the_order_of_the_ledger() -> None:
    state = history(*BEGUN, accept(receipt("u2", attempt="t2")), accept(receipt("u1"), receipt("u0", attempt="t0")))
    assert [said.attempt for said in state.accepted_receipts()] == ["t2", "t1", "t0"]


def test_a_retracted_attempt_makes_its_units_pending_again() -> None:
    state = history(*BEGUN, accept(receipt("u0", "u2")), ("retract", {"attempts": ["t1"], "reason": "corrupt"}))
    assert state.pending_units() == ["u0", "u1", "u2"]
    assert state.accepted_receipts() == ()


def test_apply_leaves_the_state_before_as_it_was() -> None:
    before = history(*BEGUN)
    before.apply(Record(3, *("accept", 1, "x", 0.0, accept(receipt("u0"))[1])))
    assert before.pending_units() == ["u0", "u1", "u2"]


DONE = (*BEGUN, accept(receipt("u0", "u1", "u2")), ("done", {"exit_code": 0}))


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((("manifest", MANIFEST),), "before the first open"),
        ((OPEN, accept(receipt("u0"))), "before the manifest"),
        ((*BEGUN, ("manifest", MANIFEST)), "second manifest"),
        ((OPEN, ("manifest", MANIFEST | {"units": [{"id": "u"}, {"id": "u"}]})), "twice"),
        ((OPEN, ("manifest", {"units": []})), "malformed"),
        ((*BEGUN, accept(receipt("u0")), accept(receipt("u0", attempt="t2"))), "already"),
        ((*BEGUN, accept(receipt("u0"), receipt("u0", attempt="t2"))), "already"),
        ((*BEGUN, accept(receipt("u0")), accept(receipt("u1"))), "accepted before"),
        (
            (*BEGUN, accept(receipt("u0")), ("retract", {"attempts": ["t1"], "reason": ""}), accept(receipt("u0"))),
            "before",
        ),
        ((*BEGUN, accept(receipt("u9"))), "not in the manifest"),
        ((*BEGUN, accept(receipt("u0", epoch=2))), "epoch 2"),
        ((*BEGUN, OPEN, accept(receipt("u0"))), "epoch 1"),
        ((*BEGUN, accept(receipt("u0", plan="q"))), "another plan"),
        ((*BEGUN, accept(receipt("u0", weights="v"))), "other weights"),
        ((*BEGUN, ("set_aside", {"units": ["u9"], "reason": ""})), "not in the manifest"),
        ((*BEGUN, accept(receipt("u0")), ("set_aside", {"units": ["u0"], "reason": ""})), "already"),
        ((*BEGUN, ("set_aside", {"units": ["u0"], "reason": ""}), accept(receipt("u0"))), "already"),
        ((*BEGUN, ("retract", {"attempts": ["t9"], "reason": ""})), "not accepted"),
        ((*BEGUN, ("done", {})), "neither accepted"),
        ((*DONE, OPEN), "after done"),
        ((*BEGUN, ("bless", {})), "newer version"),
    ],
)
def test_an_illegal_history_is_refused(steps: tuple[tuple[str, dict[str, Any]], ...], why: str) -> None:
    with pytest.raises(IllegalHistory, match=why):
        history(*steps)


def test_done_ends_the_history() -> None:
    assert history(*DONE).done == {"exit_code": 0}


# -- on a store


def ledger(store: MemoryStore) -> Ledger:
    nonces = (f"{store.who}-{i}" for i in itertools.count())
    return Ledger(store, nonce=lambda: next(nonces), now=lambda: 5.0)


def opened(bucket: Bucket, who: str = "one", units: bool = True) -> tuple[Ledger, MemoryStore]:
    store = MemoryStore(bucket, who)
    made = ledger(store)
    made.open({"host": who})
    if units and made.state.manifest is None:
        made.append("manifest", MANIFEST)
    return made, store


def fail_once(store: MemoryStore, fault: Fault, operation: str = "put_if_absent") -> None:
    faults = iter([fault])
    store.decide = lambda name, key: next(faults, Fault.NONE) if name == operation else Fault.NONE


def test_what_is_appended_is_loaded() -> None:
    bucket = Bucket()
    made, _ = opened(bucket)
    made.append(*accept(receipt("u0")))
    state = ledger(MemoryStore(bucket)).load()
    assert state == made.state
    assert state.opened_at == 5.0


def test_a_long_ledger_is_loaded_whole() -> None:
    bucket = Bucket()
    for i in range(40):
        opened(bucket, f"d{i}")
    assert ledger(MemoryStore(bucket)).load().epoch == 40


def test_loading_goes_on_beyond_an_old_listing() -> None:
    bucket = Bucket()
    opened(bucket)
    store = MemoryStore(bucket)
    store.list = lambda prefix="": []  # type: ignore[method-assign]
    assert ledger(store).load().length == 2


def test_a_gap_is_named() -> None:
    bucket = Bucket()
    opened(bucket)
    del bucket.objects["ledger/00000001.json"]
    with pytest.raises(IllegalHistory, match=r"00000001\.json: is missing"):
        ledger(MemoryStore(bucket)).load()


def test_appending_before_open_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="opened"):
        ledger(MemoryStore()).append("done", {})


def test_an_illegal_append_is_not_written() -> None:
    bucket = Bucket()
    made, _ = opened(bucket)
    before = dict(bucket.objects)
    with pytest.raises(IllegalHistory):
        made.append("done", {})
    assert bucket.objects == before
    made.append(*accept(receipt("u0")))


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.LOST, Fault.DELAYED, Fault.DUPLICATED])
def test_an_append_survives_a_bad_answer(fault: Fault) -> None:
    bucket = Bucket()
    made, store = opened(bucket)
    fail_once(store, fault)
    made.append(*accept(receipt("u0")))
    while bucket.in_flight:
        bucket.land(0)
    made.append(*accept(receipt("u1", attempt="t2")))
    assert ledger(MemoryStore(bucket)).load() == made.state


def test_a_retried_put_that_finds_itself_has_succeeded() -> None:
    """The first answer is lost, the read after it fails too, and the second put is refused because of the first."""
    bucket = Bucket()
    made, store = opened(bucket)
    answers = {"put_if_absent": iter([Fault.LOST]), "get": iter([Fault.FAIL])}
    store.decide = lambda operation, key: next(answers.get(operation, iter(())), Fault.NONE)
    made.append(*accept(receipt("u0")))
    assert [name for name, _ in store.operations[-4:]] == ["put_if_absent", "get", "put_if_absent", "get"]
    assert made.state.pending_units() == ["u1", "u2"]


def test_a_store_that_stays_away_ends_the_instance() -> None:
    store = MemoryStore()
    made = ledger(store)
    made.open(HOLDER)
    store.decide = lambda operation, key: Fault.FAIL
    with pytest.raises(StoreUnavailable, match="the same command goes on"):
        made.append("manifest", MANIFEST)
    assert [name for name, _ in store.operations[-2:]] == ["put_if_absent", "get"]
    assert sum(name == "put_if_absent" for name, _ in store.operations) == 1 + 4
    store.decide = lambda operation, key: Fault.NONE
    before = len(store.operations)
    with pytest.raises(StoreUnavailable):
        made.append("manifest", MANIFEST)
    assert len(store.operations) == before


def test_an_append_that_was_interrupted_ends_the_instance() -> None:
    made, store = opened(Bucket())
    fail_once(store, Fault.CRASH_AFTER)
    with pytest.raises(Crash):
        made.append(*accept(receipt("u0")))
    with pytest.raises(StoreUnavailable, match="interrupted"):
        made.append(*accept(receipt("u0")))


def test_the_loser_of_a_takeover_writes_nothing_more() -> None:
    bucket = Bucket()
    old, store = opened(bucket, "old")
    new, _ = opened(bucket, "new")
    before = dict(bucket.objects)
    with pytest.raises(TakenOver, match="epoch 2: host new"):
        old.append(*accept(receipt("u0")))
    operations = len(store.operations)
    for _ in range(3):
        with pytest.raises(TakenOver):
            old.append(*accept(receipt("u0")))
    with pytest.raises(TakenOver):
        old.open(HOLDER)
    assert len(store.operations) == operations
    assert bucket.objects == before
    new.append(*accept(receipt("u0", epoch=2)))


def test_check_held_finds_a_takeover_without_writing() -> None:
    bucket = Bucket()
    old, _ = opened(bucket, "old")
    old.check_held()
    opened(bucket, "new")
    with pytest.raises(TakenOver):
        old.check_held()
    with pytest.raises(TakenOver):
        old.append(*accept(receipt("u0")))


def test_of_two_drivers_that_open_at_once_one_is_turned_away() -> None:
    bucket = Bucket()
    one, other = ledger(MemoryStore(bucket, "one")), ledger(MemoryStore(bucket, "other"))
    one.load()
    other.load()
    assert one.open({"host": "one"}) == 1
    with pytest.raises(TakenOver, match="host one"):
        other.open({"host": "other"})
    assert len(bucket.objects) == 1


def test_a_late_record_of_the_driver_before_does_not_stop_an_open() -> None:
    bucket = Bucket()
    old, _ = opened(bucket, "old")
    new = ledger(MemoryStore(bucket, "new"))
    new.load()
    old.append(*accept(receipt("u0")))
    assert new.open({"host": "new"}) == 2
    assert new.state.pending_units() == ["u1", "u2"]


def test_a_finished_run_is_reopened_with_attempts_to_be_redone() -> None:
    bucket = Bucket()
    made, _ = opened(bucket)
    made.append(*accept(receipt("u0")))
    made.append(*accept(receipt("u1", "u2", attempt="t2")))
    made.append("done", {"exit_code": 0})
    other = ledger(MemoryStore(bucket, "two"))
    assert other.reopen(HOLDER, ["t2"], "asked for") == 2
    assert (other.state.done, other.state.pending_units()) == (None, ["u1", "u2"])
    other.append(*accept(receipt("u1", "u2", attempt="t3", epoch=2)))
    other.append("done", {"exit_code": 0})
    assert ledger(MemoryStore(bucket)).load() == other.state


def test_only_a_finished_run_is_reopened() -> None:
    made, _ = opened(Bucket())
    with pytest.raises(IllegalHistory, match="before done"):
        made.reopen(HOLDER, [], "asked for")


def test_a_finished_run_is_not_opened_again() -> None:
    bucket = Bucket()
    made, _ = opened(bucket)
    made.append(*accept(receipt("u0", "u1", "u2")))
    made.append("done", {"exit_code": 0})
    with pytest.raises(TakenOver, match="is done"):
        ledger(MemoryStore(bucket)).open(HOLDER)
