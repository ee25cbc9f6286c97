"""Artifacts that several data roots share, under one URL: on S3, or wherever `fsspec` reaches.

The layout is that of a data root: ``<url>/<stage>/<key>/``. An artifact's files are sent first and
its ``manifest.json`` last, so it is whole there or not at all; what is fetched is checked against
the SHA-256 of its manifest. There are no locks across machines: two that make the same key at once
both compute it, and the manifest that was sent first stands. `deconstruct.artifacts.objects` says
which URLs there are.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deconstruct.artifacts.believed import (
    KEY,
    LARGEST_MANIFEST,
    STAGE,
    NotBelieved,
    discard,
    fault_of,
    read_manifest,
)
from deconstruct.artifacts.manifest import MANIFEST, Artifact, Draft, FileEntry, Manifest
from deconstruct.artifacts.objects import BY_ARROW, NoFile, cause, objects_at, reason, shown
from deconstruct.common.errors import StorageError

log = logging.getLogger(__name__)

VARIABLE = "DECONSTRUCT_REMOTE"
NOTE = ".deconstruct"
FULL = (errno.ENOSPC, errno.EDQUOT)
TRANSFERS = 8
"""Files sent or fetched at once: a single stream fills no link to an object store."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Held:
    """What the remote holds under one key. modified: seconds since the epoch."""

    stage: str
    key: str
    bytes: int
    modified: float
    complete: bool


