"""``/run/ID/labels`` and ``/run/ID/errors``: what latents know of labels; where a probe errs."""

from __future__ import annotations

from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.pages.figures import OF_RUN
from deconstruct.report.reading.corpus import labels as reading
from deconstruct.report.reading.latent import facts, top_contexts
from deconstruct.store import QueryError
from deconstruct.store.pages import check_latent
from deconstruct.store.render import records_of

SHOWN = 20
CONTEXTS = 3
"""Latents of a label whose contexts are shown, and contexts of each."""
FIGURES = ("probe_curve", "representations", "learning_curve")


def _labels(asked: Asked) -> Response:
    asked.app.ready.begin(asked.run_id)
    there = reading.labels(asked.store, asked.run_id)
    label, against = _known(asked, there), _against(asked, there)
    return asked.page(
        "labels.html", labels=there, label=label, against=against,
        telling=[] if against else reading.telling(asked.store, asked.run_id, label, SHOWN),
        confusion=reading.confusion(asked.store, asked.run_id), contexts=CONTEXTS,
        figures=[name for name in FIGURES if name in OF_RUN],
    )  # fmt: skip


def _known(asked: Asked, there: list[reading.Label]) -> str:
    """The label of the address, or the first."""
    label = asked.word("label") or there[0].name
    if label not in {one.name for one in there}:
        raise QueryError(f"run {asked.run_id} has no label {label[:60]!r}")
    return label


def _against(asked: Asked, there: list[reading.Label]) -> str | None:
    """The one label that the label of the address is told from; None: from all others."""
    against = asked.word("against")
    if against and against not in {one.name for one in there}:
        raise QueryError(f"run {asked.run_id} has no label {against[:60]!r}")
    return None if against in ("", _known(asked, there)) else against


def _telling(asked: Asked) -> Response:
    """The latents of a label, where none stand ready."""
    there = reading.labels(asked.store, asked.run_id)
    label, against = _known(asked, there), _against(asked, there)
    found = reading.telling(asked.store, asked.run_id, label, SHOWN, slowly=True, against=against)
    return asked.page(
        "label_latents.html", telling=found, label=label, against=against, contexts=CONTEXTS
    )


def _contexts(asked: Asked) -> Response:
    """A few contexts of a latent."""
    latent = asked.number("latent", 0)
    check_latent(asked.store, asked.run_id, latent)
    largest = facts(asked.store, asked.run_id, latent).max_activation
    found = top_contexts(asked.store, asked.run_id, latent, CONTEXTS, width=14)
    return asked.page("label_contexts.html", found=found, largest=largest, latent=latent)


def _probes(asked: Asked) -> Response:
    """The probe table, which takes a while."""
    rows = records_of(asked.store.execute("FROM probe_table(?)", [asked.run_id]))
    return asked.page("label_probes.html", rows=rows)


def _errors(asked: Asked) -> Response:
    first = asked.number("first", 0)
    label, predicted = asked.word("label"), asked.word("predicted")
    confusion = reading.confusion(asked.store, asked.run_id)
    found, n = reading.errors(
        asked.store, asked.run_id, label or None, predicted or None, first, SHOWN
    )

    def address(to: int) -> str:
        url = asked.request.url.include_query_params(first=to)
        return f"{url.path}?{url.query}"

    return asked.page(
        "errors.html", confusion=confusion, label=label, predicted=predicted, found=found, n=n,
        first=first, shown=SHOWN, address=address,
    )  # fmt: skip


PAGES = (
    Page("/run/{run}/labels", _labels),
    Page("/run/{run}/labels/latents", _telling),
    Page("/run/{run}/labels/contexts", _contexts),
    Page("/run/{run}/labels/probes", _probes),
    Page("/run/{run}/errors", _errors),
)
