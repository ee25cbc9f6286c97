"""A store under a URL is a jail like one in a folder: its tables are read, and nothing else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import fsspec
import pytest
from support.store_artifacts import Planted
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.store import open_store, pages, remote
from deconstruct.store.rewrite import FILE

KEY = "ab" * 16
SECRET = "hush-hush"
TwoRuns = tuple[Path, Planted, Planted]


@pytest.fixture(scope="module")
def home(two_runs: TwoRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a file that is no table, and a link to a table that is not its own."""
    folder = tmp_path_factory.mktemp("url")
    shutil.copytree(two_runs[0], folder / "data")
    (folder / "data" / "notes.csv").write_text(f"word\n{SECRET}\n")
    tables = two_runs[1].artifacts["latents"].file("latents.parquet")
    (folder / "data" / "sae" / KEY).mkdir()
    (folder / "data" / "sae" / KEY / "a.parquet").symlink_to(tables)
    return folder / "data"


@pytest.fixture(scope="module", params=["file", "memory"])
def url(request: pytest.FixtureRequest, home: Path) -> str:
    if request.param == "file":
        return f"file://{home}"
    memory = fsspec.filesystem("memory")
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            memory.pipe(f"/{home.parent.name}/{path.relative_to(home)}", path.read_bytes())
    return f"memory://{home.parent.name}"


@pytest.fixture(scope="module")
def store(url: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(url, files=False) as connection:
        yield connection


def listing(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


PLACES = ("deconstruct://data", "{url}", "{home}", "file:{home}")
QUERIES = (
    "FROM read_text('{place}/notes.csv')",
    "FROM read_blob('{place}/deconstruct.duckdb')",
    "FROM read_text('{place}/../secret.csv')",
    "FROM glob('{place}/*')",
    f"FROM read_parquet('{{place}}/sae/{KEY}/a.parquet')",
    "COPY (SELECT 1) TO '{place}/x.csv'",
    "COPY (SELECT 1) TO '{place}/x.csv' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{place}/deconstruct.duckdb' (USE_TMP_FILE false)",
    "ATTACH '{place}/x.duckdb' AS x",
    "EXPORT DATABASE '{place}/x'",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("query", QUERIES)
def test_nothing_else_is_read_and_nothing_written(
    store: duckdb.DuckDBPyConnection, url: str, home: Path, place: str, query: str
) -> None:
    before = listing(home.parent)
    whole = query.format(place=place.format(url=url, home=home))
    try:
        assert store.execute(whole).fetchall() == []
    except duckdb.Error as error:
        said = pages.sentence(error)
        assert "Traceback" not in said
        assert "\n" not in said
    assert listing(home.parent) == before


def test_what_is_the_stores_own_works(store: duckdb.DuckDBPyConnection, two_runs: TwoRuns) -> None:
    with open_store(two_runs[0]) as free:
        for query in (
            "SELECT run_id, count(*), sum(token_index) FROM latents GROUP BY 1 ORDER BY 1",
            "FROM top_contexts('demo', 7)",
            "FROM documents ORDER BY ALL",
        ):
            assert store.execute(query).fetchall() == free.execute(query).fetchall()


@pytest.mark.parametrize("what", ["pipe", "folder", "text"])
def test_what_is_no_store_is_said_soon(what: str, tmp_path: Path) -> None:
    file = tmp_path / FILE
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    else:
        file.write_text("no database" * 1000)
    with pytest.raises(StorageError) as raised:
        open_store(f"file://{tmp_path}", files=False)
    assert "\n" not in str(raised.value)


def test_a_store_that_never_ends_leaves_room_on_the_disk(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=remote.SPARE + 1000)
    monkeypatch.setattr(remote, "shutil", SimpleNamespace(disk_usage=lambda _: full))
    with pytest.raises(StorageError, match="larger than what is free on the disk"):
        open_store(url)


class Refusing(BaseHTTPRequestHandler):
    """Has a store, and none of the files that its views read."""

    store: bytes

    def do_GET(self) -> None:
        found = self.path.split("?")[0].endswith(FILE)
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.store) if found else 0))
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(self.store)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None: ...


def test_what_a_query_says_of_a_url_has_no_password(two_runs: TwoRuns) -> None:
    Refusing.store = (two_runs[0] / FILE).read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:{SECRET}@127.0.0.1:{server.server_port}/data"
        for query in ("SELECT count(*) AS n FROM runs", "FROM latents", "SELECT artifact_root()"):
            asked = CliRunner().invoke(app, ["sql", query, "--home", url])
            assert SECRET not in asked.output
            assert "Traceback" not in asked.output
        server.shutdown()
