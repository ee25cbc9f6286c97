"""Removing: runs from the store, and artifacts that no run needs any more."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from deconstruct.artifacts import MANIFEST, RECIPE, SCRATCH, DataRoot, running
from deconstruct.artifacts.believed import KEY
from deconstruct.artifacts.remote import VARIABLE
from deconstruct.common.errors import StorageError
from deconstruct.store.ddl import create_macros, create_views, name
from deconstruct.store.migrate import migrate
from deconstruct.store.query import (
    CALLED,
    QueryError,
    data_root,
    open_store,
    report_file,
    resolve_run,
)
from deconstruct.store.rewrite import FILE, clear_left, left_drafts, rewriting
from deconstruct.store.schema import RELATIONS

log = logging.getLogger(__name__)

UNUSED_HOURS = 1.0
"""Artifacts used within so many hours stay: a stage that is called without a run holds no lock."""

CLOCKS_APART = 60.0
"""Seconds by which the clocks of machines that share a data root may differ."""


@dataclass(frozen=True)
class Garbage:
    """A folder that no kept run and no running stage needs.

    kind: ``artifact``; ``partial``, of a stage that did not end; ``removed``, of a removal that
    did not; ``draft``, of a store or export whose writer died; ``remote``, in the remote (its
    ``path`` is where it would be here). used: seconds since the epoch at which it was last used or
    written.
    """

    kind: str
    stage: str
    key: str
    path: Path
    bytes: int
    used: float


def remove_runs(home: Path | str | None, runs: Iterable[str]) -> list[str]:
    """Take runs out of the store, with their reports, and return their run_ids; their artifacts
    stay for `collect`.

    ``runs`` as in `resolve_run`. All go or none: raises ``QueryError`` if one is not there, or if
    it is named by one of several names that it has.
    """
    root = data_root(home)
    store = root / FILE
    with open_store(home, files=False, verify=False) as reader:
        run_ids = list(dict.fromkeys(_meant(reader, run) for run in runs))
    with rewriting(store, start_from=store) as connection:
        migrate(connection, str(store))
        for relation in RELATIONS:
            if relation.stored and relation.name != "meta":
                either = " OR other_run = $run" if relation.paired else ""
                for run_id in run_ids:
                    connection.execute(
                        f"DELETE FROM {name(relation.name)} WHERE run_id = $run{either}",
                        {"run": run_id},
                    )
        create_views(connection, root)
        create_macros(connection)
    for run_id in run_ids:  # its page has its texts
        with suppress(StorageError):  # of one that can have no page
            report_file(root, run_id).unlink(missing_ok=True)
    return run_ids


def _meant(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    run_id = resolve_run(connection, run)
    known = connection.execute(
        f"SELECT {CALLED}, $run IN (n.name, n.name || '@' || r.site, n.name || '/' || n.analysis, "
        "n.name || '@' || r.site || '/' || n.analysis) "
        "FROM names AS n JOIN runs AS r ON r.run_id = n.run_id WHERE n.run_id = $id",
        {"run": run, "id": run_id},
    ).fetchall()
    others = [str(name) for name, meant in known if not meant]
    if len(known) > 1 and len(others) < len(known):
        raise QueryError(
            f"run {run!r} is {', '.join(map(repr, others))} too, which would go with it; name it "
            f"by its run_id, {run_id}, to remove it under all its names"
        )
    return run_id


def garbage(
    home: Path | str | None, *, partial: bool = False, unused_hours: float = UNUSED_HOURS
) -> list[Garbage]:
    """What `collect` would remove, largest first.

    Kept is what the runs in the store were made from, however far back, what a stage that is
    running or was interrupted goes on from, what was used since the oldest run that lives began,
    and what was used within ``unused_hours``. partial: interrupted stages are given up, unless
    they run. What lies behind a link is another's too, and stays. Raises ``StorageError`` if there
    is no store to say which runs there are.
    """
    _check_hours(unused_hours)
    root = DataRoot(data_root(home))
    needed, since = _needed(home, root, partial), _oldest_start(root)
    found = [
        thing
        for thing in _folders(root)
        if not thing.path.parent.is_symlink()
        and (thing.kind != "artifact" or (thing.stage, thing.key) not in needed)
        and (thing.kind != "partial" or (partial and _given_up(root, thing, since)))
        and (thing.kind != "artifact" or time.time() - thing.used >= unused_hours * 3600)
    ]
    found += [
        Garbage("draft", "store", path.name, path, _size(path), path.stat().st_mtime)
        for path in left_drafts(root.path)
    ]
    return sorted(found, key=lambda thing: (-thing.bytes, thing.path))


def remote_garbage(home: Path | str | None, *, unused_hours: float = UNUSED_HOURS) -> list[Garbage]:
    """What the remote holds that no run in this data root's store needs, largest first.

    Other data roots may need it: what this one knows is its own store. What was sent within
    ``unused_hours`` is left out, and what was not sent whole is in it. Raises ``StorageError`` if
    there is no remote, or it can't be reached.
    """
    _check_hours(unused_hours)
    root = DataRoot(data_root(home))
    if root.mirror is None:
        raise StorageError(f"there is no remote; name its URL in {VARIABLE}")
    needed = _needed(home, root, partial=False)
    found = [
        Garbage(
            "remote", held.stage, held.key, root.folder(held.stage, held.key), held.bytes,
            held.modified,
        )
        for held in root.mirror.held()
        if not (held.complete and (held.stage, held.key) in needed)
        and time.time() - held.modified >= unused_hours * 3600
    ]  # fmt: skip
    return sorted(found, key=lambda thing: (-thing.bytes, thing.path))


def collect(home: Path | str | None, things: Iterable[Garbage]) -> list[Garbage]:
    """Remove what `garbage` or `remote_garbage` found, but what is in use or has been since then.

    Returns what is gone. A kill leaves no artifact half there. Readers that opened the store
    before its runs were removed lose sight of those runs' tokens and firings.
    """
    root = data_root(home)
    store = DataRoot(root)
    gone = []
    for thing in things:
        if thing.kind == "remote" and store.mirror is not None:
            store.mirror.remove(thing.stage, thing.key)
            gone.append(thing)
            continue
        if thing.kind == "draft":
            gone += [thing] if clear_left(thing.path) else []
            continue
        with store.locked_now(thing.stage, thing.key) as free:
            if not free or not thing.path.exists() or _last_used(thing.path) > thing.used:
                log.info("%s is in use; it stays", thing.path)
                continue
            doomed = thing.path
            if thing.kind == "artifact":
                doomed = thing.path.with_name(f".{thing.key}.removed")
                thing.path.rename(doomed)
            shutil.rmtree(doomed)
            gone.append(thing)
    if any(
        thing.kind not in ("remote", "draft") for thing in gone
    ):  # a view over no file would not bind
        with rewriting(root / FILE, start_from=root / FILE) as connection:
            migrate(connection, str(root / FILE))
            create_views(connection, root)
            create_macros(connection)
    return gone


def _needed(home: Path | str | None, root: DataRoot, partial: bool) -> set[tuple[str, str]]:
    """(stage, key) of all artifacts that kept runs, runs that live and unfinished stages go back
    to."""
    inputs, in_use, since = {}, set(), _oldest_start(root)
    for artifact in root.artifacts():
        place = (artifact.stage, artifact.key)
        inputs[place] = set(artifact.manifest.inputs.values())
        if _last_used(artifact.path) >= since:
            in_use.add(place)
    by_key: dict[str, set[tuple[str, str]]] = {}
    for stage, key in inputs:
        by_key.setdefault(key, set()).add((stage, key))
    with open_store(home, files=False, verify=False) as connection:
        waiting = {(str(s), str(k)) for s, k in connection.execute(
            "SELECT stage, key FROM stages UNION SELECT 'matching', key FROM matchings"
        ).fetchall()}  # fmt: skip
    for thing in _folders(root):
        if thing.kind == "partial" and not (partial and _given_up(root, thing, since)):
            for key in _partial_inputs(thing.path):
                waiting |= by_key.get(key, set())
    waiting |= in_use
    needed: set[tuple[str, str]] = set()
    while waiting:
        place = waiting.pop()
        needed.add(place)
        for key in inputs.get(place, ()):
            waiting |= by_key.get(key, set()) - needed
    return needed


def _folders(root: DataRoot) -> Iterator[Garbage]:
    """Every folder that this module may ever remove."""
    for path in root.path.glob("*/*/"):
        stage, folder = path.parent.name, path.name
        key = folder.removeprefix(".").removesuffix(".partial").removesuffix(".removed")
        if stage.startswith(".") or not KEY.fullmatch(key):
            continue
        kinds = {
            key: "artifact",
            f".{key}.partial": "partial",
            f".{key}.removed": "removed",
        }
        if folder in kinds and not path.is_symlink():
            yield Garbage(kinds[folder], stage, key, path, _size(path), _last_used(path))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _last_used(path: Path) -> float:
    """An artifact's manifest is touched by each use; a partial folder by each write into it, and
    its recipe whenever a stage takes it up."""
    manifest, recipe = path / MANIFEST, path / SCRATCH / RECIPE
    if manifest.exists():
        return manifest.stat().st_mtime
    return max(at.stat().st_mtime for at in (path, recipe) if at.exists())


def _check_hours(hours: float) -> None:
    if not 0 <= hours < math.inf:  # nor nan
        raise QueryError(f"unused_hours = {hours} is no number of hours; take 0 or more")


def _oldest_start(root: DataRoot) -> float:
    """When the oldest run that lives began; what it asked for was touched since then."""
    return min(running.living(root.path).values(), default=math.inf) - CLOCKS_APART


def _given_up(root: DataRoot, thing: Garbage, since: float) -> bool:
    """Whether nobody makes a partial artifact, nor a run that lives will try again."""
    return thing.used < since and not root.is_locked(thing.stage, thing.key)


def _partial_inputs(path: Path) -> list[str]:
    """Keys of what an unfinished stage is made from."""
    try:
        return list(json.loads((path / SCRATCH / RECIPE).read_text())["inputs"].values())
    except (OSError, ValueError, KeyError):
        return []  # it was killed before it began
