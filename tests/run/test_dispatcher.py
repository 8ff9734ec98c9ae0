"""The dispatcher alone: lending, fencing, receipts, units that kill."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pcace_dist.ledger.ledger import Receipt, UnitCount
from pcace_dist.run.dispatcher import Accepted, Dispatcher, Lend, Rejected


def dispatcher(units: int = 4, workers: Iterable[str] = ("a", "b")) -> Dispatcher:
    made = Dispatcher([f"u{i}" for i in range(units)], epoch=3, plan="p", weights="w")
    for worker in workers:
        made.worker_joined(worker)
    return made


def receipt(
    worker: str, units: Iterable[str], *, attempt: str = "t1", epoch: int = 3, plan: str = "p", weights: str = "w"
) -> Receipt:
    return Receipt(attempt, epoch, worker, plan, weights, {unit: UnitCount(10) for unit in units}, {})


def compute(made: Dispatcher, worker: str) -> str:
    lend = made.lend(worker)
    assert lend is not None
    assert made.finished(worker, lend.unit)
    return lend.unit


def why_rejected(made: Dispatcher, worker: str, offered: Receipt) -> str:
    verdict = made.receipt(worker, offered)
    assert isinstance(verdict, Rejected)
    return verdict.reason


def test_units_are_lent_in_order_each_to_one_worker() -> None:
    made = dispatcher(units=2)
    assert made.lend("a") == Lend("u0")
    assert made.lend("b") == Lend("u1")
    made.worker_joined("c")
    assert made.lend("c") is None


def test_a_worker_has_one_unit_in_hand() -> None:
    made = dispatcher()
    made.lend("a")
    with pytest.raises(ValueError, match="still has unit u0"):
        made.lend("a")


def test_only_workers_that_are_up_get_units() -> None:
    with pytest.raises(ValueError, match="not up"):
        dispatcher(workers=()).lend("a")


def test_a_unit_is_twice_in_no_list() -> None:
    with pytest.raises(ValueError, match="twice"):
        Dispatcher(["u", "u"], epoch=1, plan="p", weights="w")


def test_a_finished_unit_is_done_only_when_its_receipt_is_accepted() -> None:
    made = dispatcher(units=1)
    compute(made, "a")
    assert not made.all_done()
    assert made.finished_unrecorded() == ["u0"]
    assert made.outstanding() == ["u0"]
    offered = receipt("a", ["u0"])
    assert made.receipt("a", offered) == Accepted(offered)
    assert made.all_done()
    assert made.finished_unrecorded() == []


def test_a_lost_worker_gives_back_what_it_held_and_what_it_worked_on() -> None:
    made = dispatcher()
    compute(made, "a")
    made.lend("a")
    made.peek_next("a")
    assert made.worker_lost("a", "gone") == ["u0", "u1"]
    assert [compute(made, "b") for _ in range(4)] == ["u0", "u2", "u3", "u1"]  # the one in hand comes last
    assert made.redone_units == 2


def test_what_was_accepted_is_not_lent_again() -> None:
    made = dispatcher()
    made.receipt("a", receipt("a", [compute(made, "a")]))
    assert made.worker_lost("a", "gone") == []
    assert made.lend("b") == Lend("u1")


def test_losing_a_worker_twice_is_losing_it_once() -> None:
    made = dispatcher(units=1)
    made.lend("a")
    assert made.worker_lost("a", "gone") == ["u0"]
    assert made.worker_lost("a", "gone") == []
    assert made.redone_units == 1
    assert made.lend("b") == Lend("u0"), "one death: it need not run alone"


def test_a_fenced_name_never_comes_back() -> None:
    made = dispatcher()
    made.worker_lost("a", "gone")
    with pytest.raises(ValueError, match="new name"):
        made.worker_joined("a")


def test_nothing_that_a_fenced_worker_says_counts() -> None:
    made = dispatcher()
    unit = compute(made, "a")
    made.lend("a")
    made.worker_lost("a", "gone")
    assert "fenced" in why_rejected(made, "a", receipt("a", [unit]))
    assert not made.finished("a", "u1")


def test_a_receipt_is_accepted_once() -> None:
    made = dispatcher()
    offered = receipt("a", [compute(made, "a")])
    made.receipt("a", offered)
    assert "accepted already" in why_rejected(made, "a", offered)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"epoch": 2}, "epoch 2"),
        ({"plan": "other"}, "another plan"),
        ({"weights": "other"}, "other weights"),
        ({"units": []}, "no unit"),
        ({"units": ["u9"]}, "not one of this run"),
        ({"units": ["u3"]}, "not lent to a"),
        ({"worker": "b"}, "of worker b"),
    ],
)
def test_a_receipt_that_does_not_fit_is_rejected_whole(changed: dict[str, object], reason: str) -> None:
    made = dispatcher()
    unit = compute(made, "a")
    parts: dict[str, object] = {"worker": "a", "units": [unit], **changed}
    assert reason in why_rejected(made, "a", receipt(**parts))  # type: ignore[arg-type]
    assert made.finished_unrecorded() == [unit]


def test_a_receipt_counts_all_or_nothing() -> None:
    made = dispatcher()
    mine, other = compute(made, "a"), compute(made, "b")
    assert "not lent to a" in why_rejected(made, "a", receipt("a", [mine, other]))
    assert made.finished_unrecorded() == [mine, other]


def test_a_receipt_of_a_stranger_is_rejected() -> None:
    assert "not known" in why_rejected(dispatcher(), "z", receipt("z", ["u0"]))


# -- reading ahead


def test_a_reserved_unit_is_the_next_one_lent() -> None:
    made = dispatcher()
    assert made.lend("a") == Lend("u0")
    assert made.peek_next("a") == "u1"
    assert made.peek_next("a") == "u1"
    assert made.lend("b") == Lend("u2")
    made.finished("a", "u0")
    assert made.lend("a") == Lend("u1")


def test_an_idle_worker_takes_over_what_another_has_only_read_ahead() -> None:
    made = dispatcher(units=2)
    made.lend("a")
    assert made.peek_next("a") == "u1"
    assert made.lend("b") == Lend("u1")
    made.finished("a", "u0")
    assert made.lend("a") is None


def test_nothing_speculative_at_the_tail() -> None:
    made = dispatcher(units=1)
    made.lend("a")
    assert made.lend("b") is None
    assert made.peek_next("b") is None


# -- units that kill


def die(made: Dispatcher, worker: str) -> Lend:
    made.worker_joined(worker)
    lend = made.lend(worker)
    assert lend is not None
    made.worker_lost(worker, f"{worker} was killed")
    return lend


def test_a_unit_during_which_two_workers_died_runs_alone_and_the_third_time_is_set_aside() -> None:
    made = dispatcher(units=1, workers=())
    assert die(made, "a") == Lend("u0")
    assert die(made, "b") == Lend("u0")
    assert die(made, "c") == Lend("u0", alone=True)
    assert made.take_set_aside() == [("u0", "3 workers died while they computed it; the last one: c was killed")]
    assert made.take_set_aside() == []
    made.worker_joined("d")
    assert made.lend("d") is None
    assert made.all_done()


def test_a_unit_that_kills_comes_back_behind_the_others() -> None:
    made = dispatcher(units=3, workers=())
    assert die(made, "a") == Lend("u0")
    made.worker_joined("b")
    assert [compute(made, "b") for _ in range(2)] == ["u1", "u2"]
    assert made.lend("b") == Lend("u0")  # one death: with what the worker holds, but last
    made.worker_lost("b", "killed")
    made.worker_joined("c")
    assert [compute(made, "c") for _ in range(2)] == ["u1", "u2"]  # held by b: no fault of theirs
    assert made.lend("c") is None  # it should flush now, then be alone with u0
    made.receipt("c", receipt("c", ["u1", "u2"]))
    assert made.lend("c") == Lend("u0", alone=True)


def test_of_two_units_that_kill_the_one_with_fewer_deaths_comes_first() -> None:
    made = dispatcher(units=3, workers=())
    assert [die(made, worker).unit for worker in "abc"] == ["u0", "u1", "u2"]
    assert die(made, "d") == Lend("u0")
    made.worker_joined("e")
    assert made.lend("e") == Lend("u1")


def test_a_unit_that_must_run_alone_waits_for_a_worker_that_holds_nothing() -> None:
    made = dispatcher(units=2, workers=("x",))
    made.lend("x")
    die(made, "a")
    die(made, "b")
    made.finished("x", "u0")
    assert made.lend("x") is None  # u1 must run alone, and x holds u0: it should flush now
    made.receipt("x", receipt("x", ["u0"]))
    assert made.lend("x") == Lend("u1", alone=True)
    assert made.peek_next("x") is None


def test_what_a_worker_has_read_ahead_comes_before_a_unit_that_must_run_alone() -> None:
    made = dispatcher(units=3, workers=("x",))
    assert made.lend("x") == Lend("u0")
    assert made.peek_next("x") == "u1"
    die(made, "a")
    die(made, "b")
    made.receipt("x", receipt("x", ["u0"]))
    assert made.lend("x") == Lend("u1")
    made.receipt("x", receipt("x", ["u1"], attempt="t2"))
    assert made.lend("x") == Lend("u2", alone=True)


def test_a_unit_read_ahead_when_a_worker_died_is_not_read_ahead_again() -> None:
    made = dispatcher(units=3, workers=("a",))
    made.lend("a")
    assert made.peek_next("a") == "u1"
    made.worker_lost("a", "killed")
    made.worker_joined("b")
    assert made.lend("b") == Lend("u1")
    assert made.peek_next("b") == "u2"
    made.finished("b", "u1")
    assert made.lend("b") == Lend("u2")
    assert made.peek_next("b") is None  # u0 has killed


def test_a_worker_that_was_let_go_blames_no_unit() -> None:
    made = dispatcher()
    made.lend("a")
    made.worker_lost("a", "its node drained", blame=False)
    assert made.lend("b") == Lend("u0"), "with a death it would come last"


def test_a_unit_that_was_given_up_waits_again() -> None:
    made = dispatcher()
    made.lend("a")
    assert made.gave_up("a", "u0")
    assert not made.gave_up("a", "u0")
    assert made.lend("b") == Lend("u0")
