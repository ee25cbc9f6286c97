"""Which files of artifacts were found sound, and when: so that readers need not digest them again.

Kept as JSON in the data root, or where that can't be written, in the user's state folder. It is a
help and no truth: without it, or with nonsense in it, files are digested once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deconstruct.artifacts.believed import NotBelieved, check_place, manifest_in
from deconstruct.artifacts.manifest import MANIFEST, Manifest, sha256_of
from deconstruct.common.errors import StorageError

RECORD = ".looks.json"
FOR_LONG = 7 * 86_400
"""Seconds after which a file that has not changed is digested again: disks rot in silence."""
TICK = 1.0
"""Seconds within which a second change may leave a file's times as they are."""
SHOWN_FROM = 512 << 20
"""Bytes to be digested from which progress is shown: seconds of a disk."""
AT_ONCE = 4


class Place(NamedTuple):
    """A file of an artifact."""

    stage: str
    key: str
    name: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class _Look:
    """What a file was when it was found sound, and when that was."""

    bytes: int
    modified: int
    changed: int
    inode: int
    when: float

    @classmethod
    def at(cls, path: Path, when: float) -> _Look:
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, when)

    def holds(self, now: _Look) -> bool:
        """Whether nothing tells of a change since then, and then is not long ago."""
        same = (self.bytes, self.modified, self.changed, self.inode) == (
            now.bytes,
            now.modified,
            now.changed,
            now.inode,
        )
        settled = self.when - max(self.changed, self.modified) / 1e9 > TICK
        return same and settled and 0 <= now.when - self.when < FOR_LONG


class Looks:
    """Looks at the files of the artifacts below a data root, remembered from process to process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known = _read(root / RECORD) or _read(_elsewhere(root))
        self._damaged: set[str] = set()

    def faults(self, places: Iterable[Place], *, thorough: bool = False) -> dict[Place, str]:
        """What is wrong with which of the files; none if all are as their manifests say.

        A file that its artifact's manifest does not list, and that is not there, is no fault.
        thorough: digest them all, whatever is remembered of them.
        """
        now = time.time()
        manifests: dict[tuple[str, str], Manifest | str] = {}
        faults, unsure = {}, {}
        for place in places:
            look = self._look(place, now)
            known = self._known.get(str(place))
            if not thorough and look and known and known.holds(look):
                continue
            artifact = place.stage, place.key
            if artifact not in manifests:
                manifests[artifact] = manifest_of(*artifact, self._root)
            manifest = manifests[artifact]
            if isinstance(manifest, str):
                faults[Place(*artifact, MANIFEST)] = manifest
            elif place.name not in manifest.files:
                if look is not None:
                    faults[place] = "not listed in its manifest"
            elif look is None:
                there = os.path.lexists(self._root / str(place))
                faults[place] = "no file of its own" if there else "missing"
            elif look.bytes != manifest.files[place.name].bytes:
                faults[place] = "damaged"
            else:
                unsure[place] = (look, manifest.files[place.name].sha256)
        return faults | self._digested(unsure, thorough)

    def _look(self, place: Place, now: float) -> _Look | None:
        """What is there of a file now; None if it is no regular file of the artifact's folder."""
        path = self._root / str(place)
        inside = place.name.count("/") + 1
        if any(part.is_symlink() for part in (path, *path.parents[: inside - 1])):
            return None
        try:
            return _Look.at(path, now) if path.is_file() else None
        except OSError:
            return None

    def _digested(self, unsure: dict[Place, tuple[_Look, str]], thorough: bool) -> dict[Place, str]:
        """What is wrong with files whose size is right; those that are sound are remembered."""
        faults: dict[Place, str] = {}
        total = sum(look.bytes for look, _ in unsure.values())
        with ThreadPoolExecutor(AT_ONCE) as pool, _progress(total) as advance:

            def digest(place: Place) -> str | None:
                look, wanted = unsure[place]
                path = self._root / str(place)
                known = self._known.get(str(place))
                rotten = known is not None and known.inode == look.inode
                try:
                    sound = sha256_of(path, again=thorough or rotten) == wanted
                    after = _Look.at(path, look.when)
                except OSError as error:
                    return f"unreadable ({error.strerror})"
                if sound and after == look:
                    self._known[str(place)] = look
                return None if sound else "damaged"

            for place, what in zip(unsure, pool.map(digest, unsure), strict=True):
                advance(unsure[place][0].bytes)
                if what:
                    faults[place] = what
                    self._damaged.add(str(place))
        if unsure:
            self._remember()
        return faults

    def _remember(self) -> None:
        """Write down what is known, beside what others have written down meanwhile."""
        for file in (self._root / RECORD, _elsewhere(self._root)):
            known = {**_read(file), **self._known}
            oldest = time.time() - FOR_LONG
            rows = {
                name: [look.bytes, look.modified, look.changed, look.inode, look.when]
                for name, look in known.items()
                if look.when > oldest and name not in self._damaged
            }
            draft = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                try:
                    draft.write_text(json.dumps(rows))
                    draft.replace(file)
                finally:
                    draft.unlink(missing_ok=True)
                return


def every_file(root: Path, stage: str, key: str) -> list[Place]:
    """The files that an artifact's manifest lists; the manifest alone if it can't be believed."""
    manifest = manifest_of(stage, key, root)
    names = [MANIFEST] if isinstance(manifest, str) else manifest.files
    return [Place(stage, key, name) for name in names]


def manifest_of(stage: str, key: str, root: Path) -> Manifest | str:
    """The manifest of an artifact, or what is wrong with it."""
    try:
        check_place(stage, key)
        return manifest_in(root / stage / key)
    except NotBelieved as error:
        return str(error)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    except StorageError:
        return "no place of an artifact"


def _read(file: Path) -> dict[str, _Look]:
    try:
        rows = json.loads(file.read_bytes()) if file.is_file() else {}
        return {
            name: _Look(int(size), int(modified), int(changed), int(inode), float(when))
            for name, (size, modified, changed, inode, when) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _elsewhere(root: Path) -> Path:
    """Where looks at a data root that can't be written are kept."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    return state / "deconstruct" / f"looks-{name}.json"


def _progress(total: int) -> Any:
    if total < SHOWN_FROM:
        return nullcontext(lambda _: None)
    from deconstruct.common.progress import track

    return track("checking", total, "B")
