"""The server of `pcace serve`: one process on one address, until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from pcace_dist.artifacts.checked import RESTORE, fetching
from pcace_dist.errors import UserError, require_packages
from pcace_dist.storage.files import Storage, normalised, split
from pcace_dist.storage.folder import look_into
from pcace_dist.storage.retry import Patience

PATIENCE = 5.0  # seconds that a page waits for storage that does not answer


def serve(path: str, host: str, port: int, *, public: bool, open_browser: bool, tell: Callable[[str], None]) -> int:
    """Serve the runs below `path` until Ctrl-C or SIGTERM; the exit code, 0.

    public: whether others may reach it; without, the host must be this machine. tell: gets the address, and a warning.
    Raises UserError for a path, host or port that cannot be served, and where the extra `serve` is missing.
    """
    require_packages("pcace serve", "serve", "starlette", "uvicorn", "jinja2")
    root, storage = _root(path), Storage({}, patience=Patience(PATIENCE))
    _check_there(root, path, storage)
    listening = _listen(host, port, public)
    import uvicorn

    from pcace_dist.serving.catalog import Catalog
    from pcace_dist.serving.pages import app_of

    catalog = Catalog(root, storage)
    catalog.look(0)  # begins
    config = uvicorn.Config(
        app_of(catalog, path, host),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    url = _url(host if host not in ("0.0.0.0", "::") else socket.gethostname(), listening.getsockname()[1])
    if not _is_loopback(listening.getsockname()[0]):
        tell("others on the network can read these runs: there is no login")
    tell(f"runs below {path}: {url}   (Ctrl-C ends it)")
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    with contextlib.closing(catalog), _until_interrupted():
        uvicorn.Server(config).run(sockets=[listening])
    return 0


@contextlib.contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in good order; uvicorn raises them again once it has closed its connections."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _root(path: str) -> str:
    """The absolute path, or the s3:// URL. Raises UserError."""
    scheme, local = split(path)
    if scheme not in ("file", "s3"):
        raise UserError(f"{path}: runs lie in a local folder or below s3://bucket/prefix")
    return local if scheme == "file" else normalised(path)


def _check_there(root: str, path: str, storage: Storage) -> None:
    """Raises UserError where a folder is not there or may not be read. A prefix of a bucket may be empty still."""
    if not root.startswith("s3://") and not os.path.isdir(root):
        raise UserError(f"{path}: is no folder; serve one that holds runs")
    with fetching(path, RESTORE):
        look_into(storage, root)


def _listen(host: str, port: int, public: bool) -> socket.socket:
    """A socket that listens. Raises UserError, in one line, where it cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: is no name or address of this machine") from None
    if not public and not _is_loopback(str(address[0])):
        raise UserError(
            f"--host {host}: others on the network could read these runs, as there is no login; add --public if they "
            "may, or leave --host out and come by `ssh -L`"
        )
    try:
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise UserError(_cannot_listen(error, host, port)) from None


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _cannot_listen(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: is in use on {host}; take another, or --port 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"--port {port}: takes rights that you do not have; take one from 1024 on"
    return f"--host {host}: {error.strerror or error}"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
