"""Columns of labels and kept columns in the store, of runs with several and of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_4
from support.store_artifacts import LABELS, SPORT_LATENT, Planted, plant
from support.store_tasks import label_rows, plant_tasks, tones

from deconstruct.common.errors import StorageError
from deconstruct.store import export_run, open_store, publish, run_id_of
from deconstruct.store.rewrite import FILE

Runs = tuple[Path, Planted, Planted]

ONE_QUERY = """
SELECT r.name, p.task, p.value FROM probes AS p JOIN runs AS r USING (run_id)
WHERE p.representation = 'latents' AND p.k IS NULL AND p.label IS NULL AND p.metric = 'accuracy'
ORDER BY ALL
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run with one column of labels, as earlier releases have made them, and one with several."""
    home = tmp_path_factory.mktemp("tasks")
    planted = plant(home), plant_tasks(home)
    for one in planted:
        publish(home, one.record, one.artifacts)
    return home, *planted


@pytest.fixture
def store(runs: Runs) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(runs[0]) as connection:
        yield connection


def of(planted: Planted) -> str:
    return run_id_of(planted.artifacts)


def labels(store: duckdb.DuckDBPyConnection, run: str) -> list[tuple[object, ...]]:
    return store.execute(
        "SELECT doc_id, task, kind, value FROM document_labels WHERE run_id = ?", [run]
    ).fetchall()


def test_labels_of_corpora_with_one_column_and_with_several(
    store: duckdb.DuckDBPyConnection, runs: Runs
) -> None:
    _, one, several = runs
    assert sorted(labels(store, of(one))) == [
        (doc, "label", "class", label) for doc, label in enumerate(one.labels)
    ]
    assert sorted(labels(store, of(several)), key=repr) == sorted(
        label_rows(several.labels), key=repr
    )
    assert store.execute(
        "SELECT name, label_column FROM runs ORDER BY published"
    ).fetchall() == [("demo", "label"), ("tasks", "topic")]  # fmt: skip
    stars = "SELECT avg(CAST(value AS DOUBLE)) FROM document_labels WHERE task = 'stars'"
    assert store.execute(stars).fetchall() == [((len(several.labels) - 1) / 4,)]


def test_a_store_with_old_corpora_alone(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        assert len(labels(store, of(planted))) == len(planted.labels)
        assert store.execute("SELECT count(metadata) FROM documents").fetchall() == [(0,)]


def test_kept_columns_are_a_column_of_documents(
    store: duckdb.DuckDBPyConnection, runs: Runs
) -> None:
    _, one, several = runs
    query = (
        "SELECT metadata ->> 'author' AS author, avg((metadata ->> 'year')::INT) "
        "FROM documents WHERE run_id = ? AND split = 'train' GROUP BY author ORDER BY author"
    )
    train = [doc for doc in range(len(several.labels)) if doc not in several.test_docs]
    years = [[2000 + doc for doc in train if doc % 3 == author] for author in range(3)]
    assert store.execute(query, [of(several)]).fetchall() == [
        (f"author {i}", sum(own) / len(own)) for i, own in enumerate(years)
    ]
    assert store.execute(query, [of(one)]).fetchall() == [(None, None)]
    both = "SELECT run_id, doc_id, label, text FROM documents ORDER BY ALL"
    assert len(store.execute(both).fetchall()) == len(one.labels) + len(several.labels)


def test_probes_answer_by_corpus_and_column_in_one_query(
    store: duckdb.DuckDBPyConnection,
) -> None:
    assert store.execute(ONE_QUERY).fetchall() == [
        ("demo", "label", 0.96), ("tasks", "tone", 0.48), ("tasks", "topic", 0.96)
    ]  # fmt: skip
    headline = "SELECT probe_accuracy FROM runs"
    assert store.execute(headline).fetchall() == [(0.96,), (0.96,)]
    differ = store.execute("FROM compare_runs('demo', 'tasks')").fetchall()
    names = [str(row[1]) for row in differ]
    assert "accuracy of latents" in names
    assert "accuracy of latents, on tone" in names


def test_macros_take_the_first_column_or_another(
    store: duckdb.DuckDBPyConnection, runs: Runs
) -> None:
    _, _, several = runs
    telling = f"FROM latents_for_label('tasks', $${LABELS[1]}$$) LIMIT 1"
    assert store.execute(f"SELECT latent {telling}").fetchall() == [(SPORT_LATENT,)]
    ((documents,),) = store.execute(
        "SELECT max(n_label) FROM label_enrichment('tasks', task := 'tone') WHERE label = 'dry'"
    ).fetchall()
    said = tones(len(several.labels))
    assert documents == [said[doc] for doc in several.test_docs].count("dry")
    with pytest.raises(duckdb.Error, match="no document of run 'tasks' has label 'dry'"):
        store.execute("FROM latents_for_label('tasks', 'dry')").fetchall()
    assert store.execute("FROM latents_for_label('tasks', 'dry', task := 'tone')").fetchall()
    assert store.execute("FROM latents_for_label('tasks', 'y', 'x', task := 'tags')").fetchall()
    mine = store.execute("FROM probe_errors('tasks')").fetchall()
    assert mine == store.execute("FROM probe_errors('tasks', task := 'topic')").fetchall()
    assert {row[1:3] for row in mine} <= {(a, b) for _, a, b in several.predictions}


def test_lists_of_labels_are_told_from_all_others(
    store: duckdb.DuckDBPyConnection, runs: Runs
) -> None:
    """A document may have both labels, one, or none, and counts once."""
    _, _, several = runs
    query = "FROM latents_for_label('tasks', 'y', task := 'tags') WHERE latent = ?"
    ((inside, outside),) = store.execute(
        f"SELECT documents_in, documents_out {query}", [SPORT_LATENT]
    ).fetchall()
    dense = several.activations[:, SPORT_LATENT] > 0
    fires = {int(several.doc_of[token]) for token in dense.nonzero()[0]}
    count = len(several.labels)
    tagged = {doc for doc in range(count) if doc % 3 == 0}
    assert inside == pytest.approx(len(fires & tagged) / len(tagged))
    assert outside == pytest.approx(len(fires - tagged) / (count - len(tagged)))


@pytest.mark.parametrize("which", [1, 2])
def test_an_exported_run_has_both(runs: Runs, tmp_path: Path, which: int) -> None:
    home, planted = runs[0], runs[which]
    assert isinstance(planted, Planted)
    export_run(home, of(planted), tmp_path / "run.duckdb")
    queries = (
        "SELECT doc_id, task, kind, value FROM document_labels WHERE run_id = $run ORDER BY ALL",
        "SELECT doc_id, metadata ->> 'author' FROM documents WHERE run_id = $run ORDER BY ALL",
        "SELECT task, label, metric, value FROM probes WHERE run_id = $run ORDER BY ALL",
    )
    with open_store(home) as store, duckdb.connect(tmp_path / "run.duckdb") as exported:
        for query in queries:
            found = exported.execute(query, {"run": of(planted)}).fetchall()
            assert found == store.execute(query, {"run": of(planted)}).fetchall()


@pytest.mark.parametrize("name", ["document_labels.parquet", "document_metadata.parquet"])
def test_damage_to_them_is_found(tmp_path: Path, name: str) -> None:
    planted = plant_tasks(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    file = planted.artifacts["corpus"].file(name)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(StorageError, match=rf"{name} is damaged, of run tasks"):
        open_store(tmp_path)


def test_a_store_of_schema_4_is_brought_up_to_date(tmp_path: Path) -> None:
    """When it is read, in a copy, and when the next run is published."""
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    queries = [
        "SELECT * EXCLUDE (target, seed) FROM probes ORDER BY ALL",
        "FROM probe_weights ORDER BY ALL",
        "SELECT * REPLACE (round(probability, 12) AS probability) FROM probe_predictions "
        "ORDER BY ALL",
        "FROM document_labels ORDER BY ALL",
        "SELECT * EXCLUDE (published, fvu_typical, silent_share, delta_loss, kl, top1_agreement), "
        "delta_loss, kl FROM runs",  # what schema 4 has not is null
    ]
    with open_store(tmp_path) as store:
        expected = [store.execute(query).fetchall() for query in queries]
        columns = store.execute("SELECT column_name FROM duckdb_columns() ORDER BY ALL").fetchall()
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_4)
    before = (tmp_path / FILE).read_bytes()
    with open_store(tmp_path) as store:
        assert [store.execute(query).fetchall() for query in queries] == expected
        now = store.execute("SELECT column_name FROM duckdb_columns() ORDER BY ALL").fetchall()
        assert now == columns
    assert (tmp_path / FILE).read_bytes() == before
    later = plant_tasks(tmp_path)
    publish(tmp_path, later.record, later.artifacts)
    with open_store(tmp_path) as store:
        assert len(store.execute(ONE_QUERY).fetchall()) == 3
        assert {row[1] for row in labels(store, of(planted))} == {"label"}


@pytest.mark.parametrize(
    ("relation", "which"), [("documents", 1), ("documents", 2), ("document_labels", 1)]
)
def test_files_of_other_runs_are_not_read(
    store: duckdb.DuckDBPyConnection, runs: Runs, relation: str, which: int
) -> None:
    """Kept columns are joined so that documents are still found by their file."""
    planted = runs[which]
    assert isinstance(planted, Planted)
    for run in (f"'{of(planted)}'", f"resolve_run('{planted.record.config.name}')"):
        query = f"SELECT max(doc_id) FROM {relation} WHERE run_id = {run}"
        plan = "".join(row[1] for row in store.execute(f"EXPLAIN ANALYZE {query}").fetchall())
        read = [int(n) for n in re.findall(r"Total Files Read:\W*(\d+)", plan)]
        assert read
        assert max(read) == 1
