"""Content-addressed artifacts: what every stage writes, and how it is found again.

A stage's result is a folder ``<root>/<stage>/<key>/``. The key is a digest of everything that can
change the result (a `Recipe`), so equal work has an equal name. The folder is written as
``.<key>.partial`` beside it and published by one atomic rename after fsync: it exists whole or not
at all. A killed stage finds its partial folder again and goes on from there; a published folder
whose files no longer match their digests goes back to being a partial one, less the damaged files.

With a remote (`deconstruct.artifacts.remote`), an artifact that is missing here is fetched from
there whole before its stage runs, and what is made or asked for here is sent there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

from deconstruct.artifacts.believed import (
    KEY,
    STAGE,
    NotBelieved,
    check_place,
    discard,
    fault_of,
    keep_only,
    manifest_in,
    remove,
    without_links,
)
from deconstruct.artifacts.manifest import (
    MANIFEST,
    RECIPE,
    SCRATCH,
    UNFINISHED,
    Artifact,
    Draft,
    FileEntry,
    Manifest,
    Recipe,
    fsync,
    sha256_of,
    software,
)
from deconstruct.artifacts.remote import FULL, VARIABLE, mirror_at
from deconstruct.artifacts.running import try_lock
from deconstruct.common.errors import StorageError
from deconstruct.common.paths import absolute, check_for_duckdb

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class DataRoot:
    """The artifacts under one data root. Any number of processes and threads may share it."""

    def __init__(self, root: Path | str, remote: str | None = None) -> None:
        """Make ``root`` if need be.

        remote: URL of a `Mirror`; by default what ``DECONSTRUCT_REMOTE`` says, if anything.
        Raises ``StorageError`` if ``root`` can't be written, or if the store that will lie in it
        could not be opened.
        """
        self.path = absolute(root)
        url = remote or os.environ.get(VARIABLE)
        self.mirror = mirror_at(url) if url else None
        check_for_duckdb(self.path, f"home {str(self.path)!r} (--home or DECONSTRUCT_HOME)")
        self._warned: set[Path] = set()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise StorageError(
                f"home {str(self.path)!r} can't be written ({error.strerror}); "
                "name a writable folder with --home or DECONSTRUCT_HOME"
            ) from error

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of this stage and key is, or will be, published.

        Raises ``StorageError`` if they are no stage and key: manifests of others name them.
        """
        check_place(stage, key)
        return self.path / stage / key

    def find(self, recipe: Recipe) -> Artifact | None:
        """The published artifact of ``recipe``, verified; None if absent or damaged.

        One that only the remote has is fetched, unless somebody is making it. The manifest's time
        of change says when it was last asked for. A damaged one is left in place, with a warning
        that names the files: `make` repairs it.
        """
        place = (recipe.stage, recipe.key)
        found = self._sound(*place)
        if found is None and self.mirror is not None:
            with self.locked_now(*place) as free:
                if free:
                    found = self._sound(*place) or self._fetch(*place)
        if found is None:
            self._warn(recipe)
        return found

    def open(self, stage: str, key: str) -> Artifact:
        """The artifact with this key, verified; fetched if only the remote has it.

        Raises ``StorageError`` if absent or damaged.
        """
        found = self._sound(stage, key)
        if found is None and self.mirror is not None:
            with self._lock(stage, key):
                found = self._sound(stage, key) or self._fetch(stage, key)
        if found is None:
            _, damage = self._inspect(stage, key)
            what = "; ".join(f"{name} is {what}" for name, what in damage.items()) or "is missing"
            beyond = f", and {self.mirror} has none" if self.mirror else ""
            raise StorageError(
                f"artifact {self.folder(stage, key)} {what}{beyond}; run the pipeline again to "
                "remake it"
            )
        return found

    def make(self, recipe: Recipe, write: Callable[[Draft], None]) -> Artifact:
        """Find the artifact of ``recipe``, or call ``write`` on a draft and publish that.

        One process computes a key at a time; a second one waits for it and takes the result.
        Raises ``StorageError`` if the disk fills up; what was completed stays for the next try.
        """
        place = (recipe.stage, recipe.key)
        with self._lock(*place), self._full_disk_said(recipe.stage):
            found = self._sound(*place) or self._fetch(*place)
            if found is not None:
                return found
            self._warn(recipe)
            target = self.folder(*place)
            partial = target.with_name(f".{recipe.key}.partial")
            self._salvage(*place, partial)
            started = datetime.now(UTC)
            draft = _draft(partial, recipe)
            write(draft)
            # Another machine may have been faster: what it sent is what the others read.
            return self._fetch(*place) or self._publish(recipe, draft, started, target)

    def make_all(
        self, recipes: Mapping[K, Recipe], write: Callable[[dict[K, Draft]], None]
    ) -> dict[K, Artifact]:
        """Find the artifact of each recipe; those that are missing are written by one ``write``.

        It is called with the drafts of those that nobody else made meanwhile, if any; of several
        names of one recipe, the first has the draft. Their keys are held together, and taken in
        order, so that no two processes wait for each other.
        """
        made = {recipe.key: self.find(recipe) for recipe in recipes.values()}
        names: dict[str, K] = {}
        for name, recipe in recipes.items():
            if made[recipe.key] is None:
                names.setdefault(recipe.key, name)

        def make(remaining: Sequence[str], drafts: dict[K, Draft]) -> None:
            if not remaining:
                if drafts:
                    write(drafts)
                return
            key, *others = remaining
            opened = False

            def fill(draft: Draft) -> None:
                nonlocal opened
                opened = True
                make(others, {**drafts, names[key]: draft})

            made[key] = self.make(recipes[names[key]], fill)
            if not opened:  # another process made it meanwhile
                make(others, drafts)

        make(sorted(names), {})
        return {
            name: artifact for name, recipe in recipes.items() if (artifact := made[recipe.key])
        }

    def artifacts(self, stage: str = "*") -> Iterator[Artifact]:
        """Every published artifact (of a stage) whose manifest reads, in no fixed order, files
        unverified."""
        for path in self.path.glob(f"{stage}/*/{MANIFEST}"):
            folder = path.parent
            if not STAGE.fullmatch(folder.parent.name) or not KEY.fullmatch(folder.name):
                continue
            try:
                yield Artifact(folder, manifest_in(folder))
            except (OSError, NotBelieved):
                log.warning("%s can't be read; it is left out", path)

    def _sound(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is here, verified; then it is in use, and the remote has it too."""
        artifact, damage = self._inspect(stage, key)
        return None if damage or artifact is None else self._used(artifact)

    def _used(self, artifact: Artifact) -> Artifact:
        with suppress(OSError, NotBelieved):  # others' data roots may be read-only to us
            os.utime(artifact.path / MANIFEST)
            if artifact.manifest.digest is None:
                self._seal(artifact)
        if self.mirror is not None:
            self.mirror.put(artifact)
        return artifact

    def _seal(self, artifact: Artifact) -> None:
        """Give a manifest of an earlier release its digest, unless its key is held right now."""
        with self.locked_now(artifact.stage, artifact.key) as free:
            if free and manifest_in(artifact.path) == artifact.manifest:
                _write(artifact.manifest.sealed(), artifact.path)

    def _warn(self, recipe: Recipe) -> None:
        """Say which of an artifact's files make its stage run again; once each."""
        folder = self.folder(recipe.stage, recipe.key)
        for name, what in self._inspect(recipe.stage, recipe.key)[1].items():
            if folder / name not in self._warned:
                log.warning("%s is %s; stage %s runs again", folder / name, what, recipe.stage)
            self._warned.add(folder / name)

    def _fetch(self, stage: str, key: str) -> Artifact | None:
        """Take an artifact from the remote, if that has it whole; the key's lock must be held.

        What a damaged or unfinished one here has of its files is kept, not fetched.
        """
        manifest = self.mirror.manifest(stage, key) if self.mirror else None
        if self.mirror is None or manifest is None:
            return None
        target = self.folder(stage, key)
        partial = target.with_name(f".{key}.partial")
        self._salvage(stage, key, partial)
        draft = _draft(partial, manifest.recipe)
        if not self.mirror.fetch(manifest, draft):
            return None
        keep_only(partial, manifest.files)
        return self._take_name(partial, manifest, target)

    def _inspect(self, stage: str, key: str) -> tuple[Artifact | None, dict[str, str]]:
        """The artifact if its manifest is believed, and what is wrong with which of its files."""
        folder = self.folder(stage, key)
        if not folder.exists():
            return None, {}
        try:
            manifest = manifest_in(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None, {MANIFEST: "missing"}
        except NotBelieved as error:
            return None, {MANIFEST: str(error)}
        except OSError:
            return None, {MANIFEST: "damaged"}
        faults = {name: fault_of(folder, name, entry) for name, entry in manifest.files.items()}
        return Artifact(folder, manifest), {name: what for name, what in faults.items() if what}

    def _salvage(self, stage: str, key: str, partial: Path) -> None:
        """Turn a damaged artifact back into a partial one that keeps its sound files."""
        folder = self.folder(stage, key)
        artifact, damage = self._inspect(stage, key)
        if artifact is None or folder.is_symlink():
            remove(folder)  # with no manifest there is no telling which files are sound
            return
        for name in damage:
            discard(folder, name)
        keep_only(folder, artifact.manifest.files)  # what else is there would be published too
        remove(partial)
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
        if not files:
            raise ValueError(f"stage {recipe.stage} has written no file; an artifact needs one")
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
        return replace(self._take_name(draft.path, manifest, target), made=True)

    def _take_name(self, folder: Path, manifest: Manifest, target: Path) -> Artifact:
        """Give a complete folder its manifest and its name, and see that the remote has it."""
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        manifest = manifest.sealed()
        _write(manifest, folder)
        os.replace(folder, target)
        fsync(target.parent)
        return self._used(Artifact(target, manifest))

    @contextmanager
    def _full_disk_said(self, stage: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise StorageError(
                f"the disk under {str(self.path)!r} is full while stage {stage} writes; nothing of "
                "it is published. Free some space and run again: it goes on from what is complete"
            ) from error

    @contextmanager
    def _lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold the key. The kernel drops the lock when its holder dies, however it dies."""
        with self._lock_file(stage, key) as handle:
            if not try_lock(handle):
                log.info("stage %s is being computed by another run; waiting", stage)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def locked_now(self, stage: str, key: str) -> Iterator[bool]:
        """Hold the key if nobody does; says whether. Without waiting."""
        with self._lock_file(stage, key) as handle:
            yield try_lock(handle)

    def is_locked(self, stage: str, key: str) -> bool:
        """Whether a process is making this artifact."""
        with self.locked_now(stage, key) as free:
            return not free

    def _lock_file(self, stage: str, key: str) -> IO[bytes]:
        locks = self.path / ".locks"
        if locks.is_symlink():
            locks.unlink(missing_ok=True)
        locks.mkdir(exist_ok=True)
        # Not truncated, and no link followed: it might be one to a file that is worth something.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return open(os.open(locks / f"{stage}-{key}", flags, 0o666), "rb")


def _draft(partial: Path, recipe: Recipe) -> Draft:
    """The draft in ``partial``, which says what it is the beginning of."""
    without_links(partial)
    draft = Draft(partial)
    plain = {
        "stage": recipe.stage,
        "version": recipe.version,
        "config": dict(recipe.config),
        "inputs": dict(recipe.inputs),
    }
    (draft.scratch / RECIPE).write_text(json.dumps(plain))
    return draft


def _write(manifest: Manifest, folder: Path) -> None:
    """Write an artifact's manifest, whole or not at all."""
    unfinished = folder / UNFINISHED
    remove(unfinished)  # of a writer that died; and a link there would be followed
    unfinished.write_text(manifest.model_dump_json(indent=1) + "\n")
    fsync(unfinished)
    os.replace(unfinished, folder / MANIFEST)
    fsync(folder)
