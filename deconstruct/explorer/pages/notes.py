"""All stars and notes."""

from __future__ import annotations

import csv

from starlette.responses import Response

from deconstruct.common.showing import harmless
from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.downloads import Draft, saved, text
from deconstruct.explorer.notes import FIELDS, Notes

SHOWN = 100
"""Rows at a time."""


def _notes(asked: Asked) -> Response:
    """Stars first, then the newest; those of autoencoders that the store has no longer, too."""
    first = asked.number("first", 0)
    notes, total = Notes(asked.app.home).some(first, SHOWN)
    runs = dict(
        asked.store.execute(
            "SELECT s.key, arg_max(r.run_id, r.published) FROM stages AS s "
            "JOIN runs AS r USING (run_id) WHERE s.stage = 'sae' GROUP BY s.key"
        ).fetchall()
    )
    known = {str(run) for (run,) in asked.store.execute("SELECT run_id FROM runs").fetchall()}
    rows = [(n, n.run_id if n.run_id in known else runs.get(n.sae)) for n in notes]
    return asked.page(
        "notes.html",
        rows=rows,
        first=first,
        shown=SHOWN,
        total=total,
        paged="/notes?first={}".format,
    )


def _csv(asked: Asked) -> Response:
    """The same as a file, in which no spreadsheet finds a formula."""
    notes = Notes(asked.app.home)

    def write(draft: Draft) -> None:
        stream = text(draft)
        writer = csv.writer(stream)
        writer.writerow(FIELDS)
        writer.writerows([harmless(cell) for cell in note] for note in notes.all())
        stream.flush()

    return saved("notes.csv", "text/csv", write, "deconstruct notes --output FILE")


PAGES = (Page("/notes", _notes), Page("/notes.csv", _csv))
