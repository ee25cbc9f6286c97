"""Asks every question of docs/sql.md again and writes the answers, and docs/schema.md, anew.

    .venv/bin/python docs/refresh.py [--home data]
    .venv/bin/python docs/refresh.py --schema      # docs/schema.md alone, which needs no run

The data root must hold the three runs that docs/sql.md names.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
from rich.console import Console

from deconstruct.store import open_store
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.describe import schema_page
from deconstruct.store.migrate import migrate
from deconstruct.store.render import write_table

DOCS = Path(__file__).parent
QUESTION = re.compile(r"```sql\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)


def answer(store: duckdb.DuckDBPyConnection, query: str) -> str:
    """A query's result as ``deconstruct sql`` prints it."""
    page = io.StringIO()
    write_table(store.execute(query), Console(file=page, width=1000, highlight=False), 20, True)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def answered(page: str, ask: Callable[[str], str]) -> str:
    """The page with each query followed by its answer."""
    return QUESTION.sub(lambda m: f"```sql\n{m[1]}```\n\n```text\n{ask(m[1])}\n```\n", page)


def empty_store() -> duckdb.DuckDBPyConnection:
    """The schema as this release makes it, without any run."""
    store = duckdb.connect()
    migrate(store, "an empty store")
    create_views(store, Path("nowhere"))
    create_macros(store)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home")
    parser.add_argument("--schema", action="store_true")
    arguments = parser.parse_args()
    (DOCS / "schema.md").write_text(schema_page(empty_store()))
    if not arguments.schema:
        with open_store(arguments.home) as store:
            page = DOCS / "sql.md"
            page.write_text(answered(page.read_text(), lambda query: answer(store, query)))


if __name__ == "__main__":
    main()
