"""Reading data and writing packs: local paths, `s3://` and `gs://`; reading `hf://` (hub.py).

boto3 reads and writes S3, with one configuration and no retries of its own; pyarrow reads and writes `gs://`. Bytes are
fetched here and parsed elsewhere. A transient failure is retried (retry.py) and finally raises StoreUnavailable, never
an OSError. So an `except OSError` sees final answers only (no such file, access denied at the start, a wrong name).
Credentials come only from the usual AWS chain and are never stored here. Knows nothing of Parquet, images or Ray.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pcace_dist.errors import JobError, StoreUnavailable
from pcace_dist.storage import hub
from pcace_dist.storage.retry import Changed, Patience, ShortRead, first_line, kind_of
from pcace_dist.storage.sections import Endpoint

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["Changed", "Patience", "Range", "RangeFile", "Storage", "StoredFile", "first_line", "split"]

T = TypeVar("T")
Range = tuple[int, int]  # start, length

CONNECT_SECONDS = 10
REQUEST_SECONDS = 60
CONNECTIONS = 32
FETCHES = 8  # ranges of one file that are fetched at the same time
BLOCK = 1 << 20  # bytes to fetch at once where a file is read in many small consecutive reads
HOLE = 8 << 10  # a gap of fewer bytes between two ranges is read with them
LONGEST_RANGE = 32 << 20  # joined ranges are not longer than this


class NoBucket(FileNotFoundError):
    """There is no such bucket, or no such repository of the Hub."""


@dataclass(frozen=True)
class StoredFile:
    """One file. `version` changes with the content: the ETag on S3, else the modification time in nanoseconds."""

    url: str
    size: int
    version: str


@dataclass
class _Cache:
    """Clients and filesystems of this process; never pickled."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    clients: dict[Endpoint, Any] = field(default_factory=dict)
    filesystems: dict[Endpoint, Any] = field(default_factory=dict)
    of_the_hub: set[StoredFile] = field(default_factory=set)  # files that are known to be what was listed
    read: str | None = None  # the last file that was read whole
    pool: ThreadPoolExecutor | None = None


