"""Where a run keeps its files: whole objects under short keys, with conditional puts.

Everything that happens exactly once depends on `put_if_absent` (docs/protocol.md, item 1). There are two stores: a
local folder (temporary file, fsync, hard link) and a bucket on S3 (one PutObject with `IfNoneMatch="*"`). A failure is
an `OutputError` of one line (settings, access rights), or a `StoreUnavailable` after retries (no answer, disk full).
Knows nothing of ledgers, attempts or Ray.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

from pcace_dist.errors import JobError, OutputError, StoreUnavailable
from pcace_dist.storage.files import listed_objects, normalised, refusal, whole_body
from pcace_dist.storage.retry import Patience, first_line, kind_of

T = TypeVar("T")
Keys = list[str]  # inside the classes `list` is a method

PROBES = 10  # attempts of a probe where answers are lost

_TEMPORARY = ".tmp-"
_PROBE = ".probe-"
_LOCK = ".lock-"
_OWN = re.compile(r"\.tmp-\d+-[0-9a-f]{32}|\.probe-[0-9a-f]{32}")


class OutcomeUnknown(StoreUnavailable):
    """A put was sent and its answer was lost: it may have happened, may happen later, or never."""


@dataclass(frozen=True)
class Versioned:
    """The content of an object and the tag that `put_if_match` compares."""

    data: bytes
    etag: str


class Sink(Protocol):
    """A place to put whole objects."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object as a whole."""


class Store(Sink, Protocol):
    """Whole objects under relative POSIX keys. Names that begin with a dot are the store's own and never listed."""

    patience: Patience

    @property
    def url(self) -> str:
        """The folder or `s3://bucket/prefix`, for messages."""

    def get(self, key: str) -> bytes | None:
        """The whole content; None if there is no such object."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object, never replace one. True: created by this call. False: there is one already.

        Raises OutcomeUnknown when the answer is lost; the caller then reads the object and compares.
        """

    def put(self, key: str, data: bytes) -> None:
        """Create or replace an object as a whole: readers see either the old content or the new one."""

    def read_versioned(self, key: str) -> Versioned | None:
        """Content and tag of an object; None if there is none."""

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        """Replace an object only if its tag is still `etag` (None: only if it is absent). Raises OutcomeUnknown."""

    def list(self, prefix: str = "") -> Keys:
        """All keys that begin with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        """Remove the temporary files that interrupted writes of this class left in some folders (patterns; "" is the
        root). Only for the holder of a finished run (docs/protocol.md, item 11)."""


class S3Clients(Protocol):
    """Calls S3 with boto3 clients, as `storage.files.Storage` does."""

    patience: Patience

    def s3_call(self, url: str, request: Callable[[Any], T]) -> T:
        """The result of `request` on a boto3 S3 client of `url`. The client must not retry by itself: no put may be
        repeated unnoticed. Raises boto3's own exceptions."""


