"""documents.group_id: of corpora that say it, and of those of older releases, in one store."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_5
from support.planted import artifact_of, filled
from support.store_artifacts import Planted, plant
from support.store_tasks import plant_tasks

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.corpus.tables import DOCUMENTS, TOKENS, WITH_GROUPS
from deconstruct.store import export_run, open_store, publish, run_id_of
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import SCHEMA_VERSION

OLD = "SELECT group_id, coalesce(group_id, doc_id) FROM documents WHERE run_id = ? ORDER BY doc_id"


def grouped(home: Path, name: str, seed: int) -> Planted:
    """A planted run whose corpus says that each document hangs together with the one before it."""
    planted = plant(home, name, seed, corpus_seed=seed)
    corpus = planted.artifacts["corpus"]
    rows = corpus.table(DOCUMENTS.file)
    columns = {column: rows[column].to_pylist() for column in rows.column_names}
    columns["group_id"] = [doc - doc % 2 for doc in columns["doc_id"]]
    contents = {WITH_GROUPS: filled(WITH_GROUPS, **columns), TOKENS: corpus.table(TOKENS.file)}
    recipe = Recipe("corpus", 4, {"seed": seed}, corpus.manifest.inputs)
    planted.artifacts["corpus"] = artifact_of(DataRoot(home), recipe, contents, **corpus.facts)
    return planted


def groups(store: duckdb.DuckDBPyConnection, run: Planted) -> list[tuple[int | None, int]]:
    return store.execute(OLD, [run_id_of(run.artifacts)]).fetchall()


def told(run: Planted) -> list[tuple[int | None, int]]:
    return [(doc - doc % 2, doc - doc % 2) for doc in range(len(run.labels))]


def untold(run: Planted) -> list[tuple[int | None, int]]:
    return [(None, doc) for doc in range(len(run.labels))]


def test_a_store_of_schema_5_takes_runs_with_groups(tmp_path: Path) -> None:
    assert SCHEMA_VERSION >= 6
    old, kept = plant(tmp_path), plant_tasks(tmp_path)
    for run in (old, kept):
        publish(tmp_path, run.record, run.artifacts)
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_5)
    with open_store(tmp_path) as store:
        assert groups(store, old) == untold(old)
    new = grouped(tmp_path, "grouped", 3)
    publish(tmp_path, new.record, new.artifacts)
    with open_store(tmp_path) as store:
        assert groups(store, old) == untold(old)
        assert groups(store, kept) == untold(kept)
        assert groups(store, new) == told(new)
        authors = "SELECT count(metadata) FROM documents WHERE run_id = ?"
        ((found,),) = store.execute(authors, [run_id_of(kept.artifacts)]).fetchall()
        assert found == len(kept.labels)
    for name, run in (("old", old), ("new", new)):
        export_run(tmp_path, run.record.config.name, tmp_path / f"{name}.duckdb")
        with duckdb.connect(tmp_path / f"{name}.duckdb", read_only=True) as store:
            assert groups(store, run) == (told(run) if run is new else untold(run))


@pytest.mark.parametrize("kinds", ["old old", "new new", "old new old new", "old tasks new"])
def test_files_of_other_runs_are_not_read(tmp_path: Path, kinds: str) -> None:
    make = {
        "old": lambda n: plant(tmp_path, f"run {n}", n, corpus_seed=n),
        "new": lambda n: grouped(tmp_path, f"run {n}", n),
        "tasks": lambda n: plant_tasks(tmp_path, f"run {n}", n),
    }
    runs = [make[kind](number) for number, kind in enumerate(kinds.split())]
    for run in runs:
        publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path) as store:
        for number, run in enumerate(runs):
            for which in (f"'{run_id_of(run.artifacts)}'", f"resolve_run('run {number}')"):
                query = f"SELECT max(doc_id), max(group_id) FROM documents WHERE run_id = {which}"
                explained = store.execute(f"EXPLAIN ANALYZE {query}").fetchall()
                plan = "".join(row[1] for row in explained)
                read = [int(n) for n in re.findall(r"Total Files Read:\W*(\d+)", plan)]
                assert max(read) == 1, (number, which, read)
