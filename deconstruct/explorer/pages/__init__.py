"""The explorer's pages, a module for each kind; `PAGES`: all of them."""

from __future__ import annotations

from deconstruct.explorer.asked import Page
from deconstruct.explorer.pages import maps, runs, sql

PAGES: tuple[Page, ...] = (*runs.PAGES, *maps.PAGES, *sql.PAGES)