def open_store(url: str, storage: S3Clients | None = None) -> Store:
    """The store of a run: a local folder (made when first written to) or `s3://bucket/prefix`. Raises OutputError."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() not in ("file", "s3"):
        raise OutputError(f"output {url}: is neither a local path nor s3://bucket/prefix")
    if not separator or scheme.lower() == "file":
        return LocalStore(normalised(url), patience=None if storage is None else storage.patience)
    try:
        bucket, _, prefix = normalised(url).partition("://")[2].partition("/")
    except JobError as error:
        raise OutputError(f"output {error}") from None
    if storage is None:
        raise OutputError(f"output {url}: no storage settings for S3")
    return S3Store(bucket, prefix, storage)


def hasty(store: Store) -> Store:
    """The same store without retries, for writes that the caller retries itself."""
    copied = copy.copy(store)
    copied.patience = Patience(seconds=0.0, begun=store.patience.begun)
    return copied


def probe(store: Store) -> None:
    """Test keys like those that the run will write, and conditional puts: a second put must fail, and the first content
    must stay.

    Raises OutputError if they do not work; such servers exist (`rclone serve s3` overwrites silently).
    """
    for like in ("{}.parquet", "attempts/{}/codes.parquet", "plan/{}.check.safetensors"):
        _probe_key(store, like.format(f"{_PROBE}{uuid.uuid4().hex}"))
    for _ in range(PROBES):
        key = f"ledger/{_PROBE}{uuid.uuid4().hex}.json"
        try:
            created = store.put_if_absent(key, b"first")
            replaced = store.put_if_absent(key, b"second")
        except OutcomeUnknown:
            continue
        finally:
            content = store.get(key)
            store.delete(key)
        if created and not replaced and content == b"first":
            return
        raise OutputError(
            f"output {store.url}: this storage ignores conditional puts (IfNoneMatch), so that two runs could write "
            "over each other; use another output"
        )
    raise StoreUnavailable(f"output {store.url}: did not answer {PROBES} conditional puts")


def _probe_key(store: Store, key: str) -> None:
    """Write, read and delete one object. Raises OutputError where the content that is read is not what was written."""
    content = uuid.uuid4().hex.encode()
    try:
        store.put(key, content)
        content_read = store.get(key)
    finally:
        store.delete(key)
    if content_read != content:
        raise OutputError(f"output {store.url}: gives back another content than was put; use another output")


def check_key(key: str) -> str:
    """The key, unchanged. Raises ValueError for absolute keys, `..`, empty parts, backslashes, control characters."""
    names = key.split("/")
    if any(name in ("", ".", "..") for name in names) or "\\" in key or not key.isprintable():
        raise ValueError(f"{key!r} is no key of a store: relative, with / between names, without . and ..")
    return key


def _is_hidden(key: str) -> bool:
    return any(name.startswith(".") for name in key.split("/"))


# -- local folder


class LocalStore:
    """A folder of a local or shared file system with hard links. Safe for many processes at once."""

    def __init__(self, root: str | os.PathLike[str], *, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._root = Path(os.path.abspath(os.path.expanduser(root)))

    @property
    def url(self) -> str:
        return str(self._root)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            return self._patiently(key, path.read_bytes)
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
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise OutputError(
                        f"output {self.url}: this file system has no hard links; use another output"
                    ) from error
                if self.patience.is_outage(kind_of(error)):
                    raise OutcomeUnknown(f"{path}: {error.strerror or error}") from error
                raise
        self._settle(path)
        return True

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)

        def put() -> None:
            with self._written(path, data) as temporary:
                os.replace(temporary, path)

        self._patiently(key, put)
        self._settle(path)

    def read_versioned(self, key: str) -> Versioned | None:
        data = self.get(key)
        return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        path = self._path(key)
        lock = path.with_name(f"{_LOCK}{path.name}")
        with self._patiently(key, lambda: _open_in_folder(lock, "ab")) as lock_file:
            self._patiently(key, lambda: fcntl.flock(lock_file, fcntl.LOCK_EX))
            current = self.read_versioned(key)
            if (None if current is None else current.etag) != etag:
                return False
            self.put(key, data)
        return True

    def list(self, prefix: str = "") -> Keys:
        base = self._root / prefix.rpartition("/")[0]

        def look() -> Keys:
            keys = []
            for folder, folders, names in os.walk(base, onerror=_raise_unless_absent):
                folders[:] = [name for name in folders if not name.startswith(".")]
                relative = Path(folder).relative_to(self._root)
                keys += [(relative / name).as_posix() for name in names if not name.startswith(".")]
            return sorted(key for key in keys if key.startswith(prefix))

        return self._patiently(prefix, look)

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._patiently(key, lambda: path.unlink(missing_ok=True))
        with contextlib.suppress(OSError):  # remove folders that are empty now
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
        """As `_written`; retried while the disk fails."""
        key = path.relative_to(self._root).as_posix()
        with contextlib.ExitStack() as stack:
            yield self._patiently(key, lambda: stack.enter_context(self._written(path, data)))

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A synced temporary file beside `path` that holds `data`; removed afterwards, unless it was renamed."""
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
        """Make a new name durable. The object is in place already, so after a failure its outcome is unknown."""
        try:
            self.patience.call(lambda: _sync_folder(path.parent), f"output {path}")
        except FileNotFoundError:
            return  # removed by another process already
        except (OSError, StoreUnavailable) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise OutcomeUnknown(f"{path}: {reason or error}") from error

    def _patiently(self, key: str, operation: Callable[[], T]) -> T:
        """The result of an operation, which is retried while the disk fails. Absence stays a FileNotFoundError, other
        answers become an OutputError."""
        with self._one_line(key):
            return self.patience.call(operation, f"output {self.url}: {key}")

    @contextlib.contextmanager
    def _one_line(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError):
            raise
        except OSError as error:
            message = f"output {self.url}: {key}: {(error.strerror or str(error)).lower()}"
            raise OutputError(f"{message}; use another output or change its rights") from error


