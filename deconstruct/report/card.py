"""The card of a latent: a piece of HTML that goes anywhere, into a notebook or a file of its own.

It carries its look with it, under a class of its own, and needs no script: values are told on hover
and on the keyboard's focus by the style alone. It asks nobody for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
from jinja2 import Environment
from markupsafe import Markup

from deconstruct.report.chart import Missing
from deconstruct.report.figures.latent import activations
from deconstruct.report.html import Drawn, drawn, environment, page_policy, static
from deconstruct.report.reading import latent as reading
from deconstruct.report.reading import partners as going
from deconstruct.store.query import resolve_run
from deconstruct.store.render import whole

CONTEXTS, IN_BAND, WIDTH = 8, 3, 14
"""The strongest contexts, those of each part of the range, and tokens on each side."""
_ABOUT = """
SELECT coalesce(
    (SELECT arg_max(n.name, n.last_execution) FROM names AS n WHERE n.run_id = r.run_id), r.name
), r.model, r.site FROM runs AS r WHERE r.run_id = ?
"""


@dataclass(frozen=True)
class Card:
    """What there is to see of a latent. A notebook shows it; `write` makes it a page."""

    run_id: str
    name: str
    model: str
    site: str
    facts: reading.Facts
    contexts: list[reading.Context]
    bands: list[reading.Band]
    tokens: list[going.TopToken]
    logits: dict[str, list[tuple[str, float]]]
    labels: list[going.Lift]
    neighbours: list[reading.Neighbour]
    explanation: tuple[str, str] | None
    histogram: Drawn | None

    def __repr__(self) -> str:
        return f"<Card of latent {self.facts.latent} of run {self.run_id}>"

    def _repr_html_(self) -> str:
        """The card as a fragment of a page."""
        return self._rendered("card.html")

    def page(self) -> str:
        """The card as a page that opens from a disk, with a policy that lets it run and fetch
        nothing."""
        return self._rendered("card_page.html")

    def write(self, path: Path) -> Path:
        """Write the page to ``path``, whole or not at all. Raises ``OSError``."""
        with whole(path) as draft:
            draft.write_text(self.page(), encoding="utf-8")
        return path

    def _rendered(self, template: str) -> str:
        style, around = static("card.css"), static("card_page.css")
        return (
            _templates()
            .get_template(template)
            .render(
                card=self,
                links=_Nowhere(),
                style=Markup(style),
                around=Markup(around),
                policy=page_policy([style, around], []),
            )
        )


class _Nowhere:
    """Links of a card, which stands alone."""

    def latent(self, number: int) -> None:
        """There is no page of another latent beside it."""


def card(
    store: duckdb.DuckDBPyConnection,
    run: str,
    latent: int,
    *,
    contexts: int = CONTEXTS,
    width: int = WIDTH,
) -> Card:
    """The card of a latent: how often and how strongly it fires, on what, what it speaks for.

    store: as `deconstruct.open_store` gives it. run: as commands take it. contexts: the strongest,
    of different texts; width: tokens on each side. Shown are its density, a histogram of its
    activations, contexts from the top and from each part of its range, the tokens that it fires on
    and that its direction promotes and suppresses, the lift of its documents' labels, and its
    nearest directions. They say when it fires; what it does to the model, ``deconstruct steer``
    tries.

    Raises ``QueryError`` for an unknown run or latent.
    """
    run_id = resolve_run(store, run)
    facts = reading.facts(store, run_id, latent)
    [(name, model, site)] = store.execute(_ABOUT, [run_id]).fetchall()
    return Card(
        run_id=run_id,
        name=str(name),
        model=str(model),
        site=str(site),
        facts=facts,
        contexts=reading.top_contexts(store, run_id, latent, contexts, width),
        bands=reading.bands(store, run_id, latent, IN_BAND, width),
        tokens=going.top_tokens(store, run_id, latent),
        logits=reading.logits(store, run_id, latent),
        labels=going.labels(store, run_id, latent),
        neighbours=reading.neighbours(store, run_id, latent, 5),
        explanation=reading.explanation(store, run_id, latent),
        histogram=_histogram(store, run_id, latent),
    )


def _histogram(store: duckdb.DuckDBPyConnection, run_id: str, latent: int) -> Drawn | None:
    try:
        return drawn(activations(store, run_id, latent))
    except Missing:  # it never fires
        return None


@cache
def _templates() -> Environment:
    return environment()
