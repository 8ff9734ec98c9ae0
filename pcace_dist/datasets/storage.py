"""One resolver of paths and storage settings for every library that reads or writes files.

Local paths, `s3://` and `gs://` become pyarrow filesystems; for S3 the same endpoint, region and signing
also make a boto3 client (listing with ETags, uploads, conditional puts). Credentials come from the usual AWS
chain only and are never kept here. Failures are `OSError`s with a one-line message that names the path.
Knows nothing of Parquet, images or Ray.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs

from pcace_dist.errors import JobError

if TYPE_CHECKING:
    from botocore.client import BaseClient

CONNECT_SECONDS = 10
REQUEST_SECONDS = 60
ATTEMPTS = 5
CONNECTIONS = 32
NOT_FOUND = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
CHECK = "check the AWS credentials"
DENIED = {"401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


@dataclass(frozen=True)
class S3Settings:
    """How to reach a bucket; None is what the AWS chain (environment, profile) says."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class StoredFile:
    """One file: `version` changes with its content (ETag on S3, else modification time in nanoseconds)."""

    url: str
    size: int
    version: str


@dataclass
class _Cache:
    """Clients and filesystems of this process; never pickled."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    clients: dict[tuple[S3Settings, int], Any] = field(default_factory=dict)
    filesystems: dict[tuple[str, S3Settings], Any] = field(default_factory=dict)


class Storage:
    """Resolves paths by the job's `storage` section. Picklable: only the settings travel.

    `config` maps URL prefixes to {endpoint, region, anonymous}; the longest prefix of a URL wins. Else
    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and the profile count, read by boto3 and handed on to pyarrow,
    which does not read them by itself.
    """

    def __init__(self, config: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.config: dict[str, S3Settings] = {}
        for prefix, values in (config or {}).items():
            if not prefix.startswith(("s3://", "gs://")):
                raise JobError(f"storage: {prefix!r} is not an s3:// or gs:// prefix")
            try:
                self.config[prefix] = S3Settings(**values)
            except TypeError:
                raise JobError(f"storage: {prefix!r} takes endpoint, region and anonymous") from None
        self._cache = _Cache()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config = state["config"]
        self._cache = _Cache()

    def settings(self, url: str) -> S3Settings:
        """The settings of the longest configured prefix of `url`."""
        prefixes = [p for p in self.config if url.startswith(p) or url + "/" == p]
        return self.config[max(prefixes, key=len)] if prefixes else S3Settings()

    def filesystem(self, url: str) -> tuple[pafs.FileSystem, str]:
        """The pyarrow filesystem of `url` and the path in it."""
        scheme, path = split(url)
        if scheme == "file":
            return pafs.LocalFileSystem(), path
        settings = self.settings(url)
        bucket = path.partition("/")[0]
        region_of = bucket if scheme == "s3" and settings.region is None else ""
        key = (f"{scheme}:{region_of}", settings)
        with self._cache.lock:
            found = self._cache.filesystems.get(key)
        if found is None:
            found = self._s3(url, bucket) if scheme == "s3" else pafs.GcsFileSystem(anonymous=settings.anonymous)
            with self._cache.lock:
                found = self._cache.filesystems.setdefault(key, found)
        return found, path

    def s3_client(self, url: str, attempts: int = ATTEMPTS) -> BaseClient:
        """A boto3 S3 client for `url` with the same endpoint, region and signing. `attempts=1` turns its
        retries off.
        """
        key = (self.settings(url), attempts)
        with self._cache.lock:  # making a client is not thread-safe, using one is
            if key not in self._cache.clients:
                self._cache.clients[key] = _make_client(*key)
            client: BaseClient = self._cache.clients[key]
        return client

    def open(self, url: str) -> pa.NativeFile:
        """Open for random-access reading; on S3 each read is a byte-range request."""
        filesystem, path = self.filesystem(url)
        local = isinstance(filesystem, pafs.LocalFileSystem)
        with one_line(url):
            return filesystem.open_input_file(os.fsencode(path) if local else path)  # a name may not be UTF-8

    def read_bytes(self, url: str) -> bytes:
        """The whole content. Raises FileNotFoundError or another OSError naming the path."""
        with self.open(url) as file, one_line(url):
            data: bytes = file.read()
        return data

    def stat(self, url: str) -> StoredFile | None:
        """The file at exactly `url`, or None if there is none (a folder is not a file)."""
        scheme, path = split(url)
        if scheme == "file":
            if not os.path.isfile(path):
                return None
            info = os.stat(path)
            return StoredFile(path, info.st_size, str(info.st_mtime_ns))
        if scheme == "s3":
            return self._head(url)
        filesystem, path = self.filesystem(url)
        with one_line(url):
            return _from_info(filesystem.get_file_info(path), scheme)

    def list(self, url: str) -> list[StoredFile]:
        """All files below the folder `url`, at any depth, sorted by URL; empty if there is no such folder."""
        scheme, path = split(url)
        if scheme == "file":
            found: Iterator[StoredFile | None] = _walk(path)
        elif scheme == "s3":
            found = self._list_s3(url)
        else:
            filesystem, path = self.filesystem(url)
            with one_line(url):
                infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
            found = (_from_info(info, scheme) for info in infos)
        return sorted((file for file in found if file is not None), key=lambda file: file.url)

    def put_file(self, local: str | Path, url: str) -> None:
        """Move a finished local file to `url` as a whole: rename, or one upload that leaves nothing when it
        fails.
        """
        scheme, path = split(url)
        with one_line(url):
            if scheme == "file":
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.move(str(local), path)
                return
            if scheme == "s3":
                bucket, _, key = path.partition("/")
                self.s3_client(url).upload_file(str(local), bucket, key)  # type: ignore[attr-defined]
            else:
                filesystem, path = self.filesystem(url)
                pafs.copy_files(str(local), path, destination_filesystem=filesystem)
        os.remove(local)

    def put_bytes(self, data: bytes, url: str) -> None:
        """Write `data` to `url` as a whole object."""
        scheme, path = split(url)
        with one_line(url):
            if scheme == "s3":
                bucket, _, key = path.partition("/")
                self.s3_client(url).put_object(Bucket=bucket, Key=key, Body=data)  # type: ignore[attr-defined]
                return
            filesystem, path = self.filesystem(url)
            temporary = f"{path}.tmp-{os.getpid()}"
            if scheme == "file":
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with filesystem.open_output_stream(temporary) as file:
                file.write(data)
            filesystem.move(temporary, path)

    def _s3(self, url: str, bucket: str) -> pafs.FileSystem:
        settings = self.settings(url)
        meta = self.s3_client(url).meta
        endpoint = "https://" if ".amazonaws.com" in meta.endpoint_url else meta.endpoint_url
        scheme, _, host = endpoint.partition("://")
        region = settings.region or meta.region_name
        if not host and settings.region is None and not _region_is_set():
            with contextlib.suppress(OSError):  # else the default has to do
                region = pafs.resolve_s3_region(bucket)
        with one_line(url):
            return pafs.S3FileSystem(
                endpoint_override=host or None,
                scheme=scheme,
                region=region,
                anonymous=settings.anonymous,
                connect_timeout=CONNECT_SECONDS,
                request_timeout=REQUEST_SECONDS,
                retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            )

    def _head(self, url: str) -> StoredFile | None:
        bucket, _, key = split(url)[1].partition("/")
        if not key or key.endswith("/"):
            return None
        try:
            with one_line(url):
                found = self.s3_client(url).head_object(Bucket=bucket, Key=key)  # type: ignore[attr-defined]
        except FileNotFoundError:
            return None
        return StoredFile(f"s3://{bucket}/{key}", found["ContentLength"], found["ETag"].strip('"'))

    def _list_s3(self, url: str) -> Iterator[StoredFile]:
        bucket, _, prefix = split(url)[1].partition("/")
        prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        try:
            with one_line(url):
                pages = self.s3_client(url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
                entries = [entry for page in pages for entry in page.get("Contents", [])]
        except FileNotFoundError:
            return
        for entry in entries:
            if not entry["Key"].endswith("/"):
                yield StoredFile(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


def split(url: str) -> tuple[str, str]:
    """Scheme (file, s3, gs) and path of a URL: an absolute local path, or "bucket/key". Raises JobError for
    others.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "file", os.path.abspath(os.path.expanduser(url))
    if scheme == "file":
        return "file", os.path.abspath(rest)
    if scheme in ("s3", "gs"):
        if not rest.partition("/")[0]:
            raise JobError(f"{url}: names no bucket")
        return scheme, rest
    raise JobError(f"{url}: {scheme}:// is not supported; use a local path, s3:// or gs://")


