"""Where a run keeps its files: whole objects under short keys, with one conditional operation, `put_if_absent`.

Everything that is exactly-once rests on that one operation (docs/protocol.md, item 1). Two stores: a local folder
(temporary file, fsync, hard link) and a bucket on S3 (one PutObject with `IfNoneMatch="*"`). Failures are one-line
`OutputError`s (settings, rights) or `StoreUnavailable`s (did not answer, disk full). Knows nothing of ledgers,
attempts or Ray.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar, cast

from pcace_dist.errors import OutputError, StoreUnavailable

T = TypeVar("T")
Keys = list[str]  # inside the classes `list` is a method

TRIES = 10  # of an operation on S3; with the pauses below about half a minute in all
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

_TEMPORARY = ".tmp-"
_PROBE = ".probe-"
_LOCK = ".lock-"
_OWN = re.compile(r"\.tmp-\d+-[0-9a-f]{32}|\.probe-[0-9a-f]{32}")
_DENIED = {"401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_TRANSIENT = {"408", "429", "500", "502", "503", "504", "RequestTimeout", "SlowDown", "InternalError", "Throttling"}


class OutcomeUnknown(StoreUnavailable):
    """A put was sent and its answer was lost: it may have been done, may be done later, or never."""


@dataclass(frozen=True)
class Versioned:
    """The content of an object and the tag that `put_if_match` compares."""

    data: bytes
    etag: str


class Sink(Protocol):
    """Where whole objects can be put."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object as a whole."""


class Store(Sink, Protocol):
    """Whole objects under relative POSIX keys. Names that begin with a dot are the store's own and never listed."""

    @property
    def url(self) -> str:
        """The folder or `s3://bucket/prefix`, for messages."""

    def get(self, key: str) -> bytes | None:
        """The whole content; None if there is no such object."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object, never replace one. True: created by this call. False: something is there.

        Raises OutcomeUnknown when no answer tells; whoever calls reads and compares.
        """

    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object as a whole: readers see the old content or the new one, nothing between."""

    def read_versioned(self, key: str) -> Versioned | None:
        """Content and tag of an object; None if there is none."""

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        """Replace an object only if its tag is still `etag` (None: only if it is absent). Raises OutcomeUnknown."""

    def list(self, prefix: str = "") -> Keys:
        """All keys that begin with `prefix`, sorted."""

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def open_input(self, key: str) -> BinaryIO | None:
        """A seekable reader (byte ranges on S3), as pyarrow takes it; None if there is no such object."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        """Remove what interrupted writes of this class left in some folders (patterns; "" is the root). Only for the
        holder of a finished run (docs/protocol.md, item 11)."""


class S3Clients(Protocol):
    """What makes boto3 clients: `datasets.storage.Storage`."""

    def s3_client(self, url: str, attempts: int = ...) -> Any:
        """A boto3 S3 client for `url`; `attempts=1` turns its own retries off."""


def open_store(url: str, storage: S3Clients | None = None) -> Store:
    """The store of a run: a local folder (made when first written to) or `s3://bucket/prefix`. Raises OutputError."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return LocalStore(rest if separator else url)
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise OutputError(f"output {url}: is neither a local path nor s3://bucket/prefix")
    if storage is None:
        raise OutputError(f"output {url}: no storage settings for S3")
    return S3Store(bucket, prefix, storage.s3_client(url, attempts=1))


def probe(store: Store) -> None:
    """Try whether the store honours conditional puts: a second put must fail and the first content stay.

    Raises OutputError if it does not; such servers exist (`rclone serve s3` overwrites silently).
    """
    for _ in range(TRIES):
        key = f"{_PROBE}{uuid.uuid4().hex}"
        try:
            created = store.put_if_absent(key, b"first")
            again = store.put_if_absent(key, b"second")
        except OutcomeUnknown:
            continue
        finally:
            content = store.get(key)
            store.delete(key)
        if created and not again and content == b"first":
            return
        raise OutputError(
            f"output {store.url}: this storage ignores conditional puts (IfNoneMatch), so that two runs could write "
            "over each other; use another output"
        )
    raise StoreUnavailable(f"output {store.url}: did not answer {TRIES} conditional puts")