def _open_in_folder(path: Path, mode: Literal["xb", "ab"]) -> BinaryIO:
    """Open a file for writing. Its folder is made where it is missing, also if another process is removing it."""
    for _ in range(PROBES):
        try:
            return path.open(mode, buffering=1 << 20)
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                _make_folder(path.parent)
    return path.open(mode, buffering=1 << 20)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; each new name is made durable."""
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
    """A prefix of a bucket, through the clients of `storage`."""

    def __init__(self, bucket: str, prefix: str, storage: S3Clients) -> None:
        self.patience = storage.patience
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._storage = storage

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> bytes | None:
        current = self.read_versioned(key)
        return None if current is None else current.data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_once(key, data, {"IfNoneMatch": "*"})

    def put(self, key: str, data: bytes) -> None:
        self._retried(key, lambda client: client.put_object(**self._at(key), Body=data))

    def read_versioned(self, key: str) -> Versioned | None:
        def read(client: Any) -> Versioned:
            response = client.get_object(**self._at(key))
            return Versioned(whole_body(response), response["ETag"])

        return self._retried(key, read)

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> bool:
        return self._put_once(key, data, {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag})

    def list(self, prefix: str = "") -> Keys:
        entries = self._retried(prefix, lambda client: listed_objects(client, self._bucket, self._prefix + prefix))
        keys = (entry["Key"].removeprefix(self._prefix) for entry in entries or [])
        return sorted(key for key in keys if not _is_hidden(key))

    def delete(self, key: str) -> None:
        self._retried(key, lambda client: client.delete_object(**self._at(key)))

    def discard_unfinished(self, folders: Iterable[str]) -> None:
        """Does nothing: every put is one request, so unfinished uploads below this prefix are not ours."""

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _put_once(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        """One request, never retried here: only the caller can tell its own put from another's."""
        try:
            self._storage.s3_call(self.url, lambda client: client.put_object(**self._at(key), Body=data, **condition))
        except Exception as error:
            kind = kind_of(error)
            if kind in ("precondition", "absent"):  # absent: If-Match on an object that is gone
                return False
            if self.patience.is_outage(kind):
                raise OutcomeUnknown(f"{self.url}/{key}: {first_line(error)}") from error
            raise self._stated(key, error) from error
        return True

    def _retried(self, key: str, request: Callable[[Any], T]) -> T | None:
        """The result of a call that may be repeated; None if there is no such object."""
        try:
            return self.patience.call(lambda: self._storage.s3_call(self.url, request), f"output {self.url}/{key}")
        except StoreUnavailable:
            raise
        except Exception as error:
            if kind_of(error) == "absent":
                return None
            raise self._stated(key, error) from error

    def _stated(self, key: str, error: Exception) -> Exception:
        """A final error as one line for the user; an error that is not from S3 is returned unchanged."""
        kind = kind_of(error)
        if kind == "denied":
            return OutputError(f"output {self.url}: {refusal(error, self.url)}")
        if kind == "bucket":
            return OutputError(f"output {self.url}: there is no bucket {self._bucket!r}")
        if kind == "unsupported":
            return OutputError(f"output {self.url}: this storage does not know conditional puts; use another output")
        if kind == "refused":
            return OutputError(f"output {self.url}: {key}: {first_line(error)}")
        return error
