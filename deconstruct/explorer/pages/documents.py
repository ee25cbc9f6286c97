"""A document: its whole text token by token, and what fires on each."""

from __future__ import annotations

from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.report.reading import document as reading
from deconstruct.report.reading import latent as latents


def _document(asked: Asked) -> Response:
    """Coloured by ``?latent=``, or by ``?by=error``; ``?token=``: one of which all is shown."""
    store, run = asked.store, asked.run_id
    doc_id = int(asked.request.path_params["doc"])
    one = reading.document(store, run, doc_id)
    latent = asked.number("latent", -1, -1)
    facts = latents.facts(store, run, latent) if latent >= 0 else None
    tokens = reading.tokens(store, run, doc_id, latent if facts else None)
    chosen = asked.number("token", -1, -1, 2**62)
    return asked.page(
        "document.html",
        one=one,
        tokens=tokens,
        facts=facts,
        by_error=asked.word("by") == "error",
        chosen=next((token for token in tokens if token.token_index == chosen), None),
        fires=reading.on_token(store, run, chosen) if chosen >= 0 else [],
        strongest=reading.strongest(store, run, doc_id),
        more=one.n_tokens > reading.MOST_TOKENS,
        address=lambda **show: asked.links.document(doc_id, **show),
    )


PAGES = (Page("/run/{run}/doc/{doc:int}", _document),)
