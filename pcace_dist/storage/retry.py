"""What a failed operation on storage means, and how long it is retried: one table of errors, one retry policy.

An answer is final: no such file, changed content, a wrong name. Everything else is an outage: no connection, no answer
in time, a server's error, throttling, a lack of descriptors, memory or disk. During an outage the operation is retried
with growing pauses. When PCACE_STORAGE_PATIENCE seconds have passed since the first failure, it raises
StoreUnavailable. Refused access is the user's mistake at the start of a run, and an outage once the run has begun.
Knows nothing of files or runs.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pcace_dist.errors import JobError, StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

VARIABLE = "PCACE_STORAGE_PATIENCE"
SECONDS = 900.0  # patience in an outage
STARTING_SECONDS = 30.0  # patience before the run has begun: the address may be wrong
STOPPING_SECONDS = 3.0  # patience once the run is to stop
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
TOLD_AFTER = 3.0  # shorter waits are not logged
TOLD_EVERY = 30.0

_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
# fmt: off
_DENIED = {
    "401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "ExpiredTokenException", "InvalidToken", "RequestTimeTooSkewed",
}
_TRANSIENT = {
    "408", "425", "429", "500", "502", "503", "504", "RequestTimeout", "SlowDown", "InternalError", "BadDigest",
    "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "IncompleteBody",
}
# fmt: on
_OF_ERRNO = {
    errno.ENOENT: "absent",
    errno.ENOTDIR: "absent",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.EISDIR: "refused",
    errno.EEXIST: "refused",  # a file where a folder is to be
    errno.ENAMETOOLONG: "refused",
    errno.ELOOP: "refused",
    errno.EINVAL: "refused",
    errno.EOPNOTSUPP: "refused",
    errno.ENOSYS: "refused",
}
OUTAGES = ("transient", "conflict")  # always retried
AFTER_A_START = ("denied", "bucket")  # a mistake at the start of a run, an outage later
_TEXTS = {  # in pyarrow's errors for gs://, which have no codes
    "denied": ("ACCESS_DENIED", "PERMISSION_DENIED", "UNAUTHENTICATED", "status 401", "status 403"),
    "absent": ("NO_SUCH_KEY", "NOT_FOUND", "status 404"),
}


class ShortRead(OSError):
    """Fewer bytes arrived than the file has."""


class Changed(OSError):
    """The file is no longer the one that was listed."""


def kind_of(error: BaseException) -> str:
    """The kind of a storage error.

    absent, changed, precondition, denied, bucket, unsupported and refused are answers; transient and conflict are
    outages; foreign is an error that does not come from storage.
    """
    if isinstance(error, MemoryError):
        return "transient"
    module = type(error).__module__.partition(".")[0]
    if module in ("botocore", "boto3", "s3transfer", "urllib3"):
        return _kind_of_boto(error)
    if module == "huggingface_hub" or module.startswith("httpx"):
        return _kind_of_hub(error)
    if isinstance(error, FileNotFoundError):
        return "absent"
    if isinstance(error, Changed):
        return "changed"
    if isinstance(error, OSError):
        from_errno = _OF_ERRNO.get(error.errno or 0)
        return from_errno or next(
            (k for k, words in _TEXTS.items() if any(w in str(error) for w in words)), "transient"
        )
    return "foreign"


def _kind_of_hub(error: BaseException) -> str:
    """The Hub answers 401 also for a repository that is not there; without an answer it is an outage."""
    if type(error).__name__ == "RepositoryNotFoundError":
        return "bucket"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None or status in (408, 425, 429) or status >= 500:
        return "transient"
    return {401: "denied", 403: "denied", 404: "absent", 416: "changed"}.get(status, "refused")


def _kind_of_boto(error: BaseException) -> str:
    from botocore import exceptions as boto

    name = type(error).__name__
    if name in ("S3UploadFailedError", "RetriesExceededError"):  # boto3 wraps one of the others in these
        cause = error.__cause__ or error.__context__
        return "transient" if cause is None else kind_of(cause)
    if isinstance(error, boto.ClientError):
        return _kind_of_answer(dict(error.response))
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.SSLError):
        return "denied"
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.UnauthorizedSSOTokenError):
        return "denied"
    if isinstance(error, boto.HTTPClientError | boto.IncompleteReadError | boto.ConnectionError):
        return "transient"  # no answer, or half an answer
    if name in ("ResponseParserError", "FlexibleChecksumError") or not isinstance(error, boto.BotoCoreError):
        return "transient"  # a garbled answer, or one from a proxy; or an error of urllib3
    return "refused"


def _kind_of_answer(response: dict[str, Any]) -> str:
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    given = {code, status}
    if code == "NoSuchBucket":
        return "bucket"
    for kind, codes in (
        ("transient", _TRANSIENT),
        ("absent", _ABSENT),
        ("precondition", {"412", "PreconditionFailed"}),
        ("conflict", {"409"}),
        ("unsupported", {"501", "NotImplemented"}),
        ("denied", _DENIED),
    ):
        if given & codes:
            return kind
    return "transient" if status.startswith("5") else "refused"


def first_line(text: object) -> str:
    """The first line of a message, for errors that must be one line."""
    lines = str(text).strip().splitlines()
    return lines[0].strip() if lines else ""


def _short(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower()
        return f"{text}, free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else text
    return first_line(error) or type(error).__name__


def seconds_from_environment() -> float:
    """PCACE_STORAGE_PATIENCE, or 15 minutes. Raises JobError."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise JobError(f"{VARIABLE} {text!r}: is not a number of seconds; use 900 for 15 minutes")
    return seconds


