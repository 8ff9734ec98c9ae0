"""The stores with real processes: a local folder under races and kills, S3 against servers on a loopback port."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from pcace_dist.errors import OutputError, StoreUnavailable
from pcace_dist.ledger.ledger import Ledger
from pcace_dist.storage.files import Storage
from pcace_dist.storage.retry import Patience
from pcace_dist.storage.sections import Endpoint
from pcace_dist.storage.store import LocalStore, OutcomeUnknown, S3Store, Store, check_key, hasty, open_store, probe
from tests.datasets.helpers import Clock, patience
from tests.memory_store import Fault, MemoryStore
from tests.servers import free_port, moto_server, serving
from tests.store_processes import put_for_ever, race

T = TypeVar("T")

SPAWN = multiprocessing.get_context("spawn")
KEYS = ("key", "secret-key")


# -- servers


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        client(endpoint).create_bucket(Bucket="bucket")
        yield endpoint


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("rclone")
    (folder / "data" / "bucket").mkdir(parents=True)
    command = [
        str(Path(sys.executable).parent / "rclone"),
        "serve",
        "s3",
        "--config",
        os.devnull,
        "--auth-key",
        ",".join(KEYS),
        "--addr",
        f"127.0.0.1:{port}",
        str(folder / "data"),
    ]
    with serving(command, port):
        yield f"http://127.0.0.1:{port}"


def client(endpoint: str, keys: tuple[str, str] = KEYS) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class OneClient:
    """What a store asks of `Storage`, with a client of the test's own."""

    def __init__(self, client: Any, waits: Patience | None = None) -> None:
        self.client, self.patience = client, waits or Patience()

    def s3_call(self, url: str, call: Callable[[Any], T]) -> T:
        return call(self.client)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each test that takes it runs on both stores."""
    if request.param == "local":
        return LocalStore(tmp_path / "run")
    return S3Store("bucket", f"runs/{tmp_path.name}", OneClient(client(request.getfixturevalue("moto"))))


# -- what every store does


def test_what_was_put_is_got(store: Store) -> None:
    assert store.get("a/b.json") is None
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"
    assert store.get("a/c.json") is None
    store.put("empty", b"")
    assert store.get("empty") == b""


def test_put_if_absent_creates_and_never_replaces(store: Store) -> None:
    assert store.put_if_absent("x", b"first")
    assert not store.put_if_absent("x", b"second")
    assert store.get("x") == b"first"


def test_listing_is_sorted_and_goes_by_prefix(store: Store) -> None:
    assert store.list() == []
    for key in ("b", "a/2", "a/10", "ab", ".hidden", "a/.tmp-1"):
        store.put(key, b"")
    assert store.list() == ["a/10", "a/2", "ab", "b"]
    assert store.list("a/") == ["a/10", "a/2"]
    assert store.list("a") == ["a/10", "a/2", "ab"]
    assert store.list("nothing/") == []


def test_a_listing_of_several_pages_is_whole(moto: str) -> None:
    short = client(moto)
    made = S3Store("bucket", "pages", OneClient(short))
    short.meta.events.register("before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=10))
    keys = [f"many/{i:05d}" for i in range(25)]
    for key in keys:
        made.put(key, b"")
    assert made.list("many/") == keys


def test_deleting_what_is_not_there_is_nothing(store: Store) -> None:
    store.put("a/b", b"")
    store.delete("a/b")
    store.delete("a/b")
    assert store.list() == []


def test_put_if_match_replaces_only_what_was_read(store: Store) -> None:
    assert store.put_if_match("latest.json", b"1", None)
    assert not store.put_if_match("latest.json", b"2", None)
    current = store.read_versioned("latest.json")
    assert current is not None
    assert current.data == b"1"
    assert store.put_if_match("latest.json", b"2", current.etag)
    assert not store.put_if_match("latest.json", b"3", current.etag)
    assert store.get("latest.json") == b"2"
    assert not store.put_if_match("absent.json", b"1", current.etag)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "a\nb", "."])
def test_a_key_cannot_lead_out_of_the_store(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        store.put(key, b"")
    with pytest.raises(ValueError, match="no key"):
        store.get(key)
    with pytest.raises(ValueError, match="no key"):
        check_key(key)


def test_a_good_store_passes_the_probe_and_stays_empty(store: Store) -> None:
    probe(store)
    store.discard_unfinished([""])
    assert store.list() == []


def test_a_ledger_works_on_it(store: Store) -> None:
    one, other = Ledger(store), Ledger(store)
    other.load()
    assert one.open({"host": "one"}) == 1
    one.append("manifest", {"plan": "p", "weights": "w", "units": []})
    one.append("done", {"exit_code": 0})
    assert other.load() == one.state


# -- local folder


def test_of_many_processes_exactly_one_creates_a_key(tmp_path: Path) -> None:
    start, wins = SPAWN.Barrier(8), SPAWN.Queue()
    racers = [SPAWN.Process(target=race, args=(str(tmp_path), who, start, wins)) for who in range(8)]
    for racer in racers:
        racer.start()
    won = dict(wins.get(timeout=60) for _ in range(20))
    for racer in racers:
        racer.join(60)
    assert wins.empty()
    assert {i: int(LocalStore(tmp_path).get(f"ledger/{i}") or b"-1") for i in range(20)} == won


def test_a_kill_in_the_middle_of_a_put_leaves_no_half_object(tmp_path: Path) -> None:
    for moment in (0.0, 0.004, 0.011, 0.023):
        ready = SPAWN.Event()
        process = SPAWN.Process(target=put_for_ever, args=(str(tmp_path), ready))
        process.start()
        assert ready.wait(60)
        time.sleep(moment)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        store = LocalStore(tmp_path)
        for key in store.list():
            data = store.get(key)
            assert data is not None
            assert len(data) == 2_000_000
            assert data == data[:1] * len(data)
        store.discard_unfinished(["", "created", "replaced"])
        assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
        for key in store.list("created/"):
            store.delete(key)


def test_threads_that_replace_by_tag_lose_no_update(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("count", b"0")

    def add() -> None:
        for _ in range(20):
            while True:
                found = store.read_versioned("count")
                assert found is not None
                if store.put_if_match("count", str(int(found.data) + 1).encode(), found.etag):
                    break

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("count") == b"80"


def test_a_put_beside_a_cleaning_finds_its_folder_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            store.put("a/b/other", b"")
            store.delete("a/b/other")

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        for i in range(200):
            store.put(f"a/b/{i}", b"x")
            store.delete(f"a/b/{i}")
    finally:
        stop.set()
        thread.join()


def test_a_folder_of_the_store_is_no_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"")
    assert store.get("a") is None


def test_a_file_in_place_of_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OutputError, match="not a directory") as caught:
        LocalStore(tmp_path / "run").put("x", b"")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="not a directory"):
        LocalStore(tmp_path / "run").list()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreUnavailable),
        (errno.EDQUOT, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
        (errno.EACCES, OutputError),
        (errno.EROFS, OutputError),
    ],
)
def test_what_a_disk_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    store = LocalStore(tmp_path, patience=patience(begun=False))
    monkeypatch.setattr(os, "fsync", refuse)
    for put in (store.put, store.put_if_absent):
        with pytest.raises(kind, match=os.strerror(number).lower()) as caught:
            put("x", b"data")
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, OutcomeUnknown)
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match="hard links"):
        probe(LocalStore(tmp_path))


def test_a_put_whose_name_could_not_be_made_durable_has_an_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("pcace_dist.storage.store._sync_folder", refuse)
    with pytest.raises(OutcomeUnknown):
        LocalStore(tmp_path, patience=patience()).put_if_absent("x", b"data")


# -- S3


def test_of_many_threads_exactly_one_creates_a_key_on_s3(moto: str) -> None:
    made = S3Store("bucket", "race", OneClient(client(moto)))
    wins: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: wins.append(i) if made.put_if_absent("x", b"%d" % i) else None)
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made.get("x")] == [b"%d" % i for i in wins]


def test_unfinished_uploads_are_other_peoples_and_stay(moto: str) -> None:
    own = client(moto)
    made = S3Store("bucket", "uploads", OneClient(own))
    own.create_multipart_upload(Bucket="bucket", Key="uploads/half")
    own.create_multipart_upload(Bucket="bucket", Key="others/half")
    made.discard_unfinished([""])
    left = own.list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert {upload["Key"] for upload in left} == {"others/half", "uploads/half"}


def test_no_bucket_is_one_line(moto: str) -> None:
    made = S3Store("nowhere", "run", OneClient(client(moto)))
    for act in (lambda: made.put("x", b""), lambda: made.put_if_absent("x", b""), lambda: made.get("x"), made.list):
        with pytest.raises(OutputError, match="no bucket 'nowhere'"):
            act()


def test_wrong_keys_are_one_line(rclone: str) -> None:
    with pytest.raises(OutputError, match="access denied") as caught:
        S3Store("bucket", "run", OneClient(client(rclone, ("key", "wrong")))).put("x", b"")
    assert "wrong" not in str(caught.value)


def test_a_store_that_ignores_conditions_is_refused(rclone: str) -> None:
    made = S3Store("bucket", "run", OneClient(client(rclone)))
    with pytest.raises(OutputError, match="ignores conditional puts"):
        probe(made)
    assert made.list() == []


class Wobbly:
    """A client whose calls fail first, each in its own way."""

    def __init__(self, real: Any, errors: list[Exception], *, after: bool = False) -> None:
        self._real, self._errors, self._after = real, errors, after
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append(name)
            if self._errors and name != "get_paginator":
                if self._after:
                    getattr(self._real, name)(**arguments)
                raise self._errors.pop(0)
            return getattr(self._real, name)(**arguments)

        return call


def answered(status: int, code: str = "") -> ClientError:
    response: Any = {
        "Error": {"Code": code or str(status), "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "PutObject")


TIMEOUT = ReadTimeoutError(endpoint_url="http://s3")


@pytest.mark.parametrize(
    "error",
    [
        answered(500),
        answered(503, "SlowDown"),
        answered(409, "ConditionalRequestConflict"),
        answered(400, "RequestTimeout"),
        TIMEOUT,
        ConnectionResetError("reset"),
    ],
)
def test_reads_and_plain_puts_are_retried(moto: str, error: Exception) -> None:
    clock = Clock()
    waits = Patience(900, True, clock=clock, sleep=clock.sleep)
    made = S3Store("bucket", "retry", OneClient(Wobbly(client(moto), [error, error]), waits))
    made.put("x", b"data")
    assert made.get("x") == b"data"
    assert len(clock.pauses) == 2
    assert clock.pauses[1] > clock.pauses[0] / 2


@pytest.mark.parametrize("error", [answered(500), answered(409, "ConditionalRequestConflict"), TIMEOUT])
@pytest.mark.parametrize("after", [False, True])
def test_a_conditional_put_is_sent_once_and_may_not_know(moto: str, error: Exception, after: bool) -> None:
    wobbly = Wobbly(client(moto), [error], after=after)
    made = S3Store("bucket", f"once/{type(error).__name__}{error}{after}".replace('"', ""), OneClient(wobbly))
    with pytest.raises(OutcomeUnknown):
        made.put_if_absent("x", b"data")
    assert wobbly.calls == ["put_object"]
    assert made.put_if_absent("x", b"data") is not after


def test_a_ledger_on_a_wobbly_s3_loses_and_doubles_nothing(moto: str) -> None:
    real = client(moto)
    storage = OneClient(real, patience())
    made = S3Store("bucket", "wobbly", storage)
    ledger = Ledger(made)
    ledger.open({"host": "here"})
    ledger.append("manifest", {"plan": "p", "weights": "w", "units": [{"id": f"u{i}"} for i in range(6)]})
    for i in range(6):
        storage.client = Wobbly(real, [answered(500), TIMEOUT][: i % 3], after=i >= 3)
        ledger.append("set_aside", {"units": [f"u{i}"], "reason": "test"})
    storage.client = real
    assert Ledger(made).load() == ledger.state
    assert ledger.state.length == 8


@pytest.mark.parametrize("begun", [False, True])
def test_refused_access_is_waited_for_in_a_run_and_a_mistake_before(moto: str, begun: bool) -> None:
    refused: list[Exception] = [answered(403, "AccessDenied") for _ in range(9)]
    made = S3Store("bucket", "refused", OneClient(Wobbly(client(moto), refused), patience(begun=begun)))
    if begun:
        made.put("x", b"data")
        assert made.get("x") == b"data"
        refused.append(answered(403, "AccessDenied"))
        with pytest.raises(OutcomeUnknown):
            made.put_if_absent("y", b"data")
    else:
        with pytest.raises(OutputError, match="access denied"):
            made.put("x", b"data")


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, fsync = [30], os.fsync

    def refuse(descriptor: int) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    store = LocalStore(tmp_path, patience=patience())
    store.put("a/x", b"data")
    assert store.get("a/x") == b"data" and left[0] < 0
    left[0] = 30
    assert store.put_if_absent("a/y", b"data") and store.list() == ["a/x", "a/y"]


def test_what_comes_again_by_itself_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    store = LocalStore(tmp_path)
    with pytest.raises(StoreUnavailable, match=r": x: input/output error$"):
        hasty(store).put("x", b"data")


def test_an_s3_that_stays_away_is_one_line() -> None:
    made = S3Store("bucket", "", OneClient(client(f"http://127.0.0.1:{free_port()}"), patience(60)))
    for act in (lambda: made.get("x"), lambda: made.put("x", b""), lambda: made.put_if_absent("x", b""), made.list):
        with pytest.raises(StoreUnavailable) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_probe_is_repeated_when_answers_are_lost() -> None:
    store = MemoryStore()
    faults = iter([Fault.LOST, Fault.NONE, Fault.LOST])
    store.decide = lambda operation, key: next(faults, Fault.NONE) if operation == "put_if_absent" else Fault.NONE
    probe(store)
    assert store.bucket.objects == {}


# -- which store


def test_a_url_names_its_store(tmp_path: Path, moto: str) -> None:
    storage = Storage({"s3://bucket/": Endpoint(moto)})
    assert open_store(str(tmp_path)).url == str(tmp_path)
    assert open_store(f"file://{tmp_path}").url == str(tmp_path)
    assert open_store("s3://bucket/a/b/", storage).url == "s3://bucket/a/b"
    assert open_store("s3://bucket", storage).url == "s3://bucket"
    for url in ("gs://bucket/x", "s3://", "http://host/x"):
        with pytest.raises(OutputError, match=r"neither|names no bucket"):
            open_store(url, storage)
    with pytest.raises(OutputError, match="no storage settings"):
        open_store("s3://bucket/x")


def test_a_store_of_the_jobs_storage_works(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    made = open_store("s3://bucket/opened", Storage({"s3://bucket/": Endpoint(moto)}))
    probe(made)
    made.put("x", b"1")
    assert made.get("x") == b"1"


def test_renewed_credentials_are_taken_after_access_was_refused(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    clients = iter([Wobbly(client(moto), [answered(403, "ExpiredToken")]), client(moto)])
    monkeypatch.setattr("pcace_dist.storage.files._make_client", lambda _: next(clients))
    made = open_store("s3://bucket/renewed", Storage(patience=patience()))
    made.put("x", b"1")
    assert made.get("x") == b"1" and next(clients, None) is None
