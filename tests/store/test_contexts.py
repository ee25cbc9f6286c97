"""Contexts of latents: each text has one rank, and a cut one keeps the token that it is about."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import duckdb
import pytest
from rich.console import Console
from support.store_artifacts import SPORT_LATENT, plant

from deconstruct.store import open_store, pages, publish, resolve_run
from deconstruct.store.render import CELL_WIDTH, write_table

COPIES = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Over a corpus in which ten documents, that the latent fires on most, are the same text."""
    home = tmp_path_factory.mktemp("copies")
    run = plant(home, documents=3 * (COPIES + 5))
    publish(home, run.record, run.artifacts)
    sport = [doc for doc, label in enumerate(run.labels) if label == run.names[1]][:COPIES]
    tokens = run.artifacts["corpus"].file("tokens.parquet")
    firings = [
        run.artifacts["latents"].file(f"{n}.parquet") for n in ("latents", "latents_by_token")
    ]
    with duckdb.connect() as edit:
        edit.execute("SET VARIABLE sport = ?", [sport])
        edit.execute(f"CREATE TABLE t AS FROM '{tokens}'")
        edit.execute(
            "UPDATE t SET token = CASE WHEN position = 0 THEN '<bos>' WHEN position IN (3, 9) "
            "THEN ' goal' ELSE ' w' || position END WHERE doc_id IN getvariable('sport')"
        )
        edit.execute(f"COPY (FROM t ORDER BY token_index) TO '{tokens}'")
        for file, order in zip(firings, ("latent, activation DESC", "token_index"), strict=True):
            edit.execute(f"CREATE OR REPLACE TABLE f AS FROM '{file}'")
            edit.execute(
                "UPDATE f SET activation = activation + 10 WHERE latent = ? AND token_index IN "
                "(SELECT token_index FROM t WHERE doc_id IN getvariable('sport'))",
                [SPORT_LATENT],
            )
            edit.execute(f"COPY (FROM f ORDER BY {order}) TO '{file}'")
    with open_store(home, verify=False) as connection:  # its files are not what they were
        yield connection


@pytest.mark.parametrize("width", [2, 10])
def test_each_text_has_one_rank(store: duckdb.DuckDBPyConnection, width: int) -> None:
    found = store.execute(
        "SELECT rank, context FROM top_contexts('demo', ?, n := 8, width := ?)",
        [SPORT_LATENT, width],
    ).fetchall()
    assert [rank for rank, _ in found] == list(range(1, 9))
    bare = [re.sub("[«»‹›]", "", context) for _, context in found]
    assert len(set(bare)) == 8


def test_equal_texts_of_other_questions(store: duckdb.DuckDBPyConnection) -> None:
    for question in ("co_firing('demo', 4, 5, n := 8)", "worst_tokens('demo', n := 8)"):
        found = store.execute(f"SELECT context FROM {question}").fetchall()
        bare = [re.sub("[«»‹›]", "", context) for (context,) in found]
        assert len(set(bare)) == len(bare) == 8


def test_the_page_of_a_latent_has_different_texts(store: duckdb.DuckDBPyConnection) -> None:
    console = Console(file=io.StringIO(), width=300)
    run = resolve_run(store, "demo")
    console.print(*pages.latent(store, run, SPORT_LATENT, 5, 8, False), sep="\n")
    assert isinstance(console.file, io.StringIO)
    contexts = console.file.getvalue().split("Strongest contexts")[1].strip().splitlines()[1:]
    texts = [re.sub("[«»‹›]", "", line.split("runs", 1)[1]).strip() for line in contexts]
    assert len(set(texts)) == len(texts) == 5


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("macro", ["top_contexts('demo', 0, n := 40)", "co_firing('demo', 4, 5)"])
def test_a_context_is_cut_round_the_token_that_it_is_about(
    store: duckdb.DuckDBPyConnection, macro: str, width: int
) -> None:
    """In the middle of its long text, and once: where else the latent fires is marked otherwise."""
    query = f"SELECT token, context FROM {macro.replace(')', ', width := 40)')}"
    console = Console(file=io.StringIO(), width=width)
    write_table(store.execute(query), console, 100, False)
    assert isinstance(console.file, io.StringIO)
    page = console.file.getvalue()
    assert "texts are cut" in page
    rows = store.execute(query).fetchall()
    long = [context for _, context in rows if len(context) > CELL_WIDTH]
    assert len(long) > 5
    assert all(context.count("«") == context.count("»") == 1 for _, context in rows)
    assert page.count("«") == page.count("»") == len(rows)


def test_guillemets_of_the_text_itself_do_not_lead_the_cut_astray() -> None:
    text = "« " + "a" * 100 + " «goal» " + "b" * 100
    console = Console(file=io.StringIO(), width=200)
    with duckdb.connect() as connection:
        result = connection.execute("SELECT ' goal' AS token, ? AS context", [text])
        write_table(result, console, 10, False)
    assert isinstance(console.file, io.StringIO)
    assert "«goal»" in console.file.getvalue()
