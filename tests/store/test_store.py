"""Publishing and opening the store, on real DuckDB files."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from support.planted import remade
from support.store_artifacts import D_SAE, LABELS, Planted, plant

from deconstruct.common.errors import StorageError
from deconstruct.config import EVERY_STAGE
from deconstruct.store import (
    QueryError,
    export_run,
    open_store,
    publish,
    resolve_run,
    run_id_of,
)
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS, Relation

TwoRuns = tuple[Path, Planted, Planted]
FROM_FILES = [
    r
    for r in RELATIONS
    if r.table and not r.table.optional and not r.paired and r.name != "training_log"
]


def run_of(planted: Planted) -> str:
    return run_id_of(planted.artifacts)


def holding(home: Path, code: str) -> subprocess.Popen[str]:
    """Another process that has run ``code`` with the store's path as ``store`` and holds on."""
    script = f"import duckdb, sys; store = sys.argv[1]; {code}; print('ready', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(home / FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("relation", FROM_FILES, ids=lambda r: r.name)
def test_every_row_of_every_artifact_is_found_under_its_run(
    two_runs: TwoRuns, relation: Relation
) -> None:
    home, *runs = two_runs
    columns = ", ".join(column.name for column in relation.from_file)
    with open_store(home) as store:
        for planted in runs:
            assert relation.stage is not None
            file = planted.artifacts[relation.stage].file(str(relation.file))
            expected = duckdb.execute(f"SELECT {columns} FROM read_parquet(?)", [str(file)])
            found = store.execute(
                f"SELECT {columns} FROM {relation.name} WHERE run_id = ?", [run_of(planted)]
            )
            rows = expected.fetchall()
            assert rows
            assert sorted(map(repr, found.fetchall())) == sorted(map(repr, rows))


def test_runs_and_stages_say_where_results_come_from(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    with open_store(home) as store:
        row = store.execute(
            "SELECT name, site, layer, architecture, d_in, d_sae, k, fvu, probe_accuracy, nmi, "
            "config ->> '$.sae.d_sae' FROM runs WHERE run_id = ?",
            [run_of(demo)],
        ).fetchone()
        stages = store.execute(
            "SELECT stage, key, cached FROM stages WHERE run_id = ? ORDER BY ordinal",
            [run_of(demo)],
        ).fetchall()
    assert row == ("demo", "9.resid_post", 9, "topk", 16, D_SAE, 4, 0.2, 0.96, 0.6, str(D_SAE))
    assert stages == [
        (s, demo.artifacts[s].key, s == "corpus") for s in EVERY_STAGE if s != "matching"
    ]


def test_every_table_and_column_has_a_comment(two_runs: TwoRuns) -> None:
    with open_store(two_runs[0]) as store:
        bare = store.execute(
            "SELECT table_name FROM duckdb_tables() WHERE comment IS NULL UNION ALL "
            "SELECT view_name FROM duckdb_views() WHERE comment IS NULL AND NOT internal UNION ALL "
            "SELECT table_name || '.' || column_name FROM duckdb_columns() "
            "WHERE comment IS NULL AND NOT internal"
        ).fetchall()
        counted = store.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE NOT internal"
        ).fetchone()
    assert bare == []
    assert counted == (sum(len(relation.columns) for relation in RELATIONS),)


