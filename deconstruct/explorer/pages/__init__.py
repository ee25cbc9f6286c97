"""The explorer's pages, a module for each kind; `PAGES`: all of them."""

from __future__ import annotations

from deconstruct.explorer.asked import Page
from deconstruct.explorer.pages import (
    clusters,
    documents,
    drift,
    figures,
    labels,
    latent,
    latents,
    maps,
    notes,
    runs,
    sql,
    trying,
)

PAGES: tuple[Page, ...] = (
    *runs.PAGES,
    *figures.PAGES,
    *latents.PAGES,
    *latent.PAGES,
    *documents.PAGES,
    *notes.PAGES,
    *maps.PAGES,
    *clusters.PAGES,
    *labels.PAGES,
    *drift.PAGES,
    *sql.PAGES,
    *trying.PAGES,
)
