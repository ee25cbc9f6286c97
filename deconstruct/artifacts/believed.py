"""What is believed of an artifact's folder: it may be damaged, or somebody else's work.

A manifest decides which files are read, replaced and removed. So it is taken for one only if it is
that of its own folder (stage and key, and the key is that of its recipe), its names stay in there,
and its digest is right. Nobody signs it: who can write into a data root or a remote can make a
manifest that is believed, and contents that are wrong, but none that reaches beyond its folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from deconstruct.artifacts.manifest import (
    MANIFEST,
    SCRATCH,
    UNFINISHED,
    FileEntry,
    Manifest,
    sha256_of,
)
from deconstruct.common.errors import StorageError

STAGE = re.compile("[a-z][a-z0-9_-]{0,63}")
KEY = re.compile("[0-9a-f]{32}")
LARGEST_MANIFEST = 1 << 28
"""Bytes: two million files. A longer one is not read."""
DEEPEST = 64
"""Levels of lists and objects in what stages note."""
LONGEST_NAME = 255
"""Bytes of one part of a path, on all usual file systems."""

SHOWN = 80
"""Characters of a name that is not believed, for messages."""


class NotBelieved(ValueError):
    """A manifest that is not that of its folder; the message goes on from "manifest.json is"."""


def check_place(stage: str, key: str) -> None:
    """Raise ``StorageError`` if ``<stage>/<key>`` might name anything but an artifact's folder."""
    if not STAGE.fullmatch(stage) or not KEY.fullmatch(key):
        raise StorageError(
            f"{stage[:SHOWN]!r}, {key[:SHOWN]!r} name no artifact: a stage is a word of small "
            "letters, a key 32 hexadecimal digits; what named them is damaged"
        )


def read_manifest(content: bytes, stage: str, key: str) -> Manifest:
    """The manifest of the artifact ``<stage>/<key>``. Raises `NotBelieved` if it is not."""
    try:
        fields = json.loads(content, object_pairs_hook=_once)
        manifest = Manifest.model_validate(fields)
        manifest.check_digest(fields)
        if _levels([manifest.config, manifest.facts]) > DEEPEST:
            raise ValueError("what writes JSON does not go so deep")
        key_of_recipe = manifest.recipe.key
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's are ValueErrors
        raise NotBelieved("damaged") from error
    if (manifest.stage, manifest.key) != (stage, key):
        raise NotBelieved("that of another artifact")
    if key_of_recipe != key:
        raise NotBelieved("not of this key: its recipe has another")
    if not manifest.files:
        raise NotBelieved("without files")
    for name in manifest.files:
        if not stays_inside(name):
            raise NotBelieved(f"damaged (it names a file {name[:SHOWN]!r})")
    if _one_in_another(manifest.files):
        raise NotBelieved("damaged (a file of it lies in another)")
    return manifest


def manifest_in(folder: Path) -> Manifest:
    """The manifest of the artifact's folder ``<stage>/<key>``.

    Raises `NotBelieved` if it is not, and ``OSError`` if it can't be read.
    """
    return read_manifest(_plain_bytes(folder / MANIFEST), folder.parent.name, folder.name)


def stays_inside(name: str) -> bool:
    """Whether a name that a manifest lists is that of a file in the artifact's own folder."""
    parts = name.split("/")
    return (
        name.isprintable()  # neither NUL nor what a terminal obeys; no lone surrogate
        and "\\" not in name
        and not {"", ".", ".."} & set(parts)
        and parts[0] not in (MANIFEST, UNFINISHED, SCRATCH)
        and all(len(part.encode()) <= LONGEST_NAME for part in parts)
    )


def fault_of(folder: Path, name: str, entry: FileEntry) -> str | None:
    """What is wrong with a listed file of an artifact; None: nothing."""
    path = folder / name
    try:
        within = path.relative_to(folder).parents
        if any((folder / parent).is_symlink() for parent in within[:-1]) or path.is_symlink():
            return "a link, which is not followed"
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "no file"
        sound = found.st_size == entry.bytes and sha256_of(path) == entry.sha256
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    return None if sound else "damaged"


def discard(folder: Path, name: str) -> None:
    """Make room for the file ``name``: what has it goes, and what stands in its way.

    No link is followed: where one leads, nothing is touched.
    """
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            path.unlink()
            return
    if path.is_dir():
        shutil.rmtree(path)


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove what lies in an artifact's folder beside the files ``names`` and its scratch."""
    for parent, folders, files in os.walk(folder):
        place = Path(parent)
        if place == folder and SCRATCH in folders:
            folders.remove(SCRATCH)
        for name in files:
            if (place / name).relative_to(folder).as_posix() not in names:
                (place / name).unlink()


def remove(path: Path) -> None:
    """Remove a folder, or what has the name of one; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def without_links(folder: Path) -> None:
    """Make ``folder`` a folder that holds files and folders alone.

    A draft that lies there may be of somebody else: what is written into it must stay in it.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                path.unlink()


def _plain_bytes(path: Path) -> bytes:
    """The content of a regular file; of a folder, a pipe, a link or a giant none is read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise NotBelieved("a link") from error
        raise
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise NotBelieved("no file")
        if found.st_size > LARGEST_MANIFEST:
            raise NotBelieved("too large")
        return file.read()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that names a field twice means two things."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_levels, inner), default=0)


def _one_in_another(names: Iterable[str]) -> bool:
    known = set(names)
    return any(str(parent) in known for name in known for parent in PurePosixPath(name).parents)
