"""One latent: what it fires on, how strongly, with whom; and what somebody noted of it."""

from __future__ import annotations

import random as chance
from http import HTTPStatus

from starlette.responses import RedirectResponse, Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.notes import Changed, Notes, Refused, about, sae_key
from deconstruct.explorer.pages.figures import OF_LATENT
from deconstruct.report.reading import latent as reading
from deconstruct.report.reading import partners as going
from deconstruct.store.query import QueryError


def _number(asked: Asked) -> int:
    return int(asked.request.path_params["latent"])


def _latent(asked: Asked) -> Response:
    """The page; its slow parts come after."""
    number, store, run = _number(asked), asked.store, asked.run_id
    facts = reading.facts(store, run, number)
    return asked.page(
        "latent.html",
        facts=facts,
        figures=tuple(OF_LATENT),
        contexts=reading.top_contexts(store, run, number),
        logits=reading.logits(store, run, number),
        explanation=reading.explanation(store, run, number),
        scores=reading.scores(store, run, number),
        note=Notes(asked.app.home).one(sae_key(store, run), number),
        theirs=None,
    )


def _random(asked: Asked) -> Response:
    """On to any latent that fires."""
    living = asked.store.execute(
        "SELECT latent FROM features WHERE run_id = ? AND NOT dead", [asked.run_id]
    ).fetchall()
    if not living:
        raise QueryError(f"no latent of run {asked.run_id} fires")
    to = asked.links.latent(int(chance.choice(living)[0]))
    return RedirectResponse(to, HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _bands(asked: Asked) -> Response:
    """Contexts from its whole range."""
    number = _number(asked)
    largest = reading.facts(asked.store, asked.run_id, number).max_activation
    bands = reading.bands(asked.store, asked.run_id, number)
    return asked.page("latent_bands.html", bands=bands, largest=largest, number=number)


def _labels(asked: Asked) -> Response:
    """Labels of the documents that it fires in."""
    lifts = going.labels(asked.store, asked.run_id, _number(asked))
    return asked.page("latent_labels.html", lifts=lifts)


def _tokens(asked: Asked) -> Response:
    """Tokens that it fires on most often."""
    tokens = going.top_tokens(asked.store, asked.run_id, _number(asked))
    return asked.page("latent_tokens.html", tokens=tokens)


def _partners(asked: Asked) -> Response:
    """Latents that fire with it, and those that point its way."""
    number = _number(asked)
    return asked.page(
        "latent_partners.html",
        partners=going.fires_with(asked.store, asked.run_id, number),
        neighbours=reading.neighbours(asked.store, asked.run_id, number),
    )


def _counterparts(asked: Asked) -> Response:
    """Its like in other runs."""
    number = _number(asked)
    found = reading.matched(asked.store, asked.run_id, number)
    if not found or asked.word("all"):
        found = [*found, *reading.across(asked.store, asked.run_id, number)]
    return asked.page("latent_counterparts.html", found=found)


def _note(asked: Asked) -> Response:
    """A star or a note is kept; then on to the latent again."""
    number = _number(asked)
    on = about(asked.store, asked.run_id, number)
    notes = Notes(asked.app.home)
    if asked.form.get("what") == "star":
        notes.star(on, asked.form.get("starred") == "1")
    elif asked.form.get("what") == "note":
        text = asked.form.get("text", "").replace("\r\n", "\n").strip()
        try:
            notes.write(on, text, asked.form.get("seen", ""))
        except Changed as changed:
            return asked.page(
                "note_again.html", HTTPStatus.CONFLICT, number=number, told="", title="This note "
                "was changed elsewhere", seen=changed.note.changed,
                text=f"{changed.note.text}\n\n{text}",
            )  # fmt: skip
        except Refused as refused:
            return asked.page(
                "note_again.html", HTTPStatus.BAD_REQUEST, number=number, told=str(refused),
                title="This note is not saved yet", seen=asked.form.get("seen", ""), text=text,
            )  # fmt: skip
    else:
        raise QueryError("this form has neither a star nor a note")
    return asked.back(asked.links.latent(number))


_AT = "/run/{run}/latent/{latent:int}"
PAGES = (
    Page(_AT, _latent),
    Page("/run/{run}/latent/random", _random),
    Page(f"{_AT}/bands", _bands),
    Page(f"{_AT}/tokens", _tokens),
    Page(f"{_AT}/labels", _labels),
    Page(f"{_AT}/partners", _partners),
    Page(f"{_AT}/counterparts", _counterparts),
    Page(f"{_AT}/note", _note, ("POST",)),
)
