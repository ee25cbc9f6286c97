"""Every file of a data root against what it was when it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from deconstruct.artifacts.believed import KEY
from deconstruct.artifacts.looks import Looks, every_file
from deconstruct.common.errors import StorageError
from deconstruct.store.ddl import name
from deconstruct.store.query import data_root, open_store
from deconstruct.store.reading.checks import Users, clauses, remedy, users_of
from deconstruct.store.rewrite import FILE, REMEDY


@dataclass(frozen=True)
class Verified:
    """What was looked at, a clause for each thing that is wrong, and what helps."""

    files: int
    artifacts: int
    faults: list[str]
    remedy: str


def verify(home: Path | str | None = None, *, quick: bool = False) -> Verified:
    """Digest every file of every artifact, and read the store's file whole.

    quick: of the files, those that have changed, or were not looked at, since a week. Raises
    ``StorageError`` if there is no data root.
    """
    root = data_root(home)
    if not root.is_dir():
        raise StorageError(f"home {str(root)!r} is no folder; name a data root with --home")
    users, trouble = _store(root)
    artifacts = sorted({*_artifacts(root), *users})
    places = [place for artifact in artifacts for place in every_file(root, *artifact)]
    faults = Looks(root).faults(places, thorough=not quick)
    told = clauses(faults, users) + ([trouble] if trouble else [])
    return Verified(len(places), len(artifacts), told, remedy(faults, users) if faults else "")


def _artifacts(root: Path) -> list[tuple[str, str]]:
    """(stage, key) of every published artifact."""
    return [
        (path.parent.name, path.name)
        for path in root.glob("[!.]*/[!.]*/")
        if KEY.fullmatch(path.name)
    ]


def _store(root: Path) -> tuple[Users, str]:
    """The artifacts that the store's runs are made of, and what is wrong with its file, if any."""
    if not (root / FILE).exists():
        return {}, ""
    try:
        with open_store(root, files=False, verify=False) as connection:
            tables = connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
            ).fetchall()
            for (table,) in tables:  # DuckDB has a checksum for each block, and looks as it reads
                connection.execute(f"SELECT bit_xor(hash(t)) FROM {name(str(table))} AS t")
                connection.fetchall()
            return users_of(connection), ""
    except (StorageError, duckdb.Error) as error:
        said = " ".join(str(error).split())
        return {}, said if REMEDY in said else f"{FILE} is damaged ({said}); {REMEDY}"
