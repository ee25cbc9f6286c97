"""All stars and notes."""

from __future__ import annotations

import csv
import io

from starlette.responses import Response

from deconstruct.common.showing import harmless
from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.notes import FIELDS, Notes


def _notes(asked: Asked) -> Response:
    """Stars first, then the newest; those of autoencoders that the store has no longer, too."""
    notes = Notes(asked.app.home).all()
    runs = dict(
        asked.store.execute(
            "SELECT s.key, arg_max(r.run_id, r.published) FROM stages AS s "
            "JOIN runs AS r USING (run_id) WHERE s.stage = 'sae' GROUP BY s.key"
        ).fetchall()
    )
    known = {str(run) for (run,) in asked.store.execute("SELECT run_id FROM runs").fetchall()}
    rows = [(n, n.run_id if n.run_id in known else runs.get(n.sae)) for n in notes]
    return asked.page("notes.html", rows=rows)


def _csv(asked: Asked) -> Response:
    """The same as a file, in which no spreadsheet finds a formula."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(FIELDS)
    writer.writerows([[harmless(cell) for cell in note] for note in Notes(asked.app.home).all()])
    headers = {
        "Content-Disposition": 'attachment; filename="notes.csv"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


PAGES = (Page("/notes", _notes), Page("/notes.csv", _csv))
