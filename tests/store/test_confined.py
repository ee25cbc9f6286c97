"""What ``deconstruct sql`` reaches without ``--files``: the store, and no other file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import Planted
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.store import open_store, pages
from deconstruct.store.rewrite import FILE

KEY = "ab" * 16
TwoRuns = tuple[Path, Planted, Planted]


@pytest.fixture(scope="module")
def home(two_runs: TwoRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of its own, beside a secret that a link in it leads to."""
    folder = tmp_path_factory.mktemp("confined")
    shutil.copytree(two_runs[0], folder / "data")
    (folder / "secret.csv").write_text("word\nhush\n")
    (folder / "data" / "way").symlink_to(folder)
    (folder / KEY).mkdir()  # beside the data root, where a link in it leads
    with duckdb.connect() as other:
        other.execute(f"COPY (SELECT 'hush') TO '{folder}/{KEY}/a.parquet'")
    (folder / "data" / "sae" / KEY).symlink_to(folder / KEY)
    return folder / "data"


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(home, files=False) as connection:
        yield connection


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


NOT_THERE = (
    "FROM read_text('deconstruct://data/way/secret.csv')",
    "FROM read_blob('deconstruct://data/deconstruct.duckdb')",
    "FROM glob('deconstruct://data/way/*')",
)
"""What has the name of a place in the data root, and is no table of an artifact."""

READS = (
    *NOT_THERE,
    "FROM read_csv('{out}/secret.csv')",
    "FROM '{out}/secret.csv'",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/proc/self/environ')",
    "FROM glob('{out}/*')",
    "FROM read_text('{home}/way/secret.csv')",
    "FROM read_text('deconstruct://data/../secret.csv')",
    "FROM read_text('deconstruct://data-other/secret.csv')",
    "FROM read_text('deconstruct://{out}/secret.csv')",
    "FROM glob('deconstruct:///*')",
    "FROM read_parquet('deconstruct://data/sae/{key}/a.parquet')",
    "FROM sniff_csv('{out}/secret.csv')",
    "FROM parquet_metadata('{out}/secret.csv')",
    "FROM read_json('https://example.org/a.json')",
    "FROM read_parquet('s3://bucket/a.parquet')",
    "SELECT getenv('HOME')",
    "FROM duckdb_secrets()",
    "ATTACH '{out}/x.duckdb' AS x",
    "ATTACH '{home}/x.duckdb' AS x",
    "ATTACH 'deconstruct://data/x.duckdb' AS x",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}/secret.csv'",
    "CALL dbgen(sf = 0)",
    "CREATE SECRET (TYPE s3)",
    "CREATE PERSISTENT SECRET (TYPE s3)",
    "IMPORT DATABASE '{out}'",
    "COPY runs FROM '{out}/secret.csv'",
)
WRITES = (
    "COPY (SELECT 1) TO '{out}/x.csv'",
    "COPY (SELECT 1) TO '{home}/x.csv'",
    "COPY (SELECT 1) TO 'deconstruct://data/x.csv'",
    "COPY (SELECT 1) TO 'deconstruct://data/x.parquet' (USE_TMP_FILE false)",
    "COPY (SELECT 1 AS a, 2 AS b) TO 'deconstruct://data/x' (PARTITION_BY a)",
    "COPY (SELECT 1) TO '{home}/deconstruct.duckdb' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{home}/{tables}'",
    "COPY (SELECT 1) TO 'deconstruct://data/{tables}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '/tmp/deconstruct/x.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{home}/x.csv'",
    "WITH a AS (COPY (SELECT 1) TO '{home}/x.csv') FROM a",
    "FROM query('WITH a AS (COPY (SELECT 1) TO ''{home}/x.csv'') FROM a')",
    "PREPARE p AS COPY (SELECT 1) TO '{home}/x.csv'; EXECUTE p",
    "EXPORT DATABASE '{out}/x'",
    "EXPORT DATABASE 'deconstruct://data/x'",
    "COPY FROM DATABASE deconstruct TO memory; COPY (SELECT 1) TO '{home}/x.csv'",
    "DELETE FROM runs",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW latents",
)
SETTINGS = (
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET temp_directory = '{out}'",
    "SET profiling_output = '{out}/x'",
    "SET lock_configuration = false",
    "SET allowed_configs = ['temp_directory']",
    "CALL enable_logging(storage_path = '{out}/x')",
    "SET autoload_known_extensions = true",
    "RESET allowed_directories",
)