class Storage:
    """Reads and writes files by URL, with the job's `storage` section. Pickled, it keeps only settings and patience.

    `config` says by URL prefix how it is reached; the longest prefix of a URL wins. Without one,
    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_CA_BUNDLE and the profile decide, as boto3 reads them.
    """

    def __init__(self, config: Mapping[str, Endpoint] | None = None, *, patience: Patience | None = None) -> None:
        self.config = dict(config or {})
        for prefix, settings in self.config.items():
            if not prefix.startswith(("s3://", "gs://")):
                raise JobError(f"storage: {prefix!r} is not an s3:// or gs:// prefix")
            _refuse_credentials(settings.endpoint, f"storage: the endpoint of {prefix}")
        self.patience = patience or Patience()
        self._cache = _Cache()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "patience": self.patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self.patience = state["config"], state["patience"]
        self._cache = _Cache()

    def for_worker(self) -> Storage:
        """The same storage with a patience of its own, so that stopping one worker ends no other worker's waits."""
        copied = Storage(patience=self.patience.for_worker())
        copied.config, copied._cache = self.config, self._cache
        return copied

    def settings(self, url: str) -> Endpoint:
        """The settings of the longest configured prefix of `url`."""
        prefixes = [p for p in self.config if url.startswith(p) or url + "/" == p]
        return self.config[max(prefixes, key=len)] if prefixes else Endpoint()

    def s3_client(self, url: str) -> BaseClient:
        """The boto3 S3 client for `url`. It does not retry by itself."""
        key = self.settings(url)
        with self._cache.lock:  # making a client is not thread-safe, using one is
            if key not in self._cache.clients:
                self._cache.clients[key] = _make_client(key)
            client: BaseClient = self._cache.clients[key]
        return client

    def open(self, url: str) -> pa.NativeFile:
        """Open for random-access reading. Raises FileNotFoundError, other OSErrors, StoreUnavailable."""
        file = self.stat(url)
        if file is None:
            raise FileNotFoundError(f"{url}: no such file")
        return pa.PythonFile(RangeFile(self, file), mode="r")

    def read_bytes(self, url: str) -> bytes:
        """The whole content. Raises FileNotFoundError or another OSError naming the path, StoreUnavailable."""

        def read() -> bytes:
            scheme, path = split(url)
            if scheme == "file":
                return Path(path).read_bytes()
            if scheme == "hf":
                return hub.read(path)
            if scheme == "s3":
                return whole_body(self.s3_client(url).get_object(**_at(path)))  # type: ignore[attr-defined]
            with self._gs(url).open_input_file(path) as file:
                data: bytes = file.read()
            return data

        data = self.patiently(url, read)
        self._cache.read = url
        return data

    def still_gives(self) -> bool | None:
        """Whether the last file that was read can still be read; None if there is none. One attempt."""
        url = self._cache.read
        if url is None:
            return None
        try:
            Storage.read_bytes(self._hasty(), url)
        except (OSError, StoreUnavailable):
            return False
        return True

    def _hasty(self) -> Storage:
        copied = self.for_worker()
        copied.patience.seconds = 0.0
        return copied

    def fetch(self, file: StoredFile, start: int, length: int) -> bytes:
        """Bytes start .. start + length - 1 of a file, all of them.

        Raises Changed where the file is no longer the one that was listed, FileNotFoundError where it is gone.
        """

        def read() -> bytes:
            data = self._read(file, start, length)
            if len(data) != length:
                raise ShortRead(f"{len(data)} bytes of {length} arrived")
            return data

        return b"" if length == 0 else self.patiently(file.url, read)

    def fetch_many(self, file: StoredFile, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of one file; on a store, some are fetched at the same time."""
        if len(ranges) < 2 or split(file.url)[0] == "file":
            return [self.fetch(file, start, length) for start, length in ranges]
        with self._cache.lock:
            if self._cache.pool is None:
                self._cache.pool = ThreadPoolExecutor(4 * FETCHES, thread_name_prefix="s3-fetch")
        return list(self._cache.pool.map(lambda byte_range: self.fetch(file, *byte_range), ranges))

    def stat(self, url: str) -> StoredFile | None:
        """The file at exactly `url`, or None if there is none (a folder is not a file)."""
        scheme, path = split(url)

        def look() -> StoredFile | None:
            if scheme == "file":
                return _stat_local(path)
            if scheme == "hf":
                return _from_hub(hub.stat(path))
            if scheme == "s3":
                return self._head(url)
            return _from_info(self._gs(url).get_file_info(path), scheme)

        try:
            return self.patiently(url, look)
        except FileNotFoundError:
            return None

    def list(self, url: str) -> list[StoredFile]:
        """All files below the folder `url`, at any depth, sorted by URL; empty if there is no such folder. Raises
        NoBucket."""
        scheme, path = split(url)

        def look() -> list[StoredFile | None]:
            if scheme == "file":
                return list(_walk(path))
            if scheme == "hf":
                return [_from_hub(file) for file in hub.files_below(path)]
            if scheme == "s3":
                return list(self._list_s3(url))
            selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
            return [_from_info(info, scheme) for info in self._gs(url).get_file_info(selector)]

        try:
            listed = self.patiently(url, look)
        except NoBucket:
            raise
        except FileNotFoundError:
            return []
        return sorted((file for file in listed if file is not None), key=lambda file: file.url)

    def put_file(self, local: str | Path, url: str) -> None:
        """Move a finished local file to `url` as a whole: a rename, or one upload that leaves nothing if it fails."""
        url = normalised(url)
        scheme, path = _writable(url)

        def put() -> None:
            if scheme == "file":
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.move(str(local), path)
            elif scheme == "s3":
                bucket, _, key = path.partition("/")
                self.s3_client(url).upload_file(str(local), bucket, key)  # type: ignore[attr-defined]
            else:
                pafs.copy_files(str(local), path, destination_filesystem=self._gs(url))

        self.patiently(url, put)
        if scheme != "file":
            os.remove(local)

    def put_bytes(self, data: bytes, url: str) -> None:
        """Write `data` to `url` as a whole object."""
        url = normalised(url)
        scheme, path = _writable(url)

        def put() -> None:
            if scheme == "s3":
                self.s3_client(url).put_object(**_at(path), Body=data)  # type: ignore[attr-defined]
                return
            filesystem = pafs.LocalFileSystem() if scheme == "file" else self._gs(url)
            temporary = f"{path}.tmp-{os.getpid()}"
            if scheme == "file":
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with filesystem.open_output_stream(temporary) as file:
                file.write(data)
            try:
                filesystem.move(temporary, path)
            except OSError:  # a folder is in the way
                with contextlib.suppress(OSError):
                    filesystem.delete_file(temporary)
                raise

        self.patiently(url, put)

    def s3_call(self, url: str, request: Callable[[Any], T]) -> T:
        """The result of `request` on the S3 client of `url`: one attempt, with boto3's own exceptions."""
        return self._attempt(url, lambda: request(self.s3_client(url)))

    def patiently(self, url: str, operation: Callable[[], T]) -> T:
        """The result of `operation` on `url`; transient failures are retried. Raises OSErrors that name the URL, and
        StoreUnavailable."""

        with one_line(url):
            return self.patience.call(lambda: self._attempt(url, operation), url)

    def _attempt(self, url: str, operation: Callable[[], T]) -> T:
        """One attempt. After refused access, the next client is a new one: credentials in files may have been
        renewed."""
        try:
            return operation()
        except Exception as error:
            if kind_of(error) == "denied":
                with self._cache.lock:
                    self._cache.clients.pop(self.settings(url), None)
            raise

    def _read(self, file: StoredFile, start: int, length: int) -> bytes:
        """One attempt of `fetch`."""
        scheme, path = split(file.url)
        if scheme == "file":
            return _read_local(path, file, start, length)
        if scheme == "hf":
            return self._read_hub(path, file, start, length)
        return (self._read_s3 if scheme == "s3" else self._read_gs)(path, file, start, length)

    def _gs(self, url: str) -> pafs.FileSystem:
        settings = self.settings(url)
        with self._cache.lock:
            if settings not in self._cache.filesystems:
                self._cache.filesystems[settings] = pafs.GcsFileSystem(anonymous=settings.anonymous)
            return self._cache.filesystems[settings]

    def _read_s3(self, path: str, file: StoredFile, start: int, length: int) -> bytes:
        client: Any = self.s3_client(file.url)
        try:
            response = client.get_object(**_at(path), Range=f"bytes={start}-{start + length - 1}")
        except client.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
                raise Changed(f"{file.url}: changed while it was read") from None  # it is shorter now
            raise
        if file.version and response.get("ETag", "").strip('"') != file.version:
            response["Body"].close()
            raise Changed(f"{file.url}: changed while it was read")
        data = whole_body(response)
        return data[start : start + length] if len(data) == file.size > length else data  # a server without ranges

    def _read_hub(self, path: str, file: StoredFile, start: int, length: int) -> bytes:
        """Of the commit that this process sees, which is asked once whether the file is the one that was listed."""
        if file not in self._cache.of_the_hub:
            now = _from_hub(hub.stat(path))
            if now is None:
                raise FileNotFoundError(file.url)
            if file.version and (now.size, now.version) != (file.size, file.version):
                raise Changed(f"{file.url}: changed while it was read")
            self._cache.of_the_hub.add(file)
        return hub.read(path, start, length)

    def _read_gs(self, path: str, file: StoredFile, start: int, length: int) -> bytes:
        filesystem = self._gs(file.url)
        current = _from_info(filesystem.get_file_info(path), "gs")
        if current is None:
            raise FileNotFoundError(file.url)
        if file.version and (current.size, current.version) != (file.size, file.version):
            raise Changed(f"{file.url}: changed while it was read")
        with filesystem.open_input_file(path) as source:
            data: bytes = source.read_at(length, start)
        return data

    def _head(self, url: str) -> StoredFile | None:
        bucket, _, key = split(url)[1].partition("/")
        if not key or key.endswith("/"):
            return None
        head = self.s3_client(url).head_object(Bucket=bucket, Key=key)  # type: ignore[attr-defined]
        return StoredFile(f"s3://{bucket}/{key}", head["ContentLength"], head["ETag"].strip('"'))

    def _list_s3(self, url: str) -> Iterator[StoredFile]:
        bucket, _, prefix = split(url)[1].partition("/")
        prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        for entry in listed_objects(self.s3_client(url), bucket, prefix):
            yield StoredFile(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


class RangeFile:
    """A file on storage with the methods of a Python file. Wrap it in `pa.PythonFile` for pyarrow.

    `held`: ranges that are in memory already. Other ranges are fetched; errors of fetching (StoreUnavailable, Changed,
    FileNotFoundError) pass through pyarrow unchanged.
    """

    def __init__(self, storage: Storage, file: StoredFile, held: Mapping[Range, bytes] | None = None) -> None:
        self._storage, self._file = storage, file
        self._held = dict(held or {})
        self._block: tuple[int, bytes] = (0, b"")
        self._at = 0
        self._last_end = 0
        self.failure: Exception | None = None  # the error of a fetch, whatever a parser turns it into
        self.closed = False

    def read(self, length: int | None = -1) -> bytes:
        remaining = max(0, self._file.size - self._at)
        length = remaining if length is None or length < 0 else min(length, remaining)
        data = self._in_memory(self._at, length)
        if data is None:
            try:
                data = self._fetched(self._at, length)
            except Exception as error:
                self.failure = error
                raise
        self._at += length
        self._last_end = self._at
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._file.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        self.closed = True

    def _in_memory(self, start: int, length: int) -> bytes | None:
        exactly = self._held.get((start, length))
        if exactly is not None:
            return exactly
        for (at, size), data in self._held.items():
            if at <= start and start + length <= at + size:
                return data[start - at : start - at + length]
        at, data = self._block
        return data[start - at : start - at + length] if at <= start and start + length <= at + len(data) else None

    def _fetched(self, start: int, length: int) -> bytes:
        if start != self._last_end or length >= BLOCK:  # no small consecutive read
            return self._storage.fetch(self._file, start, length)
        block = self._storage.fetch(self._file, start, min(BLOCK, self._file.size - start))
        self._block = start, block
        return block[:length]


def joined(ranges: Sequence[Range]) -> list[Range]:
    """The ranges, sorted; those with a gap of less than HOLE bytes between them are joined."""
    joined_ranges: list[Range] = []
    for start, length in sorted(ranges):
        if joined_ranges:
            at, size = joined_ranges[-1]
            if start - (at + size) < HOLE and start + length - at <= LONGEST_RANGE:
                joined_ranges[-1] = at, max(size, start + length - at)
                continue
        joined_ranges.append((start, length))
    return joined_ranges


def split(url: str) -> tuple[str, str]:
    """Scheme (file, s3, gs, hf) and path of a URL: an absolute local path, "bucket/key", or what follows `hf://`.

    Raises JobError for others.
    """
    scheme, separator, path = url.partition("://")
    scheme = scheme.lower()
    if not separator:
        return "file", os.path.abspath(os.path.expanduser(url))
    if scheme == "file":
        return "file", os.path.abspath(path)
    if scheme in ("s3", "gs"):
        bucket = path.partition("/")[0]
        if not bucket:
            raise JobError(f"{url}: names no bucket")
        if "@" in bucket or (":" in bucket and "@" in path):
            raise JobError(
                f"{_masked(url)}: holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and leave them "
                "out of the URL"
            )
        return scheme, path
    if scheme == "hf":
        hub.check_path(path)
        return scheme, path
    raise JobError(f"{_masked(url)}: {scheme}:// is not supported; use a local path, s3://, gs:// or hf://")


def _writable(url: str) -> tuple[str, str]:
    """Scheme and path of a URL that can be written to. Raises JobError."""
    scheme, path = split(url)
    if scheme == "hf":
        raise JobError(f"{url}: hf:// is read only; use a local path, s3:// or gs://")
    return scheme, path


def _masked(url: str) -> str:
    """A URL with everything before an @ hidden."""
    scheme, _, address = url.partition("://")
    return f"{scheme}://...@{address.rpartition('@')[2]}" if "@" in address else url


def normalised(url: str) -> str:
    """The one spelling of a path or URL: without `//`, `.` and `/` at the end, and `file://` as a path.

    A relative local path stays relative. Raises JobError for URLs that `split` refuses and for `..` in a URL.
    """
    if "://" not in url:
        return re.sub("//+", "/", url).rstrip("/") or ("/" if url else "")
    scheme, path = split(url)
    if scheme == "file":
        return path
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise JobError(f"{url}: holds '..'; write the path out")
    return f"{scheme}://{'/'.join(names)}"


def _refuse_credentials(endpoint: str | None, owner: str) -> None:
    """Raises JobError for an endpoint like http://user:password@host."""
    if endpoint and "@" in urlsplit(endpoint).netloc:
        host = urlsplit(endpoint).netloc.rpartition("@")[2]
        raise JobError(
            f"{owner} (...@{host}) holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and leave them "
            "out of the URL"
        )


def _at(path: str) -> dict[str, str]:
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key}


def listed_objects(client: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """All objects whose key begins with `prefix`, as S3 describes them, without the folder objects of S3 consoles."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]


def whole_body(response: Mapping[str, Any]) -> bytes:
    """The whole body of a response. Raises ShortRead where the connection ended too early."""
    data: bytes = response["Body"].read()
    if len(data) != response.get("ContentLength", len(data)):
        raise ShortRead(f"{len(data)} bytes of {response['ContentLength']} arrived")
    return data


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _stat_local(path: str) -> StoredFile | None:
    try:
        info = os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return StoredFile(path, info.st_size, str(info.st_mtime_ns)) if stat.S_ISREG(info.st_mode) else None


def _read_local(path: str, file: StoredFile, start: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        if file.version and (info.st_size, str(info.st_mtime_ns)) != (file.size, file.version):
            raise Changed(f"{file.url}: changed while it was read")
        data = os.pread(descriptor, length, start)
        while len(data) < length and (rest := os.pread(descriptor, length - len(data), start + len(data))):
            data += rest  # one call returns 2 GiB at most
        return data
    finally:
        os.close(descriptor)


class one_line:
    """Context that turns errors of boto3, pyarrow and the system into an OSError of one line that names the path."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and (kind := kind_of(error)) not in ("foreign", "changed"):
            raise _restated(error, kind, self.url) from error


def refusal(error: Exception, url: str) -> str:
    """What refused access to `url` comes from, and what to check."""
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return "no AWS credentials found; set them in the environment or a profile"
    response = getattr(error, "response", None) or {}
    if not isinstance(response, dict):  # of the Hub
        response = {"ResponseMetadata": {"HTTPStatusCode": response.status_code}}
    code = response.get("Error", {}).get("Code") or response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    check = "check HF_TOKEN" if url.startswith("hf://") else "check the AWS credentials"
    return f"access denied ({code}); {check}" if code else first_line(_text(error))


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.errno is not None and error.strerror else str(error)


def _restated(error: Exception, kind: str, url: str) -> OSError:
    text = _text(error)
    number = error.errno if isinstance(error, OSError) else None
    restated: OSError
    if kind == "bucket":
        what = "repository, or one that takes a token (HF_TOKEN)" if url.startswith("hf://") else "bucket"
        restated = NoBucket(f"{url}: no such {what}")
    elif kind == "absent":
        restated = FileNotFoundError(f"{url}: no such file")
    elif kind == "denied":
        restated = PermissionError(f"{url}: {refusal(error, url)}")
    elif isinstance(error, IsADirectoryError):
        restated = IsADirectoryError(f"{url}: a directory, not a file")
    else:
        restated = OSError(f"{url}: {first_line(text)}")
    if number is not None:
        restated.errno = number
    return restated


def _make_client(settings: Endpoint) -> BaseClient:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},  # only retry.py retries
        # Not all servers know the newer checksums: they are checked where the server sends them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **({"signature_version": UNSIGNED} if settings.anonymous else {}),
    )
    endpoint = settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    _refuse_credentials(endpoint, "the endpoint of S3")
    if endpoint and ".amazonaws.com" not in endpoint:
        config = config.merge(Config(s3={"addressing_style": "path"}))
    session = boto3.session.Session()
    region = settings.region or session.region_name or "us-east-1"
    client: BaseClient = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    return client


def _walk(root: str) -> Iterator[StoredFile]:
    for folder, _, names in os.walk(root, onerror=_raise_unless_absent):
        for name in names:
            if (file := _stat_local(os.path.join(folder, name))) is not None:
                yield file


def _from_hub(file: hub.HubFile | None) -> StoredFile | None:
    return None if file is None else StoredFile(f"hf://{file.path}", file.size, file.version)


def _from_info(info: pafs.FileInfo, scheme: str) -> StoredFile | None:
    if info.type != pafs.FileType.File:
        return None
    return StoredFile(f"{scheme}://{info.path}", info.size, str(info.mtime_ns))
