"""One retry policy: what is repeated, for how long, and what ends a wait."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

import pytest
from botocore import exceptions as boto

from pcace_dist.errors import JobError, StoreUnavailable
from pcace_dist.storage.retry import Patience, kind_of
from tests.datasets.helpers import Clock, patience


def answer(code: str, status: int) -> boto.ClientError:
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError(response, "GetObject")  # type: ignore[arg-type]


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [times]

    def operation() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "done"

    return operation


OUTAGES = [
    answer("SlowDown", 503),
    answer("InternalError", 500),
    answer("RequestTimeout", 400),
    answer("", 429),
    boto.EndpointConnectionError(endpoint_url="http://x"),
    boto.ReadTimeoutError(endpoint_url="http://x"),
    boto.ConnectionClosedError(endpoint_url="http://x"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    OSError(5, "Input/output error"),
    OSError(24, "Too many open files"),
    OSError("half an answer"),
    ConnectionResetError("reset"),
    TimeoutError("timed out"),
    MemoryError(),
]
MISTAKES_AT_THE_START = [
    answer("AccessDenied", 403),
    answer("403", 403),
    answer("ExpiredToken", 400),
    answer("NoSuchBucket", 404),
    boto.NoCredentialsError(),
    boto.SSLError(endpoint_url="https://x", error=ValueError("self-signed")),
    PermissionError(13, "Permission denied"),
]
ANSWERS = [
    answer("NoSuchKey", 404),
    answer("PreconditionFailed", 412),
    answer("InvalidArgument", 400),
    answer("NotImplemented", 501),
    FileNotFoundError(2, "No such file"),
    IsADirectoryError(21, "Is a directory"),
    FileExistsError(17, "File exists"),
]


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("error", OUTAGES, ids=repr)
def test_an_outage_is_waited_for(error: Exception, begun: bool) -> None:
    assert patience(begun=begun).call(failing(5, error), "x") == "done"


@pytest.mark.parametrize("error", MISTAKES_AT_THE_START, ids=repr)
def test_refused_access_is_a_mistake_at_the_start_and_an_outage_later(error: Exception) -> None:
    with pytest.raises(type(error)):
        patience(begun=False).call(failing(1, error), "x")
    assert patience(begun=True).call(failing(5, error), "x") == "done"


@pytest.mark.parametrize("error", ANSWERS, ids=repr)
def test_an_answer_is_final(error: Exception) -> None:
    with pytest.raises(type(error)):
        patience().call(failing(1, error), "x")


def test_what_is_not_storages_is_not_repeated() -> None:
    assert kind_of(ValueError("x")) == "foreign"
    with pytest.raises(ZeroDivisionError):
        patience().call(failing(1, ZeroDivisionError()), "x")


def test_pauses_grow_and_end_with_the_patience() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailable, match=r"^x: input/output error \(for 100 s\); the same command goes on$"):
        Patience(100, True, clock=clock, sleep=clock.sleep).call(failing(10**6, OSError(5, "Input/output error")), "x")
    assert clock.now == pytest.approx(100)
    assert clock.pauses[0] <= 0.1 and max(clock.pauses) <= 10 and 10 < len(clock.pauses) < 40


def test_a_stop_ends_a_wait_at_once_or_nearly() -> None:
    waiting = Patience(900, True)
    threading.Timer(0.2, waiting.stop).start()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        waiting.call(failing(10**6, OSError(5, "Input/output error")), "x")
    assert time.monotonic() - began < 60, "not the 900 seconds"


def test_who_waits_for_what_is_known() -> None:
    clock = Clock()
    seen: list[object] = []

    def operation() -> str:
        seen.append(waiting.waiting)
        return failing(0 if clock.now > 20 else 1, OSError(5, "x"))()

    waiting = Patience(900, True, clock=clock, sleep=clock.sleep)
    assert waiting.call(operation, "s3://b/k") == "done" and waiting.waiting is None
    assert seen[0] is None and seen[-1] == ("s3://b/k", clock.now)


def test_patience_travels_as_its_seconds_and_whether_the_run_has_begun() -> None:
    again = pickle.loads(pickle.dumps(patience(7.0, begun=True)))
    assert (again.seconds, again.begun, again.stopped.is_set()) == (7.0, True, False)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PCACE_STORAGE_PATIENCE", text)
    with pytest.raises(JobError, match=f"^PCACE_STORAGE_PATIENCE '{text}': is not a number of seconds"):
        Patience()