class Mirror:
    """The artifacts under one URL. Every method raises ``StorageError`` if it can't be reached."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._there: set[tuple[str, str]] = set()
        self._damaged: set[tuple[str, str]] = set()

    def __str__(self) -> str:
        return shown(self.url)

    def check(self) -> None:
        """Write a note under the URL, so that what forbids that is known before long work."""
        with self._reaching("written") as (filesystem, root):
            self._folder(filesystem, root)
            with filesystem.open(f"{root}/{NOTE}", "wb") as note:
                note.write(b"Artifacts of Deconstruct: <stage>/<key>/, each with a manifest.json\n")

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of an artifact; None if there is none, or a part of it was damaged."""
        if (stage, key) in self._damaged:
            return None
        with self._reaching("read") as (filesystem, root):
            try:
                with filesystem.open(f"{root}/{stage}/{key}/{MANIFEST}", "rb") as file:
                    content = file.read(LARGEST_MANIFEST + 1)
            except FileNotFoundError:
                return None
            except (NoFile, NotADirectoryError) as error:
                what = str(error) if isinstance(error, NoFile) else "missing"
                self._warn(stage, key, {MANIFEST: what})
                return None
        try:
            if len(content) > LARGEST_MANIFEST:
                raise NotBelieved("too large")
            return read_manifest(content, stage, key)
        except NotBelieved as error:
            self._warn(stage, key, {MANIFEST: str(error)})
            return None

    def fetch(self, manifest: Manifest, draft: Draft) -> bool:
        """Complete ``draft`` with the files that ``manifest`` lists and that it has not.

        False, after a warning that names them, if some are damaged: a later `put` replaces them.
        Those that are sound stay in the draft.
        """
        stage, key = manifest.stage, manifest.key
        wanted = {n: e for n, e in manifest.files.items() if fault_of(draft.path, n, e)}
        self._check_space(manifest, draft, sum(entry.bytes for entry in wanted.values()))
        for name in wanted:
            discard(draft.path, name)
        with self._reaching("read") as (filesystem, root):

            def get(name: str) -> str | None:
                return _get(filesystem, f"{root}/{stage}/{key}/{name}", draft, name, wanted[name])

            with ThreadPoolExecutor(TRANSFERS) as pool:
                faults = dict(zip(wanted, pool.map(get, wanted), strict=True))
        damage = {name: what for name, what in faults.items() if what}
        if damage:
            self._warn(stage, key, damage)
            return False
        self._there.add((stage, key))
        size = sum(entry.bytes for entry in wanted.values()) / 1e6
        log.info("%-12s fetched from %s, %.1f MB  (%s)", stage, self, size, key[:12])
        return True

    def put(self, artifact: Artifact) -> None:
        """Send an artifact, unless it is there already."""
        place = (artifact.stage, artifact.key)
        if place in self._there:
            return
        there = self.manifest(*place)
        if there is not None:
            if Artifact(artifact.path, there).digest() != artifact.digest():
                log.warning(
                    "%s holds other bytes than %s (other hardware rounds otherwise); both stay",
                    *(self, artifact.path),
                )
            self._there.add(place)
            return
        if place in self._damaged:
            self.remove(*place)
        with self._reaching("written") as (filesystem, root):
            folder = f"{root}/{artifact.stage}/{artifact.key}"
            names = [*artifact.manifest.files, MANIFEST]
            for parent in {str(PurePosixPath(folder, name).parent) for name in names}:
                self._folder(filesystem, parent)

            def send(name: str) -> None:
                filesystem.put_file(str(artifact.path / name), f"{folder}/{name}")

            with ThreadPoolExecutor(TRANSFERS) as pool:
                list(pool.map(send, artifact.manifest.files))
            send(MANIFEST)
        self._damaged.discard(place)
        self._there.add(place)
        size = sum(entry.bytes for entry in artifact.manifest.files.values()) / 1e6
        log.info("%-12s sent to %s, %.1f MB  (%s)", *(place[0], self, size, place[1][:12]))

    def held(self) -> Iterator[Held]:
        """Everything under the URL that looks like an artifact, or like part of one."""
        with self._reaching("read") as (filesystem, root):
            by_own: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
            for path, info in filesystem.find(root, detail=True).items():
                parts = PurePosixPath(path).relative_to(root).parts
                if len(parts) > 2 and STAGE.fullmatch(parts[0]) and KEY.fullmatch(parts[1]):
                    files = by_own.setdefault((parts[0], parts[1]), {})
                    files["/".join(parts[2:])] = info
            for (stage, key), files in sorted(by_own.items()):
                size = sum(int(info["size"] or 0) for info in files.values())
                newest = max(
                    filesystem.modified(info["name"]).timestamp()
                    for name, info in files.items()
                    if name == MANIFEST or MANIFEST not in files
                )
                yield Held(stage, key, size, newest, MANIFEST in files)

    def remove(self, stage: str, key: str) -> None:
        """Remove an artifact, its manifest first: nobody sees half of it."""
        with self._reaching("written") as (filesystem, root):
            folder = f"{root}/{stage}/{key}"
            names = filesystem.find(folder)
            for name in sorted(names, key=lambda path: not path.endswith(f"/{MANIFEST}")):
                filesystem.rm_file(name)
            if filesystem.exists(folder):
                filesystem.rm(folder, recursive=True)
        self._there.discard((stage, key))

    @staticmethod
    def _folder(filesystem: Any, path: str) -> None:
        """Make a folder where there are folders; an object store would keep an empty object."""
        if filesystem.protocol not in BY_ARROW:
            filesystem.makedirs(path, exist_ok=True)

    @functools.cached_property
    def _place(self) -> tuple[Any, str]:
        return objects_at(self.url)

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[tuple[Any, str]]:
        try:
            yield self._place
        except StorageError:
            raise
        except Exception as error:  # every backend of fsspec raises errors of its own
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # this machine's disk
            told = StorageError(
                f"remote {str(self)!r} can't be {doing}: {reason(self.url, error)}; check the URL, "
                f"its endpoint and the credentials, or unset {VARIABLE} to work without it"
            )
            raise told from cause(self.url, error)

    def _check_space(self, manifest: Manifest, draft: Draft, size: int) -> None:
        """Raise ``StorageError`` if what is to be fetched is more than the disk has room for."""
        free = shutil.disk_usage(draft.path).free
        if size > free:
            raise StorageError(
                f"{self}/{manifest.stage}/{manifest.key} has {size / 1e6:,.1f} MB, and the disk "
                f"under {str(draft.path.parent)!r} has {free / 1e6:,.1f} MB free; free some space, "
                f"or unset {VARIABLE} to work without it"
            )

    def _warn(self, stage: str, key: str, damage: dict[str, str]) -> None:
        self._damaged.add((stage, key))
        for name, what in damage.items():
            log.warning("%s/%s/%s/%s is %s; it is made anew", self, stage, key, name, what)


@functools.cache
def mirror_at(url: str) -> Mirror:
    """The mirror of a URL, one per process: what it knows to be there it need not ask again."""
    return Mirror(url)


def _get(filesystem: Any, source: str, draft: Draft, name: str, entry: FileEntry) -> str | None:
    """Fetch one file into the draft; what is wrong with it, if anything is."""
    digest, size = hashlib.sha256(), 0
    try:
        with filesystem.open(source, "rb") as remote, draft.writing(name) as path:
            with path.open("wb") as file:
                while chunk := remote.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > entry.bytes:
                        raise _Damaged
                    file.write(chunk)
            if (size, digest.hexdigest()) != (entry.bytes, entry.sha256):
                raise _Damaged
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except NoFile as error:
        return str(error)
    except _Damaged:
        return "damaged"
    return None


class _Damaged(Exception):
    """The bytes that came are not those which the manifest promises."""
