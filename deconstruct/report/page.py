"""The report of a run: one HTML file that needs nothing else.

It opens from a disk, shows everything where scripts are forbidden, and comes alive where they run:
figures tell values and are saved, tables are sorted, and a word finds what holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
from jinja2 import Environment
from markupsafe import Markup

from deconstruct.report import chart as charts
from deconstruct.report.html import Drawn, drawn, environment, page_policy, static
from deconstruct.report.sections import course, dictionary, documents, labels, origin, overview
from deconstruct.report.sections.findings import findings
from deconstruct.report.sections.look import Found, Look
from deconstruct.store.render import whole

K = TypeVar("K")
STYLES = ("style.css", "report.css")
SCRIPTS = ("live.js", "report.js")


class Section(NamedTuple):
    """A section: its anchor, heading, and what finds it. soon: it is found before the others."""

    name: str
    heading: str
    find: Callable[[Look], Found]


SECTIONS = (
    Section("verdict", "Verdict", overview.verdict),
    Section("numbers", "Figures", overview.numbers),
    Section("trend", "Trend", overview.trend),
    Section("map", "Map", documents.places),
    Section("clusters", "Clusters", documents.clusters),
    Section("labels", "Labels", labels.labels),
    Section("dictionary", "Dictionary", dictionary.dictionary),
    Section("training", "Training", course.training),
    Section("drift", "Drift", course.drift),
    Section("sweep", "Sweep", course.sweep),
    Section("worst", "Worst tokens", origin.worst),
    Section("provenance", "Provenance", origin.provenance),
)
LAST = "dictionary"
"""Found last: its table has the latents that the others speak of."""


class Links:
    """Where things are in this file; None: not in it."""

    def __init__(self, latents: set[int]) -> None:
        self.latents = latents

    def latent(self, number: int, run_id: str | None = None) -> str | None:
        return f"#latent-{number}" if run_id is None and number in self.latents else None

    def cluster(self, number: int) -> str | None:
        return f"#cluster-{number}"

    def document(self, doc_id: int) -> str | None:
        return None

    def run(self, run_id: str | None = None, part: str = "") -> str | None:
        return f"#{part}" if part and run_id is None else None


class Shown(NamedTuple):
    """A section as the template takes it; missing: why there is nothing in it."""

    name: str
    heading: str
    it: Mapping[str, Any] | None
    missing: str


def report(store: duckdb.DuckDBPyConnection, run_id: str, base: str | None = None) -> str:
    """The page of a run as HTML. base: the run that it is compared with; None: the one before of
    its name, if any. Raises ``QueryError`` if one of them is not there."""
    look = Look(store, run_id, base)
    shown = _drawn(_with_findings(look, _found(look)))
    listed = next(one.it for one in shown if one.name == LAST)
    links = Links({row["latent"] for row in listed["rows"]} if listed else set())
    sections = [one for one in shown if one.it is not None or one.name not in OPTIONAL]
    return rendered("report/run.html", run=look.run, sections=sections, links=links)


OPTIONAL = ("drift", "sweep")
"""Sections that are left out where there is nothing in them, as of most runs there is not."""


def _found(look: Look) -> list[Shown]:
    found = {}
    for section in sorted(SECTIONS, key=lambda one: one.name == LAST):
        try:
            found[section.name] = Shown(section.name, section.heading, section.find(look), "")
        except charts.Missing as missing:
            found[section.name] = Shown(section.name, section.heading, None, str(missing))
    return [found[section.name] for section in SECTIONS]


def _with_findings(look: Look, sections: list[Shown]) -> list[Shown]:
    """The same, with the findings of all of them in the verdict."""
    told = findings(look, {one.name: one.it for one in sections})
    return [
        one._replace(it={**one.it, "findings": told}) if one.name == "verdict" and one.it else one
        for one in sections
    ]


def _drawn(sections: list[Shown]) -> list[Shown]:
    """The same, their charts drawn."""
    of = {
        (place, name): chart
        for place, one in enumerate(sections)
        for name, chart in (one.it or {}).get("figures", {}).items()
    }
    done: dict[int, dict[str, Drawn]] = {}
    for (place, name), picture in drawn_all(of).items():
        done.setdefault(place, {})[name] = picture
    return [
        one if one.it is None else one._replace(it={**one.it, "figures": done.get(place, {})})
        for place, one in enumerate(sections)
    ]


def drawn_all(of: Mapping[K, charts.Chart]) -> dict[K, Drawn]:
    """Charts drawn, several at a time."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(of, pool.map(drawn, of.values()), strict=True))


@lru_cache(1)
def scripts() -> str:
    """Vega, which draws figures again so that they answer; two seconds, once a process."""
    return charts.scripts()


@lru_cache(1)
def templates() -> Environment:
    """Templates of the report."""
    return environment()


def rendered(template: str, **what: Any) -> str:
    """A page that carries its styles and scripts, and lets no others in."""
    style = "\n".join(map(static, STYLES))
    live, own = scripts(), "\n".join(map(static, SCRIPTS))
    return (
        templates()
        .get_template(template)
        .render(
            policy=page_policy([style], [live, own]),
            # Files of this package, which are no data.
            style=Markup(style),
            vega=Markup(live),
            script=Markup(own),
            version=version("deconstruct"),
            **what,
        )
    )


def write(
    store: duckdb.DuckDBPyConnection, run_id: str, file: Path, base: str | None = None
) -> Path:
    """Write the report of a run; the file takes its name once it is whole."""
    return save(report(store, run_id, base), file)


def save(text: str, file: Path) -> Path:
    """Write a page, whole or not at all, into a folder that is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as draft:
        draft.write_text(text, encoding="utf-8")
    return file