@dataclass
class Patience:
    """How long one process waits for storage. Pickled, it keeps `seconds`, `begun` and `refusals_are_answers`.

    `begun`: the run has begun, so its addresses and access rights were right once. `stopped`: when set, every wait ends
    soon. `refusals_are_answers`: refused access is final even after the start, because the caller can distinguish a
    file without access from an outage.
    """

    seconds: float = field(default_factory=seconds_from_environment)
    begun: bool = False
    refusals_are_answers: bool = False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] | None = None  # None: sleeps, but wakes when `stopped` is set
    stopped: threading.Event = field(default_factory=threading.Event)
    quiet_until: float = float("-inf")  # so that all waiting threads together log one line
    _waits: dict[int, tuple[str, float]] = field(default_factory=dict)  # subject, start time

    def __getstate__(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "begun": self.begun, "refusals_are_answers": self.refusals_are_answers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def for_worker(self) -> Patience:
        """The same patience, which can be stopped on its own."""
        return Patience(self.seconds, self.begun, self.refusals_are_answers, self.clock, self.sleep)

    def begin(self, stopped: threading.Event | None = None) -> None:
        """The run has begun: from now on, refused access is an outage too. `stopped`: will be set when the run is to
        end."""
        self.begun = True
        self.stopped = stopped or self.stopped

    def stop(self) -> None:
        """End every wait soon."""
        self.stopped.set()

    @property
    def waiting(self) -> tuple[str, float] | None:
        """The longest wait that goes on now: its subject, and its seconds so far."""
        waits = [wait for wait in self._waits.copy().values() if self.clock() - wait[1] >= TOLD_AFTER]
        if not waits:
            return None
        what, since = min(waits, key=lambda wait: wait[1])
        return what, self.clock() - since

    def is_outage(self, kind: str) -> bool:
        """Whether an operation that failed with this kind of error is retried."""
        waits_for_refusals = self.begun and not self.refusals_are_answers
        return kind in OUTAGES or (waits_for_refusals and kind in AFTER_A_START)

    def call(self, operation: Callable[[], T], what: str) -> T:
        """The result of an operation that may be repeated; `what` names the file.

        Raises the operation's own exception where it is an answer, StoreUnavailable when the patience ends.
        """
        try:
            return operation()
        except Exception as error:
            if not self.is_outage(kind_of(error)):
                raise
            last: Exception = error
        with self.outage(what) as wait:
            while wait.on(last):
                try:
                    return operation()
                except Exception as error:
                    if not self.is_outage(kind_of(error)):
                        raise
                    last = error
            raise wait.ended(last) from last

    @contextmanager
    def outage(self, what: str) -> Iterator[Wait]:
        """The wait from a first failure on; for operations that must not simply be repeated."""
        wait = Wait(self, what)
        self._waits[id(wait)] = what, wait.since
        try:
            yield wait
        finally:
            self._waits.pop(id(wait), None)
            wait.over()

    def limit(self) -> float:
        """Seconds of patience at the moment."""
        if self.stopped.is_set():
            return min(STOPPING_SECONDS, self.seconds)
        return self.seconds if self.begun else min(STARTING_SECONDS, self.seconds)

    def pause(self, seconds: float) -> None:
        if self.sleep is not None:
            self.sleep(seconds)
        elif not self.stopped.is_set():
            self.stopped.wait(seconds)
        else:
            time.sleep(min(seconds, 0.5))


class Wait:
    """One outage as one thread sees it."""

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience, self._what = patience, what
        self.since = patience.clock()
        self._began = time.strftime("%H:%M:%S")
        self._stopped_at: float | None = None
        self._pause = FIRST_PAUSE
        self._tell_at = self.since + TOLD_AFTER
        self._told = False

    def on(self, error: BaseException) -> bool:
        """Pause before the next attempt; False when there is to be none."""
        remaining = self._left()
        if remaining <= 0:
            return False
        self._tell(error)
        self._patience.pause(min(remaining, self._pause * random.uniform(0.5, 1.0)))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return True

    def ended(self, error: BaseException) -> StoreUnavailable:
        waited = self._patience.clock() - self.since
        if not self._patience.seconds:  # the caller tries again by itself
            return StoreUnavailable(f"{self._what}: {_short(error)}")
        return StoreUnavailable(f"{self._what}: {_short(error)} (for {waited:.0f} s); the same command goes on")

    def over(self) -> None:
        if self._told:
            log.info("%s: waited for %.0f s", self._what, self._patience.clock() - self.since)

    def _left(self) -> float:
        current_time, patience = self._patience.clock(), self._patience
        if patience.stopped.is_set() and self._stopped_at is None:
            self._stopped_at = current_time
        return (self._stopped_at or self.since) + patience.limit() - current_time

    def _tell(self, error: BaseException) -> None:
        now = self._patience.clock()
        if now < self._tell_at or now < self._patience.quiet_until:
            return
        self._told, self._patience.quiet_until = True, now + TOLD_EVERY
        limit = self._patience.limit()
        log.warning("waiting for %s since %s: %s (for %.0f s at most)", self._what, self._began, _short(error), limit)
