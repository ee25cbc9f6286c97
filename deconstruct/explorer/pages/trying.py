"""A text of one's own: which latents fire on it. The one page that needs the language model.

The model is loaded when the first text comes, and kept for the next, as that of one run alone.
Nothing is written, and a text goes nowhere but into the model; it comes with a form, so that no
address and no history has it.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from deconstruct.common.errors import DataError, DeconstructError
from deconstruct.explorer.asked import Asked, Page
from deconstruct.report.reading.runs import newest
from deconstruct.store.query import QueryError, resolve_run

if TYPE_CHECKING:
    from deconstruct.firing import Firer, Firings

LONGEST = 20_000
"""Characters of a text: what is read in seconds, and shown whole."""
LISTED = 12
"""Latents of each list."""
RUNS = 50
"""Runs that are offered."""


class Shown(NamedTuple):
    """A token. activation: of the chosen latent or, where none is chosen, of the strongest; None
    where that is silent, or the token is not recorded. tip: latent and activation."""

    token: str
    activation: float | None
    latent: int | None


class _Kept:
    """The reader of one run, with its model once a text has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[Path, str] | None = None
        self._firer: Firer | None = None

    def of(self, home: Path, run_id: str) -> Firer:
        """That of a run; another's is given up for it."""
        from deconstruct.firing import Firer

        with self._lock:
            if self._firer is None or self._key != (home, run_id):
                self._firer = None  # before the next model comes
                self._firer, self._key = Firer(run_id, home), (home, run_id)
            return self._firer

    def loaded(self, home: Path, run_id: str) -> bool:
        """Whether a run's model is in memory."""
        firer = self._firer if self._key == (home, run_id) else None
        return firer is not None and firer.loaded


_kept = _Kept()


def _trying(asked: Asked) -> Response:
    """The form; with a text, what fires on it."""
    named = asked.word("run")
    run_id = resolve_run(asked.store, named or "latest")
    if not named:
        return RedirectResponse(f"/try?{urlencode({'run': run_id})}", HTTPStatus.SEE_OTHER)
    if asked.request.method == "GET":
        return _page(asked, run_id)
    try:
        return _page(asked, run_id, **_tried(asked, run_id))
    except QueryError:
        raise
    except DeconstructError as error:  # the text stays where it was written
        return _page(asked, run_id, HTTPStatus.BAD_REQUEST, fault=str(error))


def _page(asked: Asked, run_id: str, status: int = HTTPStatus.OK, **found: Any) -> Response:
    nothing = {"fault": "", "found": None, "chosen": None, "shown": (), "only": None, "lists": (),
               "odds": ()}  # fmt: skip
    return asked.page(
        "trying.html",
        status,
        run_id=run_id,
        runs=newest(asked.store)[:RUNS],
        loaded=_kept.loaded(asked.app.home, run_id),
        text=asked.form.get("text", ""),
        other=asked.form.get("other", ""),
        longest=LONGEST,
        **(nothing | found),
    )


def _tried(asked: Asked, run_id: str) -> dict[str, Any]:
    """What the page shows of a text, and of another beside it."""
    fields = (asked.form.get("text", ""), asked.form.get("other", ""))
    for words in fields:
        if len(words) > LONGEST:
            raise DataError(
                f"a text has {len(words):,} characters, and this page takes {LONGEST:,}; shorten "
                "it, or ask deconstruct.fire"
            )
    texts = [words.replace("\r\n", "\n") for words in fields]
    texts = texts if texts[1].strip() else texts[:1]
    found = _kept.of(asked.app.home, run_id).fire(texts)
    chosen = _chosen(asked.form.get("latent", ""), found)
    by = [("activation", "Strongest"), ("lift", "Furthest above their usual")]
    by += [("label", "Speaking for a label")] if found.known.probe is not None else []
    odds = sorted(found.log_odds(0).items(), key=lambda pair: -pair[1])
    return {
        "found": found,
        "chosen": chosen,
        "shown": [_shown(found, number, chosen) for number in range(len(texts))],
        "lists": [(title, key, found.top(LISTED, key, text=0)) for key, title in by],  # type: ignore[arg-type]
        "only": found.only_in(0, 1, LISTED) if len(texts) > 1 else None,
        "odds": odds,
    }


def _chosen(latent: str, found: Firings) -> int | None:
    """The latent that tokens are coloured by. Raises ``QueryError`` for one that is none."""
    if not latent:
        return None
    d_sae = len(found.known.usual)
    if not (latent.isascii() and latent.isdigit() and len(latent) < 12 and int(latent) < d_sae):
        raise QueryError(f"latent {latent[:40]!r}: name a whole number, 0 to {d_sae - 1}")
    return int(latent)


def _shown(found: Firings, number: int, chosen: int | None) -> tuple[list[Shown], float]:
    """A text's tokens, and the activation that has full colour."""
    read = found.texts[number]
    tokens = []
    for place, token in enumerate(read.tokens):
        if read.special[place]:
            continue
        here = dict(found.on_token(number, place))
        latent = next(iter(here), None) if chosen is None else chosen
        tokens.append(Shown(token, None if latent is None else here.get(latent), latent))
    strongest = found.activation if chosen is None else found.activation[found.latent == chosen]
    return tokens, float(strongest.max(initial=0.0))


PAGES = (Page("/try", _trying, ("GET", "POST")),)
