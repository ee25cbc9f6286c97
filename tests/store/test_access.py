"""Ways to the store beside the commands: Python, pandas, Arrow, a plain shell, S3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from pyarrow import fs
from support.store_artifacts import Planted
from typer.testing import CliRunner

import deconstruct
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.store import export_run, garbage, open_store, run_id_of
from deconstruct.store.rewrite import FILE

TwoRuns = tuple[Path, Planted, Planted]


def test_importing_the_package_loads_nothing() -> None:
    code = (
        "import sys, deconstruct; heavy = {'duckdb', 'pydantic', 'torch', 'pyarrow', 'numpy'}; "
        "print(heavy & set(sys.modules)); print(deconstruct.open_store.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "open_store"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        deconstruct.nothing  # noqa: B018


def test_pandas_and_arrow(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    firings = (demo.activations > 0).sum()
    with deconstruct.open_store(home) as store:
        query = "SELECT latent, activation FROM latents WHERE run_id = resolve_run('demo')"
        assert store.sql(query).df()["activation"].sum() == pytest.approx(demo.activations.sum())
        assert store.sql(query).to_arrow_table().num_rows == firings
        documents = store.sql("FROM documents WHERE run_id = resolve_run('demo')").df()
        assert list(documents["label"]) == demo.labels
        top = store.sql("FROM top_contexts($run, 7)", params={"run": "demo"}).df()
        assert len(top) == 20


def test_cursors_for_threads_of_a_store_that_was_opened_once(two_runs: TwoRuns) -> None:
    with deconstruct.open_store(two_runs[0]) as store:
        cursor = store.cursor()
        assert cursor.execute("SELECT count(DISTINCT run_id) FROM latents").fetchall() == [(2,)]


def test_a_plain_shell_needs_no_setting(two_runs: TwoRuns) -> None:
    with duckdb.connect(two_runs[0] / FILE, read_only=True) as shell:
        assert len(shell.execute("FROM top_contexts('demo', 7)").fetchall()) == 20
        assert shell.execute("SELECT count(DISTINCT run_id) FROM tokens").fetchall() == [(2,)]


@pytest.fixture(scope="module")
def bucket(two_runs: TwoRuns, s3_server: str) -> str:
    """URL of the data root on a local S3 server."""
    keys = {"access_key": "test", "secret_key": "test", "region": "us-east-1"}
    s3 = fs.S3FileSystem(
        endpoint_override=f"http://{s3_server}", allow_bucket_creation=True, **keys
    )
    s3.create_dir("team")
    fs.copy_files(str(two_runs[0]), "team/it's data", destination_filesystem=s3)
    return f"s3://test:test@team/it's%20data?endpoint_override={s3_server}&scheme=http"


def test_s3(two_runs: TwoRuns, bucket: str) -> None:
    queries = (
        "SELECT run_id, name, fvu FROM runs ORDER BY published",
        "FROM top_contexts('demo', 7)",
        "FROM co_firing('demo', 4, 5)",
        "FROM label_enrichment('other')",
        "SELECT run_id, count(*), sum(activation) FROM latents GROUP BY run_id ORDER BY run_id",
    )
    with open_store(two_runs[0]) as here, open_store(bucket) as there:
        for query in queries:
            assert there.execute(query).fetchall() == here.execute(query).fetchall()
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            there.execute("DELETE FROM runs")


def test_reading_commands_take_a_url(
    two_runs: TwoRuns, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DECONSTRUCT_HOME", bucket)
    result = CliRunner().invoke(app, ["latent", "demo", "7", "--contexts", "2"])
    assert result.exit_code == 0, result.output
    assert "«goal»" in result.stdout
    assert run_id_of(two_runs[1].artifacts) in result.stdout
    for attempt in (
        lambda: export_run(None, "demo", tmp_path / "x.duckdb"),
        lambda: garbage(None),
    ):
        with pytest.raises(StorageError, match="can only be queried"):
            attempt()


def test_a_url_without_a_store_is_said(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"has no deconstruct\.duckdb") as raised:
        open_store(bucket.replace("data", "nothing"))
    assert "test:test" not in str(raised.value)
    with pytest.raises(StorageError, match="can't be read"):
        open_store("nonsense://team/data")
