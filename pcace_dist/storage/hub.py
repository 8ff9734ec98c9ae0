"""`hf://datasets/USER/NAME[@REVISION]/PATH`: files of the Hugging Face Hub, read only.

A branch is the commit that it pointed to when this process first asked, so that a process sees one state of it. The
version of a file is the id of its content in git. The token is that of huggingface_hub's own login, or HF_TOKEN; the
address is HF_ENDPOINT's. One attempt each: whoever calls repeats. Needs the extra `hub`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pcace_dist.errors import JobError, require_packages

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SECONDS = 60  # for an answer
KINDS = {"datasets/": "dataset", "spaces/": "space", "": "model"}
_PATH = re.compile(
    r"(?P<kind>datasets/|spaces/|(?!datasets/|spaces/))(?P<id>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(/(?P<path>.*))?"
)


@dataclass(frozen=True)
class HubFile:
    """A file: its path after `hf://`, its bytes, and what changes with its content."""

    path: str
    size: int
    version: str


@dataclass(frozen=True)
class _Place:
    """A path in a repository. `written`: the repository as the user writes it, with the revision."""

    written: str
    kind: str
    id: str
    revision: str | None
    path: str

    @property
    def at(self) -> dict[str, Any]:
        """What huggingface_hub's functions take."""
        commit = _commit(self.kind, self.id, self.revision, _endpoint())
        return {"repo_id": self.id, "repo_type": self.kind, "revision": commit}


def check_path(path: str) -> None:
    """Raise JobError for a path (after `hf://`) that names no repository."""
    _place(path)


def stat(path: str) -> HubFile | None:
    """The file at exactly a path, or None."""
    place = _place(path)
    found = _api(_endpoint()).get_paths_info(paths=[place.path], **place.at) if place.path else ()
    return next(_files(found, place.written), None)


def files_below(path: str) -> list[HubFile]:
    """All files below a folder. Raises huggingface_hub's EntryNotFoundError where there is none."""
    place = _place(path)
    tree = _api(_endpoint()).list_repo_tree(path_in_repo=place.path or None, recursive=True, **place.at)
    return list(_files(tree, place.written))


def read(path: str, start: int = 0, length: int | None = None) -> bytes:
    """Bytes of a file; all of them where no length is given."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # as its documentation names them
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    place = _place(path)
    url = hf_hub_url(filename=place.path, endpoint=_endpoint(), **place.at)
    headers = build_hf_headers()
    if length is not None:
        headers["Range"] = f"bytes={start}-{start + length - 1}"
    answer = get_session().get(url, headers=headers, follow_redirects=True, timeout=SECONDS)
    hf_raise_for_status(answer)
    data: bytes = answer.content
    return data if length is None or len(data) <= length else data[start : start + length]  # a server without ranges


def _files(found: Iterable[Any], written: str) -> Iterator[HubFile]:
    from huggingface_hub.hf_api import RepoFile

    for entry in found:
        if isinstance(entry, RepoFile):
            yield HubFile(f"{written}/{entry.path}", int(entry.size), str(entry.blob_id))


def _place(path: str) -> _Place:
    parts = _PATH.fullmatch(path.rstrip("/"))
    if parts is None:
        raise JobError(f"hf://{path}: names no repository; write hf://datasets/USER/NAME/PATH")
    written = path[: parts.end("revision") if parts["revision"] else parts.end("id")]
    revision = None if parts["revision"] is None else unquote(parts["revision"])
    return _Place(written, KINDS[parts["kind"]], parts["id"], revision, parts["path"] or "")


@lru_cache
def _commit(kind: str, name: str, revision: str | None, endpoint: str) -> str:
    """The commit of a revision, in this process from now on."""
    return str(_api(endpoint).repo_info(name, repo_type=kind, revision=revision).sha)


@lru_cache
def _api(endpoint: str) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint)


def _endpoint() -> str:
    require_packages("hf://", "hub", "huggingface_hub")
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
