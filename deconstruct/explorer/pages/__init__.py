"""The explorer's pages, a module for each kind; `PAGES`: all of them."""

from __future__ import annotations

from deconstruct.explorer.asked import Page
from deconstruct.explorer.pages import clusters, figures, labels, latent, maps, runs, sql

PAGES: tuple[Page, ...] = (
    *runs.PAGES,
    *latent.PAGES,
    *figures.PAGES,
    *maps.PAGES,
    *clusters.PAGES,
    *labels.PAGES,
    *sql.PAGES,
)