class one_line:
    """Context that turns what boto3 and pyarrow raise into an OSError of one line that names the path."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
            raise _restate(error, self.url) from error
        if type(error).__module__.startswith(("botocore", "boto3", "s3transfer")):
            raise _restate_boto(error, self.url) from error


def _restate(error: OSError, url: str) -> OSError:
    kind = type(error) if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError) else OSError
    text = error.strerror if error.errno is not None and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in text or "HTTP status 404" in text:
        kind, text = FileNotFoundError, "no such file"
    elif any(
        word in text for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "status 403")
    ):
        kind, text = PermissionError, f"access denied; {CHECK}"
    message = f"{url}: {first_line(text)}"
    if error.errno is None:
        return kind(message)
    restated = kind(message)
    restated.errno = error.errno
    return restated


def _restate_boto(error: BaseException, url: str) -> OSError:
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if {code, status} & NOT_FOUND:
        return FileNotFoundError(f"{url}: no such {'bucket' if code == 'NoSuchBucket' else 'file'}")
    if {code, status} & DENIED:
        return PermissionError(f"{url}: access denied ({code or status}); {CHECK}")
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return PermissionError(f"{url}: no AWS credentials found; set them in the environment or a profile")
    return OSError(f"{url}: {first_line(str(error))}")


def first_line(text: object) -> str:
    """The first line of a message, for errors that must be one line."""
    lines = str(text).strip().splitlines()
    return lines[0].strip() if lines else ""


def _make_client(settings: S3Settings, attempts: int) -> BaseClient:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        # Servers other than AWS do not all know the newer checksums: they are checked where the server sends them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **({"signature_version": UNSIGNED} if settings.anonymous else {}),
    )
    endpoint = settings.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and ".amazonaws.com" not in endpoint:
        config = config.merge(Config(s3={"addressing_style": "path"}))
    session = boto3.session.Session()
    region = settings.region or session.region_name or "us-east-1"
    client: BaseClient = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    return client


def _region_is_set() -> bool:
    import boto3

    return boto3.session.Session().region_name is not None


def _walk(root: str) -> Iterator[StoredFile]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                info = os.stat(path)
                yield StoredFile(path, info.st_size, str(info.st_mtime_ns))


def _from_info(info: pafs.FileInfo, scheme: str) -> StoredFile | None:
    if info.type != pafs.FileType.File:
        return None
    return StoredFile(f"{scheme}://{info.path}", info.size, str(info.mtime_ns))
