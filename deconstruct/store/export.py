"""Exporting a run: one DuckDB file that holds all of it."""

from __future__ import annotations

from pathlib import Path

import duckdb

from deconstruct.artifacts.believed import NotBelieved, check_place, manifest_in
from deconstruct.artifacts.manifest import MANIFEST
from deconstruct.common.errors import StorageError
from deconstruct.common.paths import absolute, check_for_duckdb
from deconstruct.corpus.tables import DOCUMENT_LABELS, DOCUMENTS
from deconstruct.latents.tables import LATENTS, LATENTS_BY_TOKEN
from deconstruct.store.ddl import (
    PARQUET,
    comments,
    create_derived,
    create_macros,
    create_table,
    execute_all,
    labels_of_documents,
    name,
)
from deconstruct.store.load import insert_file
from deconstruct.store.migrate import migrate
from deconstruct.store.query import data_root, open_store, resolve_run
from deconstruct.store.reading.checks import IN_PLACE, check_files
from deconstruct.store.rewrite import LARGE_BLOCKS, rewriting
from deconstruct.store.schema import META, RELATIONS, Relation


def export_run(
    home: Path | str | None, run: str, target: Path, *, verify: bool | None = None
) -> str:
    """Write a run into a new file with the store's tables and macros; return its run_id.

    What the store reads from artifacts is copied in, so the file needs nothing beside it. verify:
    as in `open_store`. Raises ``StorageError`` if ``target`` exists or its disk fills up, or if a
    file is damaged; `QueryError` for an unknown run.
    """
    target = free(target, "file")
    check_for_duckdb(target, f"file {str(target)!r}")
    with (
        open_store(home, files=False, verify=False) as source,
        rewriting(target, block_size=LARGE_BLOCKS) as connection,
    ):
        run_id = resolve_run(source, run)
        if verify is not False:
            read = [relation for relation in IN_PLACE if relation.table is not LATENTS_BY_TOKEN]
            thorough = verify is True
            check_files(source, data_root(home), read, run_id=run_id, thorough=thorough)
        migrate(connection, str(target))
        for relation in RELATIONS:
            if relation.table is LATENTS_BY_TOKEN:  # half the file, for what a scan answers as well
                connection.execute(
                    f"CREATE VIEW {name(relation.name)} AS SELECT * FROM {name(LATENTS.name)}"
                )
                execute_all(connection, comments(relation, "VIEW"))
            elif relation.in_place:
                connection.execute(create_table(relation))
                execute_all(connection, comments(relation, "TABLE"))
                _copy_in(source, connection, home, relation, run_id)
            elif relation.stored and relation is not META:
                rows = source.sql(
                    f"SELECT * FROM {name(relation.name)} WHERE run_id = $run",
                    params={"run": run_id},
                ).to_arrow_reader(100_000)
                connection.register("rows_to_copy", rows)
                connection.execute(
                    f"INSERT INTO {name(relation.name)} BY NAME SELECT * FROM rows_to_copy"
                )
                connection.unregister("rows_to_copy")
        create_derived(connection)
        create_macros(connection)
    return run_id


def free(target: Path, what: str) -> Path:
    """Where a file or folder, as ``what`` says, is to be made: nothing is there but, of a folder,
    an empty one, and a folder is above it. Raises ``StorageError`` if that is not so."""
    target = absolute(target)
    empty = what == "folder" and target.is_dir() and not target.is_symlink()
    if (target.exists() or target.is_symlink()) and not (empty and not any(target.iterdir())):
        raise StorageError(f"{target} exists already; remove it or name another {what}")
    if not target.parent.is_dir():
        raise StorageError(f"folder {target.parent} does not exist; make it or name another {what}")
    return target


def _copy_in(
    source: duckdb.DuckDBPyConnection,
    connection: duckdb.DuckDBPyConnection,
    home: Path | str | None,
    relation: Relation,
    run_id: str,
) -> None:
    """Copy the rows of a relation that lie in files of artifacts; those of relations that it is
    made of, where there is no file of its own, are there already."""
    assert relation.table is not None
    file = _file(source, home, relation, relation.table.file, run_id)
    if file is not None:
        insert_file(connection, relation, run_id, file)
    elif relation.table is DOCUMENT_LABELS:
        rows = labels_of_documents(name(DOCUMENTS.name))
        connection.execute(f"INSERT INTO {name(relation.name)} BY NAME {rows}")
    if relation.beside is None:
        return
    file = _file(source, home, relation, relation.beside.file, run_id)
    if file is not None:
        connection.execute(
            f"UPDATE {name(relation.name)} AS whole SET metadata = kept.metadata "
            f"FROM read_parquet($file, {PARQUET}) AS kept WHERE whole.doc_id = kept.doc_id",
            {"file": str(file)},
        )


def _file(
    source: duckdb.DuckDBPyConnection,
    home: Path | str | None,
    relation: Relation,
    wanted: str,
    run_id: str,
) -> Path | None:
    """A file with the relation's rows of a run; None if the run has no such stage, or its
    artifact no such file, as it was not asked for or is of an older release."""
    rows = source.execute(
        "SELECT path FROM stages WHERE run_id = ? AND stage = ?", [run_id, relation.stage]
    ).fetchall()
    if not rows:
        return None
    stage, _, key = str(rows[0][0]).partition("/")
    check_place(stage, key)
    folder = data_root(home) / stage / key
    if (folder / MANIFEST).exists():
        try:
            listed = manifest_in(folder).files
        except NotBelieved as error:
            raise StorageError(
                f"{folder / MANIFEST} is {error}; run the pipeline again to remake it"
            ) from error
        if wanted not in listed:
            return None
    file = folder / wanted
    if not file.exists():
        raise StorageError(f"{file} is missing; run the pipeline again to remake it")
    return file