def check_key(key: str) -> str:
    """The key itself. Raises ValueError for absolute keys, `..`, empty parts, backslashes and control characters."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or not key.isprintable():
        raise ValueError(f"{key!r} is no key of a store: relative, with / between names, without . and ..")
    return key


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


# -- local folder


class LocalStore:
    """A folder of a local or shared file system that knows hard links. Safe for many processes at once."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(os.path.abspath(os.path.expanduser(root)))

    @property
    def url(self) -> str:
        return str(self._root)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with self._one_line(key):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                return None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._one_line(key), self._temporary(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                raise OutputError(
                    f"output {self.url}: this file system has no hard links; use another output"
                ) from error
        self._settle(path)
        return True

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._one_line(key), self._temporary(path, data) as temporary:
            os.replace(temporary, path)
        self._settle(path)

    def read_versioned(self, key: str) -> Versioned | None:
        data = self.get(key)
        return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        path = self._path(key)
        lock = path.with_name(f"{_LOCK}{path.name}")
        with self._one_line(key), _open_in_folder(lock, "ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            found = self.read_versioned(key)
            if (None if found is None else found.etag) != etag:
                return False
            self.put(key, data)
        return True

    def list(self, prefix: str = "") -> Keys:
        base = self._root / prefix.rpartition("/")[0]
        keys = []
        with self._one_line(prefix):
            for folder, folders, names in os.walk(base, onerror=_raise_unless_absent):
                folders[:] = [name for name in folders if not name.startswith(".")]
                relative = Path(folder).relative_to(self._root)
                keys += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        return sorted(key for key in keys if key.startswith(prefix))

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._one_line(key):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def open_input(self, key: str) -> BinaryIO | None:
        path = self._path(key)
        with self._one_line(key):
            try:
                return path.open("rb")
            except FileNotFoundError:
                return None

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._one_line(key):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # folders that became empty go, others stay
                for folder in path.relative_to(self._root).parents[:-1]:
                    (self._root / folder).rmdir()

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        for folder in folders:
            for path in self._root.glob(f"{folder}/.*" if folder else ".*"):
                if _OWN.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextlib.contextmanager
    def _temporary(self, path: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file beside `path` that holds `data`; gone afterwards unless it was renamed."""
        temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}")
        try:
            with _open_in_folder(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _settle(self, path: Path) -> None:
        """Make a new name durable. The object is in place already, so a failure here leaves its fate open."""
        try:
            _sync_folder(path.parent)
        except FileNotFoundError:
            return  # removed by another process already
        except OSError as error:
            raise OutcomeUnknown(f"{path}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _one_line(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"output {self.url}: {key}: {(error.strerror or str(error)).lower()}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreUnavailable(f"{where}; free some space, then the same command goes on") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
                raise OutputError(f"{where}; use another output or change its rights") from error
            raise StoreUnavailable(where) from error


def _open_in_folder(path: Path, mode: Literal["xb", "ab"]) -> BinaryIO:
    """Open a file for writing; a folder that is missing, or is cleaned away just now, is made."""
    for _ in range(TRIES):
        try:
            return path.open(mode, buffering=1 << 20)
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                _make_folder(path.parent)
    return path.open(mode, buffering=1 << 20)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new name is made durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(folder)) from None
    else:
        _sync_folder(folder.parent)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- S3


class S3Store:
    """A prefix of a bucket. `client` is a boto3 client without retries of its own: no put may be repeated unseen."""

    def __init__(
        self, bucket: str, prefix: str, client: Any, *, tries: int = TRIES, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._client = client
        self._tries = tries
        self._sleep = sleep

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> bytes | None:
        found = self.read_versioned(key)
        return None if found is None else found.data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_once(key, data, {"IfNoneMatch": "*"})

    def put(self, key: str, data: bytes) -> None:
        self._retried(key, lambda: self._client.put_object(**self._at(key), Body=data))

    def read_versioned(self, key: str) -> Versioned | None:
        def read() -> Versioned:
            answer = self._client.get_object(**self._at(key))
            return Versioned(answer["Body"].read(), answer["ETag"])

        return self._retried(key, read)

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        return self._put_once(key, data, {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag})

    def list(self, prefix: str = "") -> Keys:
        def read() -> Keys:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [entry["Key"].removeprefix(self._prefix) for page in pages for entry in page.get("Contents", [])]

        return sorted(key for key in self._retried(prefix, read) or [] if not _is_hidden(key) and not key.endswith("/"))

    def size(self, key: str) -> int | None:
        answer = self._retried(key, lambda: self._client.head_object(**self._at(key)))
        return None if answer is None else int(answer["ContentLength"])

    def open_input(self, key: str) -> BinaryIO | None:
        size = self.size(key)
        if size is None:
            return None
        return cast(BinaryIO, io.BufferedReader(_RangeReader(self, key, size), buffer_size=1 << 20))

    def read_range(self, key: str, start: int, length: int) -> bytes | None:
        """Bytes start .. start + length - 1 of an object; None if there is no such object."""

        def read() -> bytes:
            answer = self._client.get_object(**self._at(key), Range=f"bytes={start}-{start + length - 1}")
            return cast(bytes, answer["Body"].read())

        return self._retried(key, read)

    def delete(self, key: str) -> None:
        self._retried(key, lambda: self._client.delete_object(**self._at(key)))

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        """Nothing: every put is one request, so that unfinished uploads below this prefix are other people's."""

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _put_once(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        """One request, never repeated here: whoever calls knows how to tell its own put from another's."""
        try:
            self._client.put_object(**self._at(key), Body=data, **condition)
        except Exception as error:
            match _kind(error):
                case "precondition":
                    return False
                case "absent":  # If-Match on an object that is gone
                    return False
                case "transient" | "conflict":
                    raise OutcomeUnknown(f"{self.url}/{key}: {_text(error)}") from error
            raise self._stated(key, error) from error
        return True

    def _retried(self, key: str, call: Callable[[], T]) -> T | None:
        """The result of a call that may be repeated; None if there is no such object."""
        pause = FIRST_PAUSE
        for left in reversed(range(self._tries)):
            try:
                return call()
            except Exception as error:
                kind = _kind(error)
                if kind == "absent":
                    return None
                if kind not in ("transient", "conflict"):
                    raise self._stated(key, error) from error
                if not left:
                    raise StoreUnavailable(f"{self.url}/{key}: {_text(error)} ({self._tries} tries)") from error
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise StoreUnavailable(f"{self.url}/{key}: not tried")

    def _stated(self, key: str, error: Exception) -> Exception:
        """An error that no retry helps, as one line for the user; what is not S3's is returned as it is."""
        kind = _kind(error)
        if kind == "denied":
            return OutputError(f"output {self.url}: {key}: access denied ({_text(error)}); check the AWS credentials")
        if kind == "bucket":
            return OutputError(f"output {self.url}: there is no bucket {self._bucket!r}")
        if kind == "unsupported":
            return OutputError(f"output {self.url}: this storage does not know conditional puts; use another output")
        if kind == "refused":
            return OutputError(f"output {self.url}: {key}: {_text(error)}")
        return error


class _RangeReader(io.RawIOBase):
    """A seekable file on byte-range requests; wrap it in a BufferedReader."""

    def __init__(self, store: S3Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._store.read_range(self._key, self._at, length)
        if data is None or len(data) != length:
            raise StoreUnavailable(f"{self._store.url}/{self._key}: changed while it was read")
        buffer[:length] = data
        self._at += length
        return length


def _kind(error: Exception) -> str:
    """What an exception of boto3 means; `foreign` for those that are not boto3's.

    One of absent, precondition, conflict, transient, denied, bucket, unsupported, refused, foreign.
    """
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError

    if isinstance(error, boto.ClientError):
        answer: dict[str, Any] = dict(error.response)
        code = str(answer.get("Error", {}).get("Code", ""))
        status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        names = {code, status}
        if code == "NoSuchBucket":
            return "bucket"
        for kind, known in (
            ("absent", _ABSENT),
            ("precondition", {"412", "PreconditionFailed"}),
            ("conflict", {"409"}),
            ("unsupported", {"501", "NotImplemented"}),
            ("denied", _DENIED),
            ("transient", _TRANSIENT),
        ):
            if names & known:
                return kind
        return "transient" if status.startswith("5") else "refused"
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return "denied"
    if isinstance(error, boto.HTTPClientError | boto.IncompleteReadError | boto.ConnectionError | HTTPError | OSError):
        return "transient"  # no answer, or half an answer
    if type(error).__name__ == "ResponseParserError":
        return "transient"  # an answer that is not S3's, from something between
    return "refused" if isinstance(error, boto.BotoCoreError) else "foreign"


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
