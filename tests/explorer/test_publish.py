"""Runs are published while people look: nothing breaks, and the next page has them."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from support.store_artifacts import plant

from deconstruct.common.errors import StorageError
from deconstruct.explorer.app import Explorer
from deconstruct.explorer.attended import Queries, attended
from deconstruct.explorer.stores import Stores
from deconstruct.store import publish
from deconstruct.store.query import QueryError


def _publish(home: Path, name: str, seed: int = 0) -> None:
    run = plant(home, name, seed=seed)
    publish(home, run.record, run.artifacts)


def test_pages_say_that_there_is_no_store_until_there_is_one(tmp_path: Path) -> None:
    with TestClient(Explorer(tmp_path).application(), base_url="http://127.0.0.1:4300") as client:
        answer = client.get("/")
        assert answer.status_code == 400
        assert "has no store yet" in answer.text
        _publish(tmp_path, "first")
        assert "first" in client.get("/").text


def test_a_reader_in_the_middle_goes_on_and_the_next_one_has_the_new_run(tmp_path: Path) -> None:
    _publish(tmp_path, "first")
    stores = Stores(tmp_path)
    with stores.cursor() as (early, before):
        rows = early.execute("SELECT count(*) FROM runs").fetchall()
        _publish(tmp_path, "second", seed=1)
        with stores.cursor() as (late, after):
            assert after != before
            assert late.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
        assert early.execute("SELECT count(*) FROM runs").fetchall() == rows == [(1,)]
        assert early.execute("SELECT count(*) FROM latents").fetchall()[0][0] > 0
    stores.close()


def test_many_readers_and_publishes_at_a_time(tmp_path: Path) -> None:
    _publish(tmp_path, "run-0")
    ended = threading.Event()
    seen: list[int] = []
    with TestClient(Explorer(tmp_path).application(), base_url="http://127.0.0.1:4300") as client:

        def read(number: int) -> None:
            paths = ("/", "/run/latest", "/run/latest/latents", f"/run/latest/latent/{number}")
            while not ended.is_set():
                for path in paths:
                    answer = client.get(path)
                    assert answer.status_code == 200, answer.text[-500:]
                    if path == "/":
                        seen.append(answer.text.count("run-"))

        with ThreadPoolExecutor(6) as pool:
            readers = [pool.submit(read, number) for number in range(6)]
            try:
                for number in range(1, 6):
                    _publish(tmp_path, f"run-{number}", seed=number)
                    assert f"run-{number}" in client.get("/").text
            finally:
                ended.set()
            for reader in readers:
                reader.result()
    assert len(seen) > 6


def test_the_store_can_do_no_harm(tmp_path: Path) -> None:
    _publish(tmp_path, "first")
    stores = Stores(tmp_path)
    with stores.cursor() as (cursor, _):
        for harm in (
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            "FROM read_text('/etc/passwd')",
            "CREATE TABLE mine AS SELECT 1",
            "SET memory_limit = '9GB'",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                cursor.execute(harm)
    with stores.apart() as own:  # whoever leaves it in disorder does so for himself
        own.execute("USE memory")
        own.execute("DETACH deconstruct")
    with stores.cursor() as (cursor, _):
        assert cursor.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
        assert cursor.execute("SELECT current_setting('memory_limit')").fetchall() != [("9GB",)]
    stores.close()


def test_a_store_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    _publish(tmp_path, "first")
    stores = Stores(tmp_path)
    with stores.cursor():
        pass
    (tmp_path / "deconstruct.duckdb").unlink()
    with pytest.raises(StorageError, match="has no store yet"), stores.cursor():
        pass


@pytest.mark.parametrize("leaves", [True, False])
def test_queries_end_when_nobody_waits_and_when_they_take_too_long(
    tmp_path: Path, leaves: bool
) -> None:
    _publish(tmp_path, "first")
    stores = Stores(tmp_path)
    ended = threading.Event()

    def work(queries: Queries) -> None:
        try:
            with stores.cursor() as (cursor, _):
                queries.attend(cursor)
                cursor.execute("SELECT count(*) FROM range(10000000000) AS a(i) WHERE hash(i) = 1")
        finally:
            ended.set()

    async def receive() -> dict[str, str]:
        if not leaves:
            await asyncio.sleep(600)
        return {"type": "http.disconnect"}

    begun = time.monotonic()
    with pytest.raises(QueryError, match="was stopped"):
        asyncio.run(
            attended(Request({"type": "http"}, receive), work, 600 if leaves else 0.3)  # type: ignore[arg-type]
        )
    assert ended.is_set()
    assert time.monotonic() - begun < 20
    stores.close()
