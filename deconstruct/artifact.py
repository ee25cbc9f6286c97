"""Content-addressed artifacts: what every stage writes, and how it is found again.

A stage's result is a folder ``<root>/<stage>/<key>/``. The key is a digest of everything that can
change the result (a `Recipe`), so equal work has an equal name. The folder is written as
``.<key>.partial`` beside it and published by one atomic rename after fsync: it exists whole or not
at all. A killed stage finds its partial folder again and goes on from there; a published folder
whose files no longer match their digests goes back to being a partial one, less the damaged files.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deconstruct.errors import StorageError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SCRATCH = ".scratch"
RECIPE = "recipe.json"
SOFTWARE = ("deconstruct", "torch", "transformers", "datasets", "pyarrow", "duckdb", "scikit-learn")


@dataclass(frozen=True)
class Recipe:
    """All that decides a stage's result.

    stage: the stage's name. version: raised by hand when the stage's results change. config: the
    stage's settings, as JSON types. inputs: name -> key of an upstream artifact, or digest of
    something outside (a file's SHA-256, a hub revision's commit); never a name that can move.
    """

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits: SHA-256 over the canonical JSON of the four fields, cut."""
        whole = [self.stage, self.version, self.config, self.inputs]
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class FileEntry(BaseModel):
    """One file of an artifact as its manifest lists it."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str
    rows: int | None = None


class Manifest(BaseModel):
    """``manifest.json``: what an artifact is, how it was made, and what its files must be."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileEntry]
    facts: dict[str, Any]
    software: dict[str, str]
    started: datetime
    finished: datetime

    @property
    def seconds(self) -> float:
        """Wall time from start to publishing; counts the last attempt of a resumed stage."""
        return (self.finished - self.started).total_seconds()


@dataclass(frozen=True)
class Artifact:
    """A published folder and its manifest.

    made: whether the call that gave it has made it; it may as well have found it, or waited for
    another run that made it.
    """

    path: Path
    manifest: Manifest
    made: bool = field(default=False, compare=False)

    @property
    def stage(self) -> str:
        return self.manifest.stage

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def facts(self) -> dict[str, Any]:
        """The few numbers that the stage recorded about its result (counts, sizes, names)."""
        return self.manifest.facts

    def file(self, name: str) -> Path:
        """Path of one of the artifact's files. Raises ``StorageError`` if it lists none such."""
        if name not in self.manifest.files:
            listed = ", ".join(self.manifest.files)
            raise StorageError(f"{self.path} has no file {name!r}; its manifest lists {listed}")
        return self.path / name

    def files(self, pattern: str) -> list[Path]:
        """Paths of the listed files that match a glob such as ``"train-*.parquet"``, sorted."""
        names = [n for n in self.manifest.files if Path(n).match(pattern)]
        return [self.path / n for n in sorted(names)]

    def digest(self) -> str:
        """One digest over the files' names and contents: equal results have equal digests."""
        listing = {name: entry.sha256 for name, entry in self.manifest.files.items()}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()


