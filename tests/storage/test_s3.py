"""Storage on S3: a real server process on a loopback port."""

from __future__ import annotations

import datetime
import os
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pcace_dist.datasets.columns import DatasetSpec
from pcace_dist.datasets.images import ImageSpec
from pcace_dist.datasets.listing import list_dataset
from pcace_dist.datasets.loader import LoaderOptions, pilot_rows
from pcace_dist.datasets.units import make_units
from pcace_dist.errors import DatasetError
from pcace_dist.packing.pack import pack
from pcace_dist.storage.files import Storage, StoredFile
from pcace_dist.storage.sections import Endpoint
from tests.datasets.helpers import dataset, ids, picture, reader_of
from tests.servers import moto_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
def storage(endpoint: str, request: pytest.FixtureRequest) -> Storage:
    made = Storage({"s3://": Endpoint(endpoint, region="us-east-1")})
    made.s3_client("s3://data").create_bucket(Bucket=bucket(request))  # type: ignore[attr-defined]
    return made


def bucket(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).replace("_", "-").lower()[:60].strip("-")


@pytest.fixture
def url(storage: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A data set of three shards in a bucket of its own."""
    root = f"s3://{bucket(request)}/data"
    for file in sorted(dataset(tmp_path / "data").iterdir()):
        storage.put_bytes(file.read_bytes(), f"{root}/{file.name}")
    return root


def test_a_prefix_with_brackets_is_no_pattern(storage: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = f"s3://{bucket(request)}"
    for name in ("set[12]", "set1"):
        for path in sorted(dataset(tmp_path / name, files=1).iterdir()):
            storage.put_file(path, f"{root}/{name}/{path.name}")
    for place in (f"{root}/set[12]", f"{root}/set[12]/*.parquet"):
        data_set = list_dataset(DatasetSpec(path=[str(place)]), storage)
        assert [file.url for file in data_set.files] == [f"{root}/set[12]/part-00000.parquet"]
    data_set = list_dataset(DatasetSpec(path=[f"{root}/se[st]1"]), storage)
    assert [file.url for file in data_set.files] == [f"{root}/set1/part-00000.parquet"]


def test_a_listing_on_s3_has_the_same_keys_and_rows_and_etags(url: str, storage: Storage, tmp_path: Path) -> None:
    remote = list_dataset(DatasetSpec([url]), storage)
    local = list_dataset(DatasetSpec([str(tmp_path / "data")]), Storage())
    assert [(f.key, f.row_groups, f.size) for f in remote.files] == [(f.key, f.row_groups, f.size) for f in local.files]
    assert all(len(file.version) == 32 for file in remote.files)
    assert [f.key for f in list_dataset(DatasetSpec([f"{url}/*1.parquet"]), storage).files] == ["part-00001.parquet"]
    one = list_dataset(DatasetSpec([f"{url}/part-00002.parquet"]), storage)
    assert [f.key for f in one.files] == ["part-00002.parquet"]


def test_batches_and_pilot_from_s3_are_those_from_disk(url: str, storage: Storage, tmp_path: Path) -> None:
    read = {}
    for place, where in ((url, storage), (str(tmp_path / "data"), Storage())):
        spec = DatasetSpec([place], label="label", id="name", filter={"label": [1, 2, 3]})
        listing = list_dataset(spec, where)
        (unit,) = make_units(listing, 1000)
        with reader_of(spec, where, threads=2) as reader:
            stream = reader.submit(unit)
            batches = list(stream.batches())
        pilot = pilot_rows(
            listing,
            4,
            LoaderOptions(
                spec, ImageSpec(), where, batch_size=2, fold_bytes=lambda data: len(data) % 16, fold_value=int
            ),
        )
        read[place] = (ids(batches), [b.images.tolist() for b in batches], stream.filtered, ids(list(pilot)))
    one, two = read.values()
    assert one == two


def test_the_environment_is_enough(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert list_dataset(DatasetSpec([url]), Storage()).rows == 30


def test_an_overwritten_object_is_noticed(url: str, storage: Storage, tmp_path: Path) -> None:
    spec = DatasetSpec([url])
    (unit,) = make_units(list_dataset(spec, storage), 1000)
    data = bytearray((tmp_path / "data/part-00000.parquet").read_bytes())
    data[100] ^= 1
    storage.put_bytes(bytes(data), f"{url}/part-00000.parquet")
    with (
        reader_of(spec, storage) as reader,
        pytest.raises(DatasetError, match="has changed since the run began"),
    ):
        list(reader.batches(unit))


def test_what_is_not_there_is_named(url: str, storage: Storage) -> None:
    for path, what in ((f"{url}/none", "file or folder"), ("s3://no-such-bucket-at-all/x", "bucket")):
        with pytest.raises(DatasetError, match=f"^dataset.path: {path}: no such {what}$"):
            list_dataset(DatasetSpec([path]), storage)
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file$"):
        storage.read_bytes(f"{url}/none.pt")


def test_packing_to_and_from_s3(storage: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = f"s3://{bucket(request)}"
    for name in ("cat/1", "cat/2", "dog/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(len(name)).save(tmp_path / f"{name}.png")
        storage.put_bytes((tmp_path / f"{name}.png").read_bytes(), f"{root}/images/{name}.png")
    report = pack(str(tmp_path), f"{root}/one", shard_rows=2, storage=storage)
    assert report.shards == ("part-00000.parquet", "part-00001.parquet")
    assert list_dataset(DatasetSpec([f"{root}/one"], label="label"), storage).rows == 3
    again = pack(f"{root}/images", f"{root}/two/", storage=storage)
    assert (again.rows, again.bad) == (3, ())
    assert pack(f"{root}/images", f"{root}/two/", storage=storage) == again


def test_a_key_with_two_slashes_is_read_as_it_is(
    storage: Storage, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = f"s3://{bucket(request)}"
    (file, *_) = sorted(dataset(tmp_path / "data", files=1).iterdir())
    client: Any = storage.s3_client(root)
    client.put_object(Bucket=bucket(request), Key="data/deep//a.parquet", Body=file.read_bytes())
    spec = DatasetSpec([f"{root}/data"])
    listing = list_dataset(spec, storage)
    assert [data_file.key for data_file in listing.files] == ["deep//a.parquet"]
    (unit,) = make_units(listing, 1000)
    with reader_of(spec, storage) as reader:
        assert sum(len(batch) for batch in reader.batches(unit)) == 10


class _Tls(BaseHTTPRequestHandler):
    """An S3 that has one object."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"data")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def private_authority(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An https:// endpoint whose certificate only its own bundle vouches for; the bundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}", bundle
    server.shutdown()
    server.server_close()


def test_the_authority_of_the_environment_holds_for_every_read(
    private_authority: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, authority = private_authority
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(PermissionError, match=r"^s3://b/k: SSL validation failed"):
        Storage().read_bytes("s3://b/k")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    storage = Storage()
    assert storage.read_bytes("s3://b/k") == b"data"
    assert storage.fetch(StoredFile("s3://b/k", 4, "1"), 1, 3) == b"ata"