@pytest.mark.parametrize("query", [*READS, *WRITES, *SETTINGS])
def test_it_is_refused_in_a_sentence(
    store: duckdb.DuckDBPyConnection, home: Path, two_runs: TwoRuns, query: str
) -> None:
    before = listing(home.parent)
    tables = two_runs[1].artifacts["latents"].file("latents.parquet").relative_to(two_runs[0])
    whole = query.format(home=home, out=home.parent, tables=tables, key=KEY)
    if query in NOT_THERE:
        assert store.execute(whole).fetchall() == []
        return
    with pytest.raises(duckdb.Error) as raised:
        store.execute(whole).fetchall()
    said = pages.sentence(raised.value)
    assert "Traceback" not in said
    assert "\n" not in said
    assert listing(home.parent) == before
    if "disabled by configuration" in str(raised.value) and "file system" in str(raised.value):
        assert "--files" in said


def test_what_is_the_stores_own_works(store: duckdb.DuckDBPyConnection, two_runs: TwoRuns) -> None:
    with open_store(two_runs[0]) as free:
        for query in (
            "SELECT run_id, count(*), sum(token_index) FROM latents GROUP BY 1 ORDER BY 1",
            "FROM top_contexts('demo', 7)",
            "FROM label_enrichment('other')",
            "FROM documents ORDER BY ALL",
        ):
            assert store.execute(query).fetchall() == free.execute(query).fetchall()
    store.execute("CREATE TEMP TABLE own AS SELECT * FROM latents LIMIT 3")
    store.execute("SET VARIABLE latent = 7")
    store.execute("SET TimeZone = 'UTC'")
    found = store.execute("SELECT count(*), getvariable('latent') FROM own").fetchall()
    assert found == [(3, 7)]


def test_links_to_a_data_root_and_odd_names(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a link").symlink_to(home)
    shutil.copytree(home, tmp_path / "it's [odd]*", symlinks=True)
    for name in ("a link", "it's [odd]*"):
        with open_store(tmp_path / name, files=False) as connection:
            assert len(connection.execute("FROM top_contexts('demo', 7)").fetchall()) == 20


def test_many_threads_read_one_file(home: Path, store: duckdb.DuckDBPyConnection) -> None:
    """DuckDB seeks and reads in two steps; a position that threads share would mix them up."""
    big = next((home / "latents").glob("*")) / "big.parquet"
    with duckdb.connect() as other:
        other.execute(
            "COPY (SELECT range AS i, hash(range) AS h FROM range(2_000_000)) "
            f"TO '{big}' (ROW_GROUP_SIZE 20_000)"
        )
        told = other.execute(f"SELECT sum(i), bit_xor(h) FROM '{big}'").fetchall()
    query = (
        f"SELECT sum(i), bit_xor(h) FROM read_parquet('deconstruct://data/{big.relative_to(home)}')"
    )
    for _ in range(5):
        assert store.execute(query).fetchall() == told
    big.unlink()


def test_one_process_holds_both_kinds(home: Path) -> None:
    with open_store(home) as free, open_store(home, files=False) as confined:
        assert free.execute("FROM read_text('/etc/hostname')").fetchall()
        with pytest.raises(duckdb.PermissionException):
            confined.execute("FROM read_text('/etc/hostname')")
        assert free.execute("FROM read_text('/etc/hostname')").fetchall()


def asked(home: Path, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["sql", "--home", str(home), *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command(home: Path, tmp_path: Path) -> None:
    own = f"FROM read_csv('{home.parent}/secret.csv')"
    code, said = asked(home, own)
    assert code == 1
    assert said.startswith("error: ")
    assert "with --files" in said
    assert "Permission Error" not in said
    code, said = asked(home, own, "--files")
    assert (code, "hush" in said) == (0, True)
    code, said = asked(home, f"COPY runs TO '{tmp_path}/runs.csv'")
    assert code == 1
    assert not list(tmp_path.iterdir())
    assert asked(home, f"COPY runs TO '{tmp_path}/runs.csv'", "--files")[0] == 0
    assert (tmp_path / "runs.csv").exists()
    for ending in ("csv", "json", "parquet", "txt"):
        file = tmp_path / f"answer.{ending}"
        assert asked(home, "FROM latents", "--output", file)[0] == 0
        assert file.stat().st_size
    other = tmp_path / "other"
    shutil.copytree(home, other, symlinks=True)
    attach = f"ATTACH '{other / FILE}' AS other (READ_ONLY); SELECT count(*) FROM other.latents"
    assert "--files" in asked(home, attach)[1]
    assert asked(home, attach, "--files")[0] == 0


def test_files_of_the_store_that_cant_be_written_are_read(home: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write anything")
    home.chmod(0o500)
    try:
        assert asked(home, "FROM top_contexts('demo', 7)")[0] == 0
    finally:
        home.chmod(0o700)


def test_files_that_were_read_are_given_back(two_runs: TwoRuns) -> None:
    """DuckDB closes none of them: a process that asks for long would run out."""
    home = two_runs[0]

    def ask() -> int:
        with open_store(home, files=False, verify=False) as store:
            store.execute("SELECT count(*) FROM latents").fetchall()
        return len(os.listdir("/proc/self/fd"))

    before = ask()
    assert max(ask() for _ in range(5)) <= before + 1
