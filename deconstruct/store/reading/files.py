"""A data root's artifacts as a file system that can't write, and connections that have no other.

DuckDB can keep a connection to named folders, but in those it may write as well as read, and a
``COPY`` hides in many statements (``EXPLAIN ANALYZE``, ``WITH``, ``query('...')``). So the folders
that it is kept to are those of a file system of ours, which knows no way to write.
"""

from __future__ import annotations

import glob
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from deconstruct.artifacts.believed import KEY
from deconstruct.artifacts.objects import cause, reason
from deconstruct.config import EVERY_STAGE

LOCAL = "deconstruct"
LOCAL_ROOT = f"{LOCAL}://data"
"""What a data root of this machine is called: ``deconstruct://data/latents/<key>/...``."""

_PLACE = re.compile(rf"({'|'.join(EVERY_STAGE)})/{KEY.pattern}/[^/]+\.parquet")
"""What there is to be read, below a data root."""

FREE = ("TimeZone", "Calendar", "default_order", "default_null_order")
"""Settings that a confined connection may change: how answers look."""


class Positioned:
    """A file of which several threads read: each has a position of its own.

    DuckDB reads a range by two calls, seek and read, from many threads at once.
    """

    def __init__(self, size: int, read_at: Callable[[int, int], bytes], close: Callable[[], None]):
        self.size, self._read_at = size, read_at
        self._ended = weakref.finalize(self, close)  # DuckDB drops files that it does not close
        self._own = threading.local()

    def close(self) -> None:
        """Give the file back; a second time does nothing."""
        self._ended()

    def tell(self) -> int:
        return int(getattr(self._own, "position", 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.size}[whence]
        self._own.position = start + offset
        return start + offset

    def read(self, length: int = -1) -> bytes:
        start = self.tell()
        wanted = self.size - start if length < 0 else length
        parts = []
        while wanted > 0 and (part := self._read_at(start, wanted)):
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        self._own.position = start
        return parts[0] if len(parts) == 1 else b"".join(parts)


class ReadOnly(AbstractFileSystem):  # type: ignore[misc]
    """What all have in common: every mode but reading is refused."""

    cachable = False

    def open(self, path: str, mode: str = "rb", **_: Any) -> Positioned:
        if mode not in ("r", "rb"):
            raise PermissionError("the store's files are read-only")
        return self._positioned(path)

    def _positioned(self, path: str) -> Positioned:
        raise NotImplementedError

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("the store's files are read-only")

    rm = rm_file = rmdir = mv = mkdir = makedirs = touch = cp_file = put_file = pipe_file = _refuse


class LocalArtifacts(ReadOnly):
    """The tables of the artifacts below a data root, as files below `LOCAL_ROOT`.

    Of links, those that lead to a data root or to one of its stages are followed, and no others.
    """

    protocol = LOCAL

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def _positioned(self, path: str) -> Positioned:
        handle = os.open(self._file(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        size = os.fstat(handle).st_size
        return Positioned(
            size, lambda start, length: os.pread(handle, length, start), lambda: os.close(handle)
        )

    def glob(self, path: str, **_: Any) -> list[str]:
        found = glob.glob(_below(path), root_dir=self._root)
        return [f"{LOCAL_ROOT}/{name}" for name in sorted(found) if self._place(name)]

    def exists(self, path: str, **_: Any) -> bool:
        place = self._place(_below(path))
        return place is not None and place.exists()

    def isdir(self, path: str) -> bool:
        return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._file(path).stat().st_size, "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._file(path).stat().st_mtime, UTC)

    def _file(self, path: str) -> Path:
        place = self._place(_below(path))
        if place is None:
            raise FileNotFoundError(f"{path} is no table of an artifact")
        return place

    def _place(self, name: str) -> Path | None:
        found = _PLACE.fullmatch(name)
        if found is None:
            return None
        real = (self._root / name).resolve()
        return real if real.is_relative_to((self._root / found[1]).resolve()) else None


class RemoteArtifacts(ReadOnly):
    """Those of another file system, under its own protocol. url: whose secrets are kept."""

    def __init__(self, objects: Any, protocol: str, url: str) -> None:
        super().__init__()
        self.protocol, self._objects, self._url = protocol, objects, url

    def _there(self, path: str) -> str:
        """What the other file system calls it."""
        return path

    def _positioned(self, path: str) -> Positioned:
        there = self._there(path)
        with self._reaching():
            file, size = self._objects.open(there, "rb"), int(self._objects.size(there))
        lock = threading.Lock()

        def read_at(start: int, length: int) -> bytes:
            with lock, self._reaching():
                file.seek(start)
                return bytes(file.read(length))

        return Positioned(size, read_at, file.close)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every backend raises errors of its own, which may say keys
            raise OSError(reason(self._url, error)) from cause(self._url, error)

    def glob(self, path: str, **_: Any) -> list[str]:
        return list(self._objects.glob(path))

    def exists(self, path: str, **_: Any) -> bool:
        return bool(self._objects.exists(path))

    def isdir(self, path: str) -> bool:
        return bool(self._objects.isdir(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return dict(self._objects.info(self._there(path)))

    def modified(self, path: str) -> datetime:
        found: datetime = self._objects.modified(self._there(path))
        return found


class RemoteTables(RemoteArtifacts):
    """The tables of the artifacts under ``root`` of another file system, and nothing else there,
    as files below `LOCAL_ROOT`.

    Not under its own protocol: DuckDB has its own way to ``file:``, which writes.
    """

    def __init__(self, objects: Any, root: str, url: str) -> None:
        super().__init__(objects, LOCAL, url)
        self._root = root

    def _there(self, path: str) -> str:
        name = _below(path)
        if not _PLACE.fullmatch(name):
            raise FileNotFoundError(f"{path} is no table of an artifact")
        return f"{self._root}/{name}"

    def glob(self, path: str, **_: Any) -> list[str]:
        found = self._objects.glob(f"{glob.escape(self._root)}/{_below(path)}")
        names = [name.removeprefix(f"{self._root}/") for name in found]
        return [f"{LOCAL_ROOT}/{name}" for name in sorted(names) if _PLACE.fullmatch(name)]

    def exists(self, path: str, **_: Any) -> bool:
        return bool(_PLACE.fullmatch(_below(path)) and self._objects.exists(self._there(path)))

    def isdir(self, path: str) -> bool:
        return False


def tune(connection: duckdb.DuckDBPyConnection) -> None:
    """Have queries over artifacts read less; before `confine`, which locks settings.

    More contexts at a time find their documents by skipping row groups, whose footers are read
    once: artifacts don't change.
    """
    connection.execute("SET dynamic_or_filter_threshold = 500")
    connection.execute("SET parquet_metadata_cache = true")


def confine(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    """Let a connection read files below ``root``, a URL of a registered file system, and no more.

    It writes nowhere, loads no extension and changes no setting, until it is closed. So does every
    other connection to the same DuckDB instance. To be called before the first query: what a
    store's own macros and views do is no more than their writer wants (`obeyed`).
    """
    for setting in (
        "temp_directory = ''",  # into the folder that it spills to, DuckDB lets queries write
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
    ):
        connection.execute(f"SET {setting}")
    connection.execute("SET allowed_configs = ?", [list(FREE)])
    # With the slash: else names that only begin alike are inside.
    connection.execute("SET allowed_directories = ?", [[root.rstrip("/") + "/"]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _below(path: str) -> str:
    """What comes after the root in a path, which DuckDB gives with its protocol or without."""
    return path.removeprefix(f"{LOCAL}://").removeprefix(LOCAL_ROOT.partition("://")[2] + "/")
