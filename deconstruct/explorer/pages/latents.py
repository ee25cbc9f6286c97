"""The latents of a run as a table, and what a search finds."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.notes import Notes, sae_key
from deconstruct.report.reading import search as searching
from deconstruct.report.reading.latents import KINDS, SORTS, Choice, label_names, latents
from deconstruct.store.query import QueryError, resolve_run

SHOWN = 100
"""Rows at a time."""


def _latents(asked: Asked) -> Response:
    """A hundred of them, in an order and of a kind."""
    notes = Notes(asked.app.home).of(sae_key(asked.store, asked.run_id))
    label = asked.word("label")
    choice = Choice(
        asked.word("kind", "living"),
        asked.word("sort", "effect" if label else "density"),
        asked.word("token"),
        label,
        tuple(notes) if asked.word("starred") else None,
    )
    first = asked.number("first", 0)
    rows, total = latents(asked.store, asked.run_id, choice, first, SHOWN)

    def address(**changed: object) -> str:
        now = {"kind": choice.kind, "sort": choice.sort, "token": choice.token, "label": label}
        now |= {"starred": asked.word("starred")} | {k: str(v) for k, v in changed.items()}
        return f"{asked.links.run(part='latents')}?{urlencode({k: v for k, v in now.items() if v})}"

    return asked.page(
        "latents.html", rows=rows, total=total, first=first, shown=SHOWN, choice=choice,
        kinds=tuple(KINDS), sorts=tuple(SORTS), labels=label_names(asked.store, asked.run_id),
        notes=notes, address=address, paged=lambda place: address(first=place),
    )  # fmt: skip


def _search(asked: Asked) -> Response:
    """A number leads to its latent; other words to latents, labels and texts."""
    words = asked.word("q").strip()
    if len(words) > 200:
        raise QueryError("search for 200 characters at most")
    if words.isdecimal() and asked.word("as") != "token":
        d_sae = asked.header.d_sae if asked.header else 0
        if int(words) < d_sae:
            to = asked.links.latent(int(words))
            return RedirectResponse(to, HTTPStatus.SEE_OTHER)
    store, run = asked.store, asked.run_id
    found = bool(words)
    return asked.page(
        "search.html",
        words=words,
        latents=searching.latents_on(store, run, words) if found else [],
        labels=searching.labels(store, run, words) if found else [],
        texts=searching.texts(store, run, words) if found else [],
    )


def _search_newest(asked: Asked) -> Response:
    """The same in the newest run."""
    run = resolve_run(asked.store, "latest")
    to = f"{asked.links.run(run, 'search')}?{urlencode({'q': asked.word('q')})}"
    return RedirectResponse(to, HTTPStatus.SEE_OTHER)


PAGES = (
    Page("/run/{run}/latents", _latents),
    Page("/run/{run}/search", _search),
    Page("/search", _search_newest),
)
