"""The explorer's pages, a module for each kind; `PAGES`: all of them."""

from __future__ import annotations

from deconstruct.explorer.asked import Page
from deconstruct.explorer.pages import documents, figures, latent, latents, notes, runs, trying

PAGES: tuple[Page, ...] = (
    *runs.PAGES,
    *figures.PAGES,
    *latents.PAGES,
    *latent.PAGES,
    *documents.PAGES,
    *notes.PAGES,
    *trying.PAGES,
)