@dataclass
class Draft:
    """The folder a stage is writing. What was completed in an earlier attempt is still there."""

    path: Path
    rows: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints and notes, kept between attempts, dropped on publishing."""
        scratch = self.path / SCRATCH
        scratch.mkdir(exist_ok=True)
        return scratch

    def has(self, name: str) -> bool:
        """Whether an earlier attempt completed this file."""
        return (self.path / name).exists()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write ``name`` to; it takes its name, after fsync, only if the block ends."""
        target = self.path / name
        unfinished = self.scratch / f"{name}.unfinished"
        yield unfinished
        fsync(unfinished)
        os.replace(unfinished, target)
        fsync(self.path)

    def adopt(self, artifact: Artifact, name: str) -> None:
        """Take a file of a published artifact as it is: the same bytes under a second name."""
        if self.has(name):
            return
        try:
            os.link(artifact.file(name), self.path / name)
        except OSError:  # another file system, or one without links
            with self.writing(name) as path:
                shutil.copyfile(artifact.file(name), path)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as indented JSON with sorted keys."""
        with self.writing(name) as path:
            path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


class ArtifactStore:
    """The artifacts under one data root. Any number of processes and threads may share it."""

    def __init__(self, root: Path | str) -> None:
        """Make ``root`` if need be. Raises ``StorageError`` if it can't be written, or if the
        store that will lie in it could not be opened."""
        self.root = Path(root).expanduser().absolute()
        if "?" in str(self.root):
            raise StorageError(
                f"home {str(self.root)!r} has a '?' in it, where DuckDB ends a file's name; "
                "name another folder with --home or DECONSTRUCT_HOME"
            )
        self._warned: set[Path] = set()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise StorageError(
                f"home {str(self.root)!r} can't be written ({error.strerror}); "
                "name a writable folder with --home or DECONSTRUCT_HOME"
            ) from error

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of this stage and key is, or will be, published."""
        return self.root / stage / key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The published artifact of ``recipe``, verified; None if absent or damaged.

        Its manifest's time of change says when it was last asked for. A damaged one is left in
        place, with a warning that names the files: `make` repairs it.
        """
        artifact, damage = self._inspect(recipe.stage, recipe.key)
        for name, what in damage.items():
            path = self.folder(recipe.stage, recipe.key) / name
            if path not in self._warned:
                log.warning("%s is %s; stage %s runs again", path, what, recipe.stage)
            self._warned.add(path)
        return None if damage or artifact is None else _used(artifact)

    def open(self, stage: str, key: str) -> Artifact:
        """The artifact with this key, verified. Raises ``StorageError`` if absent or damaged."""
        artifact, damage = self._inspect(stage, key)
        if artifact is None or damage:
            found = "; ".join(f"{name} is {what}" for name, what in damage.items()) or "is missing"
            raise StorageError(
                f"artifact {self.folder(stage, key)} {found}; run the pipeline again to remake it"
            )
        return _used(artifact)

    def make(self, recipe: Recipe, write: Callable[[Draft], None]) -> Artifact:
        """Find the artifact of ``recipe``, or call ``write`` on a draft and publish that.

        One process computes a key at a time; a second one waits for it and takes the result.
        Raises ``StorageError`` if the disk fills up; what was completed stays for the next try.
        """
        with self._lock(recipe.stage, recipe.key):
            found = self.find(recipe)
            if found is not None:
                return found
            target = self.folder(recipe.stage, recipe.key)
            partial = target.with_name(f".{recipe.key}.partial")
            try:
                self._salvage(recipe, partial)
                partial.mkdir(parents=True, exist_ok=True)
                started = datetime.now(UTC)
                draft = Draft(partial)
                (draft.scratch / RECIPE).write_text(json.dumps(_plain(recipe)))
                write(draft)
                return self._publish(recipe, draft, started, target)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise StorageError(
                    f"the disk under {str(self.root)!r} is full while stage {recipe.stage} writes; "
                    "nothing of it is published. Free some space and run again: it goes on from "
                    "what is complete"
                ) from error

    def artifacts(self) -> Iterator[Artifact]:
        """Every published artifact whose manifest reads, in no fixed order, files unverified."""
        for path in self.root.glob(f"*/*/{MANIFEST}"):
            if path.parent.name.startswith("."):
                continue
            try:
                yield Artifact(path.parent, Manifest.model_validate_json(path.read_text()))
            except (OSError, ValidationError):
                log.warning("%s does not read; left out", path)

    def _inspect(self, stage: str, key: str) -> tuple[Artifact | None, dict[str, str]]:
        """The artifact if its manifest reads, and what is wrong with which of its files."""
        folder = self.folder(stage, key)
        if not folder.is_dir():
            return None, {}
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        except FileNotFoundError:
            return None, {MANIFEST: "missing"}
        except (OSError, ValueError, ValidationError):
            return None, {MANIFEST: "damaged"}
        damage = {}
        for name, entry in manifest.files.items():
            what = self._fault(folder / name, entry)
            if what:
                damage[name] = what
        return Artifact(folder, manifest), damage

    @staticmethod
    def _fault(path: Path, entry: FileEntry) -> str | None:
        """What is wrong with a file."""
        try:
            sound = path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256
        except FileNotFoundError:
            return "missing"
        return None if sound else "damaged"

    def _salvage(self, recipe: Recipe, partial: Path) -> None:
        """Turn a damaged artifact back into a partial one that keeps its sound files."""
        folder = self.folder(recipe.stage, recipe.key)
        if not folder.exists():
            return
        _, damage = self._inspect(recipe.stage, recipe.key)
        if MANIFEST in damage:
            shutil.rmtree(folder)  # with no manifest there is no telling which files are sound
            return
        for name in [*damage, MANIFEST]:
            (folder / name).unlink(missing_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        os.replace(folder, partial)

    def _publish(self, recipe: Recipe, draft: Draft, started: datetime, target: Path) -> Artifact:
        shutil.rmtree(draft.path / SCRATCH, ignore_errors=True)
        files = {}
        for path in sorted(p for p in draft.path.rglob("*") if p.is_file() and p.name != MANIFEST):
            name = path.relative_to(draft.path).as_posix()
            fsync(path)
            files[name] = FileEntry(
                bytes=path.stat().st_size, sha256=sha256_of(path), rows=draft.rows.get(name)
            )
        manifest = Manifest(
            stage=recipe.stage,
            key=recipe.key,
            version=recipe.version,
            config=dict(recipe.config),
            inputs=dict(recipe.inputs),
            files=files,
            facts=draft.facts,
            software=software(),
            started=started,
            finished=datetime.now(UTC),
        )
        (draft.path / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        fsync(draft.path / MANIFEST)
        fsync(draft.path)
        os.replace(draft.path, target)
        fsync(target.parent)
        return Artifact(target, manifest, made=True)

    @contextmanager
    def _lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold the key. The kernel drops the lock when its holder dies, however it dies."""
        with self._lock_file(stage, key).open("w") as handle:
            if not _try_lock(handle):
                log.info("stage %s is being computed by another run; waiting", stage)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def locked_now(self, stage: str, key: str) -> Iterator[bool]:
        """Hold the key if nobody does; says whether. Without waiting."""
        with self._lock_file(stage, key).open("w") as handle:
            yield _try_lock(handle)

    def is_locked(self, stage: str, key: str) -> bool:
        """Whether a process is making this artifact."""
        with self.locked_now(stage, key) as free:
            return not free

    def _lock_file(self, stage: str, key: str) -> Path:
        locks = self.root / ".locks"
        locks.mkdir(exist_ok=True)
        return locks / f"{stage}-{key}"


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {
        "stage": recipe.stage,
        "version": recipe.version,
        "config": dict(recipe.config),
        "inputs": dict(recipe.inputs),
    }


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _used(artifact: Artifact) -> Artifact:
    with suppress(OSError):  # others' data roots may be read-only to us
        os.utime(artifact.path / MANIFEST)
    return artifact


def fsync(path: Path) -> None:
    """Flush a file's contents, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_digests: dict[tuple[int, ...], str] = {}


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's contents: read once a process, until the file changes."""
    with path.open("rb") as handle:
        stat = os.fstat(handle.fileno())
        state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if state not in _digests:
            _digests[state] = hashlib.file_digest(handle, "sha256").hexdigest()
        return _digests[state]


def software() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
