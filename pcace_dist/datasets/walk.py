"""All files of a source of `pcace pack` or of a data set: those that are used, and those that are left out, with the
reason.

Every file below the source is in one of the two lists. Links to files and to folders are followed; a link to nothing
and a link back to a folder above it are left out. Names that begin with a dot are hidden. Of a file's content, only the
first bytes are read, and only where the name does not tell the kind. Knows nothing of classes or shards.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pcace_dist.datasets.formats import HEAD, kind_of_head, kind_of_name
from pcace_dist.datasets.globs import pattern_of
from pcace_dist.datasets.paths import (
    Skipped,
    first_names,
    in_order,
    is_hidden,
    key_below,
    parent_of,
    utf8_name,
)
from pcace_dist.errors import DatasetError
from pcace_dist.progress.terminal import is_not_utf8
from pcace_dist.storage.files import Storage, StoredFile, split

HIDDEN = "hidden (a dot begins its name or a folder's)"
NOTHING = "link to nothing"
LOOP = "link back to a folder above it"
UNREADABLE = "folder that may not be read"
SPECIAL = "not a regular file"
NAMED = 3  # links that a note names


@dataclass(frozen=True)
class Found:
    """One file, its path below the source (UTF-8), and what it is: image, raw, tar, parquet, idx, csv or None."""

    file: StoredFile
    key: str
    kind: str | None
    by_content: bool = False


@dataclass(frozen=True)
class Walked:
    """The files of a source. `root`: keys are relative to it. `folders`: names of the folders directly below it without
    hidden ones, sorted as text."""

    root: str
    files: tuple[Found, ...]
    left_out: tuple[Skipped, ...] = ()
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, kind: str, reason: str) -> tuple[list[Found], Walked]:
        """The files of this kind, and the same walk with the other files moved to `left_out`."""
        of_kind = [file for file in self.files if file.kind == kind]
        others = [Skipped(file.key, _why_not(file, reason)) for file in self.files if file.kind != kind]
        return of_kind, replace(self, left_out=(*self.left_out, *others))


def walk(source: str, storage: Storage) -> Walked:
    """The files of a folder or glob (`hf/data/train-*.parquet`), or one file, each with its kind.

    Raises OSError where the storage fails, DatasetError where there is nothing.
    """
    entries = entries_of(source, storage)
    if entries.how == "file":
        return _with_kinds(source, entries, storage)
    if entries.how == "glob":
        if not entries.files and not entries.left_out:
            raise DatasetError(f"{source} matches no file")
        # keys begin after the folders that all matches have in common
        common = os.path.commonprefix([f.url for f in entries.files])  # noqa: RUF071 - of URLs; parent_of cuts at a slash
        return _with_kinds(parent_of(common) if common else entries.root, entries, storage)
    if not entries.seen:
        raise DatasetError(f"{source}: no such file, or an empty folder")
    return _with_kinds(source, entries, storage)


def entries_of(source: str, storage: Storage) -> Entries:
    """The files at a path: one file, all files below a folder, or the matches of a glob. A path that exists is no
    glob."""
    file = storage.stat(source)
    if file is not None:
        return Entries(parent_of(file.url), "file", [file])
    listed: dict[str, list[StoredFile]] = {}

    def exists(path: str) -> bool:
        scheme, local_path = split(path)
        if scheme == "file":
            return os.path.lexists(local_path)
        listed[path] = storage.list(path)
        return bool(listed[path])

    pattern = pattern_of(source, exists)
    if pattern is None:
        return _below(source, storage, listed)
    root, matches, lies_in_match = pattern
    return _below(root, storage, listed).matching(matches, lies_in_match)


@dataclass
class Entries:
    """What is found at a path. `root`: the folder above all of it. `how`: the path is a file, a folder or a glob.
    `named`: the files that a glob matches directly, not through a folder above them."""

    root: str
    how: str = "folder"
    files: list[StoredFile] = field(default_factory=list)
    left_out: list[Skipped] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    named: frozenset[str] = frozenset()

    @property
    def seen(self) -> bool:
        return bool(self.files or self.left_out or self.folders)

    def leave_out(self, path: str, reason: str) -> None:
        self.left_out.append(Skipped(utf8_name(key_below(path, self.root)), reason))

    def matching(self, matches: Callable[[str], bool], lies_in_match: Callable[[str], bool]) -> Entries:
        """The entries that a glob matches."""
        keys = [key_below(file.url, self.root) for file in self.files]
        named = frozenset(file.url for file, key in zip(self.files, keys, strict=True) if matches(key))
        files = [f for f, key in zip(self.files, keys, strict=True) if f.url in named or lies_in_match(key)]
        left_out = [fault for fault in self.left_out if matches(fault.name) or lies_in_match(fault.name)]
        return replace(self, how="glob", files=files, left_out=left_out, folders=set(), named=named)

    def walked(self) -> Walked:
        notes = []
        if self.links:
            notes.append(f"linked folders that are followed: {first_names(sorted(self.links), NAMED)}")
        if self.outside:
            notes.append(f"linked files from outside {self.root}: {first_names(sorted(self.outside), NAMED)}")
        left_out = sorted(self.left_out, key=lambda fault: fault.name)
        return Walked(self.root, (), tuple(left_out), tuple(sorted(self.folders)), tuple(notes))


def _below(root: str, storage: Storage, listed: Mapping[str, list[StoredFile]]) -> Entries:
    """All files below a folder. `listed`: folders of a store that have been listed already."""
    scheme, path = split(root)
    if scheme == "file":
        return storage.patiently(root, lambda: _walk_local(path)) if os.path.isdir(path) else Entries(root)
    entries = Entries(root)
    for file in listed[root] if root in listed else storage.list(root):
        key = key_below(file.url, root)
        if is_hidden(key):
            entries.leave_out(file.url, HIDDEN)
            continue
        entries.files.append(file)
        if "/" in key:
            entries.folders.add(key.partition("/")[0])
    return entries


def _walk_local(root: str) -> Entries:
    """What lies below a local folder. The folders above each entry are remembered, to find links that lead back."""
    entries = Entries(root)
    waiting = [(root, frozenset({_identity(os.stat(root))}), False)]
    while waiting:
        folder, ancestors, hidden = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                children = list(scan)
        except PermissionError:
            if folder == root:
                raise
            entries.leave_out(folder, HIDDEN if hidden else UNREADABLE)
            continue
        for entry in children:
            is_concealed = hidden or entry.name.startswith(".")
            identity = _take(entry, ancestors, entries, hidden=is_concealed, at_root=folder == root)
            if identity is not None:
                waiting.append((entry.path, ancestors | {identity}, is_concealed))
    entries.files.sort(key=lambda file: file.url)
    return entries


def _take(
    entry: os.DirEntry[str], ancestors: frozenset[tuple[int, int]], entries: Entries, *, hidden: bool, at_root: bool
) -> tuple[int, int] | None:
    """Add one entry of a folder to `entries`. Returns the identity of a folder that is to be walked, else None."""
    linked = entry.is_symlink()
    if hidden and (linked or not entry.is_dir()):
        entries.leave_out(entry.path, HIDDEN)
        return None
    try:
        info = os.stat(entry.path)
    except OSError as error:
        if not linked and error.errno == errno.ENOENT:
            return None  # gone since the folder was read
        if not linked or error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
        if at_root and not os.path.splitext(entry.name)[1]:
            entries.folders.add(entry.name)  # a linked class folder that is missing
        entries.leave_out(entry.path, f"{NOTHING} ({utf8_name(os.readlink(entry.path))})")
        return None
    if stat.S_ISDIR(info.st_mode):
        return _enter(entry, _identity(info), ancestors, entries, hidden=hidden, at_root=at_root)
    if not stat.S_ISREG(info.st_mode):
        entries.leave_out(entry.path, SPECIAL)
        return None
    entries.files.append(StoredFile(entry.path, info.st_size, str(info.st_mtime_ns)))
    if linked and not _lies_below(entry.path, entries.root):
        entries.outside.append(utf8_name(key_below(entry.path, entries.root)))
    return None


def _enter(
    entry: os.DirEntry[str],
    identity: tuple[int, int],
    ancestors: frozenset[tuple[int, int]],
    entries: Entries,
    *,
    hidden: bool,
    at_root: bool,
) -> tuple[int, int] | None:
    if at_root and not hidden:
        entries.folders.add(entry.name)
    if entry.is_symlink():
        if identity in ancestors:
            entries.leave_out(entry.path, LOOP)
            return None
        target = utf8_name(os.readlink(entry.path))
        entries.links.append(f"{utf8_name(key_below(entry.path, entries.root))} -> {target}")
    return identity


def _lies_below(path: str, root: str) -> bool:
    base = os.path.realpath(split(root)[1]).rstrip("/")
    return os.path.realpath(path).startswith(base + "/")


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _with_kinds(root: str, entries: Entries, storage: Storage) -> Walked:
    """The walk with the kind of each file. Where the name does not tell, the first bytes are read."""
    files, walked = entries.files, entries.walked()
    by_name = {file.url: kind_of_name(file.url) for file in files}
    unknown = [file for file in files if by_name[file.url] is None]
    keys = [key_below(file.url, root) for file in files]
    heads = dict(zip((file.url for file in unknown), kinds_by_content(unknown, storage, strict=False), strict=True))
    found = (
        Found(file, utf8_name(key), by_name[file.url] or heads[file.url], file.url in heads)
        for file, key in zip(files, keys, strict=True)
    )
    raw = sorted(utf8_name(key) for key in keys if is_not_utf8(key))
    if raw:
        note = f"names that are not UTF-8 are written so: {first_names(raw, NAMED)}"
        walked = replace(walked, notes=(*walked.notes, note))
    folders = walked.folders or tuple(sorted({key.partition("/")[0] for key in keys if "/" in key}))
    return replace(walked, root=root, files=tuple(found), folders=folders)


def kinds_by_content(files: list[StoredFile], storage: Storage, *, strict: bool) -> Iterator[str | None]:
    """The kinds of files by their first bytes, in the same order (formats.kind_of_head).

    A file that may not be read has no kind or, with `strict`, raises PermissionError.
    """

    def kind(file: StoredFile) -> str | None:
        if file.size == 0:
            return None
        try:
            with storage.open(file.url) as stream:
                return kind_of_head(stream.read(HEAD))
        except FileNotFoundError:
            return None
        except PermissionError:
            if strict:
                raise
            return None

    return in_order(kind, files, storage)


def _why_not(found: Found, reason: str) -> str:
    if found.kind == "raw":
        return "a camera's raw file"
    suffix = os.path.splitext(found.key)[1]
    return f"{reason} ({suffix or 'no suffix'})" if found.file.size else f"{reason} (empty)"