def test_publishing_again_replaces_rows_and_adds_none(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    found = []
    for _ in range(2):
        assert publish(tmp_path, planted.record, planted.artifacts) == run_of(planted)
        with open_store(tmp_path) as store:
            found.append(
                {r.name: store.execute(f"SELECT * FROM {r.name}").fetchall() for r in RELATIONS}
            )
    for relation in RELATIONS:
        if relation.name not in ("meta", "names", "executions"):
            first, again = (sorted(map(repr, one[relation.name])) for one in found)
            assert first == again, relation.name
    assert [p.name for p in tmp_path.glob("*duckdb*")] == [FILE]
    assert [p.name for p in tmp_path.glob(".*draft*")] == []


def test_a_reader_keeps_its_snapshot_and_the_next_one_sees_the_new_run(tmp_path: Path) -> None:
    first, second = plant(tmp_path), plant(tmp_path, "later", seed=1)
    publish(tmp_path, first.record, first.artifacts)
    with open_store(tmp_path) as early:
        publish(tmp_path, second.record, second.artifacts)
        with open_store(tmp_path) as late:
            assert early.execute("SELECT name FROM runs").fetchall() == [("demo",)]
            assert late.execute("SELECT name FROM runs ORDER BY published").fetchall() == [
                ("demo",),
                ("later",),
            ]
            assert len(late.execute("FROM top_contexts('later', 7)").fetchall()) == 20
            assert late.execute("FROM label_enrichment('later')").fetchall()
        assert early.execute("SELECT count(DISTINCT run_id) FROM latents").fetchone() == (1,)


def test_the_store_can_be_read_only_by_open_store(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with (
        open_store(tmp_path) as store,
        pytest.raises(duckdb.InvalidInputException, match="read-only"),
    ):
        store.execute("DELETE FROM runs")


@pytest.mark.parametrize("mode", ["True", "False"])
def test_a_shell_that_holds_the_store_open_blocks_neither_writer_nor_reader(
    tmp_path: Path, mode: str
) -> None:
    first, second = plant(tmp_path), plant(tmp_path, "later", seed=1)
    publish(tmp_path, first.record, first.artifacts)
    shell = holding(tmp_path, f"c = duckdb.connect(store, read_only={mode})")
    try:
        with open_store(tmp_path) as store:
            assert store.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        publish(tmp_path, second.record, second.artifacts)
        with open_store(tmp_path) as store:
            assert store.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    finally:
        shell.communicate("\n")


def test_what_a_shell_wrote_into_the_store_survives_a_publish(tmp_path: Path) -> None:
    first, second = plant(tmp_path), plant(tmp_path, "later", seed=1)
    publish(tmp_path, first.record, first.artifacts)
    shell = holding(
        tmp_path, "c = duckdb.connect(store); c.execute('CREATE TABLE notes AS SELECT 42 AS n')"
    )
    try:
        publish(tmp_path, second.record, second.artifacts)
    finally:
        shell.kill()  # its log is left beside the file
        shell.wait()
    with open_store(tmp_path) as store:
        assert store.execute("SELECT n FROM notes").fetchall() == [(42,)]
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_publishes_at_the_same_time_all_arrive(tmp_path: Path) -> None:
    planted = [plant(tmp_path, f"run {seed}", seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda p: publish(tmp_path, p.record, p.artifacts), planted))
    with open_store(tmp_path) as store:
        found = store.execute("SELECT run_id FROM runs").fetchall()
        firings = store.execute("SELECT count(DISTINCT run_id) FROM latents").fetchone()
    assert sorted(r[0] for r in found) == sorted(ids)
    assert firings == (6,)


def test_a_data_root_may_be_moved(tmp_path: Path) -> None:
    planted = plant(tmp_path / "before")
    publish(tmp_path / "before", planted.record, planted.artifacts)
    (tmp_path / "before").rename(tmp_path / "after")
    with open_store(tmp_path / "after") as store:
        assert store.execute("SELECT count(*) FROM tokens").fetchone() == (len(planted.tokens),)


HOSTILE = [
    "'; DROP TABLE runs; --",
    "\"); ATTACH 'x' AS y; --",
    "a' OR '1'='1",
    "%",
    "latest'",
    "{}$1?:name",
    "\\'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_run_names_and_labels_are_values(tmp_path: Path, text: str) -> None:
    planted, other = plant(tmp_path, text), plant(tmp_path, "other", seed=1)
    for run in (planted, other):
        publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path) as store:
        assert resolve_run(store, text) == run_of(planted)
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (2,)
        assert store.execute("SELECT count(*) FROM top_contexts(?, 7)", [text]).fetchone() == (20,)
        found = store.execute("FROM latents_for_label(?, ?)", [text, LABELS[1]]).fetchone()
        assert found is not None
        assert found[0] == 7
        with pytest.raises(duckdb.InvalidInputException, match="no document of run"):
            store.execute("FROM latents_for_label(?, ?)", [text, text])
        with pytest.raises(QueryError, match="no run is called"):
            resolve_run(store, text + "?")


def test_resolve_run_takes_ids_beginnings_names_sites_and_latest(two_runs: TwoRuns) -> None:
    home, demo, other = two_runs
    with open_store(home) as store:
        for text in (run_of(demo), run_of(demo)[:6], "demo", "demo@9.resid_post"):
            assert resolve_run(store, text) == run_of(demo)
        assert resolve_run(store, "latest") == run_of(other)
        for text in ("", "nothing", "demo@8.resid_post"):
            with pytest.raises(QueryError, match="the newest are"):
                resolve_run(store, text)


def test_no_store_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="deconstruct run"):
        open_store(tmp_path)


def test_a_damaged_store_is_said_to_reader_and_writer(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="move it away"):
        open_store(tmp_path)
    with pytest.raises(StorageError, match="is damaged"):
        publish(tmp_path, planted.record, planted.artifacts)


def test_artifacts_must_be_whole_and_under_the_home(tmp_path: Path) -> None:
    planted = plant(tmp_path / "a")
    with pytest.raises(StorageError, match="has no 'cluster'"):
        publish(
            tmp_path / "a",
            planted.record,
            {k: v for k, v in planted.artifacts.items() if k != "cluster"},
        )
    (tmp_path / "b").mkdir()
    with pytest.raises(StorageError, match="not under home"):
        publish(tmp_path / "b", planted.record, planted.artifacts)
    assert not (tmp_path / "b" / FILE).exists()


def test_artifacts_of_another_schema_are_refused_and_the_store_stays(tmp_path: Path) -> None:
    good, bad = plant(tmp_path), plant(tmp_path, "bad", seed=1)
    publish(tmp_path, good.record, good.artifacts)
    latents, evaluation = bad.artifacts["latents"], bad.artifacts["evaluation"]
    whole = latents.table("latents.parquet")
    bad.artifacts["latents"] = remade(latents, "latents.parquet", whole.drop_columns("activation"))
    with pytest.raises(StorageError, match="raise the version of stage latents"):
        publish(tmp_path, bad.record, bad.artifacts)
    documents = good.artifacts["corpus"].table("documents.parquet")
    bad.artifacts["latents"] = remade(latents, "latents.parquet", whole)
    bad.artifacts["evaluation"] = remade(evaluation, "metrics.parquet", documents)
    with pytest.raises(StorageError, match="does not fit table sae_metrics"):
        publish(tmp_path, bad.record, bad.artifacts)
    with open_store(tmp_path) as store:
        assert store.execute("SELECT name FROM runs").fetchall() == [("demo",)]


def test_an_export_needs_nothing_beside_it(two_runs: TwoRuns, tmp_path: Path) -> None:
    home, demo, _ = two_runs
    target = tmp_path / "demo.duckdb"
    assert export_run(home, "demo", target) == run_of(demo)
    # A plain shell: no setting, no variable of ours.
    copy = duckdb.connect(str(target), read_only=True)
    store = open_store(home)
    for relation in RELATIONS:
        if relation.name != "meta":
            columns = ", ".join(c.name for c in relation.columns)
            query = f"SELECT {columns} FROM {relation.name} WHERE run_id = '{run_of(demo)}'"
            assert sorted(map(repr, copy.execute(query).fetchall())) == sorted(
                map(repr, store.execute(query).fetchall())
            )
            assert copy.execute(f"SELECT count(*) FROM {relation.name}").fetchone() == (
                store.execute(
                    f"SELECT count(*) FROM {relation.name} WHERE run_id = ?", [run_of(demo)]
                ).fetchone()
            )
    for macro in ("top_contexts('demo', 7)", "co_firing('latest', 4, 5)", "probe_errors('demo')"):
        found = copy.execute(f"FROM {macro}").fetchall()
        assert found
        assert found == store.execute(f"FROM {macro.replace('latest', 'demo')}").fetchall()
    copy.close()
    with pytest.raises(StorageError, match="exists already"):
        export_run(home, "demo", target)
    with pytest.raises(StorageError, match="folder"):
        export_run(home, "demo", tmp_path / "missing" / "demo.duckdb")
    with pytest.raises(QueryError, match="no run is called"):
        export_run(home, "nobody", tmp_path / "nobody.duckdb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.duckdb"]


def test_configuration_is_there_whole(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    with open_store(home) as store:
        row = store.execute("SELECT config FROM runs WHERE name = 'demo'").fetchone()
    assert row is not None
    assert json.loads(row[0]) == demo.record.config.model_dump(mode="json")
