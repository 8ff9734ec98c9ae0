"""The folder that an export writes: local or s3://, empty before, whole files after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pcace_dist.analysis.publish import write_bytes
from pcace_dist.errors import OutputError
from pcace_dist.storage.files import Storage, first_line, split

Step = Callable[[str], None]
"""Called with the name of each thing that is written."""


@dataclass(frozen=True)
class Folder:
    """Files below `url`."""

    url: str
    storage: Storage

    def refuse_what_is_there(self) -> None:
        """Raise OutputError where the folder is not empty, is a file, or lies where nothing can be written."""
        if split(self.url)[0] == "hf":
            raise OutputError(f"--out {self.url}: hf:// is read only; use a local path, s3:// or gs://")
        try:
            is_file = self.storage.stat(self.url) is not None
            others = [] if is_file else self.storage.list(self.url)
        except OSError as error:
            raise OutputError(f"--out {error}") from None
        if is_file:
            raise OutputError(f"--out {self.url}: is a file; write the name of a folder")
        if others:
            first = others[0].url.rpartition("/")[2]
            raise OutputError(f"--out {self.url}: is not empty ({first}, ...); take another folder, or --force")

    def put(self, name: str, data: bytes) -> None:
        """Raises OutputError."""
        write_bytes(data, f"{self.url}/{name}", self.storage, option="--out")


def local_folder(out: str) -> Path:
    """A tracker's own folder; it is made where there is none. Raises OutputError."""
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {out}: {error.strerror or first_line(error)}; write the name of a folder") from None
    return folder


def is_of(error: Exception, *packages: str) -> bool:
    """Whether an error is one of these packages, or of files and connections that they use."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in packages
