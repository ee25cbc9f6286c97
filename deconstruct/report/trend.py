"""How the runs of a name went, night after night: one HTML file, like that of a run."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import duckdb

from deconstruct.report.page import drawn_all, rendered, save
from deconstruct.report.reading.records import Record, records
from deconstruct.report.reading.verdict import Change
from deconstruct.report.sections.look import Look
from deconstruct.report.sections.overview import trend as executions
from deconstruct.store import QueryError
from deconstruct.store.query import REPORTS

_LAST = """
SELECT r.site, e.analysis, arg_max(e.run_id, e.execution) AS run_id
FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
WHERE e.name = $name GROUP BY ALL ORDER BY r.site, e.analysis
"""
_KNOWN = """
SELECT name, max(execution) AS last FROM executions GROUP BY name ORDER BY last DESC LIMIT 5
"""


class Series(NamedTuple):
    """The runs of a name at a site. it: as the section of a report has it; run: the newest;
    changes: its differences to the one before."""

    site: str
    analysis: str
    run: Record
    base: str | None
    it: Record
    changes: list[Change]


def series(store: duckdb.DuckDBPyConnection, name: str) -> list[Series]:
    """A series for each site and analysis of a name. Raises ``QueryError`` if no run has it."""
    found = []
    for row in records(store, _LAST, name=name):
        look = Look(store, row["run_id"], None, called=(name, row["analysis"]))
        it = dict(executions(look))
        it["figures"] = drawn_all(it["figures"])
        found.append(Series(row["site"], row["analysis"], look.run, look.base, it, look.changes))
    if not found:
        known = ", ".join(repr(row["name"]) for row in records(store, _KNOWN)) or "none"
        raise QueryError(f"--name {name!r} is the name of no run; the newest are {known}")
    return found


def place(home: Path, name: str) -> Path:
    """Where the page of a name lies below a data root."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return home / REPORTS / f"trend-{plain}-{digest}.html"


def write(store: duckdb.DuckDBPyConnection, name: str, file: Path) -> Path:
    """Write the page of a name; the file takes its name once it is whole."""
    return save(rendered("report/trend_page.html", name=name, series=series(store, name)), file)
