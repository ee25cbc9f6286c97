"""What all figures share: one dataset, a title, a caption, words for who can't see it; and files.

A figure is an Altair chart, so that a notebook shows it. What the pages need beside it stands in
the chart: its one dataset is the table that is shown as its data and saved as CSV, ``description``
is what a screen reader says, and ``usermeta``, which Vega-Lite leaves to whoever makes a chart,
holds name and caption.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import altair as alt
import vl_convert as vlc

from deconstruct.common.errors import DeconstructError
from deconstruct.common.showing import harmless, printable
from deconstruct.report.theme import CONFIG

VL_VERSION = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""Of Vega-Lite, as vl-convert names it: the one that Altair speaks."""
ENDINGS = ("svg", "png", "pdf", "csv")

_TAG = re.compile(r"<(?:path|line|rect|g|text) [^<>]*>")
_DIGITS = re.compile(r"(\d\.\d)\d+(?=[^\"]*\"[^<>]*>$)")
"""What no eye sees of a place: digits after a tenth of a pixel."""

_ALTAIR = threading.Lock()

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart
C = TypeVar("C", bound=Chart)
Row = Mapping[str, Any]


class Missing(DeconstructError):
    """A run has nothing of what a figure shows; the message says what and why."""


class Told(NamedTuple):
    """What is said of a figure. name: of files and anchors. caption: how it is read, and what it
    does not show."""

    name: str
    title: str
    caption: str
    description: str


def values(rows: Sequence[Row]) -> alt.InlineData:
    """The one dataset of a figure; names of columns are words that people read.

    Texts are on one line, without what is no printable character.
    """
    shown = [
        {name: printable(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows
    ]
    return alt.InlineData(values=shown)


def finished(chart: C, told: Told) -> C:
    """The figure: ``chart``, whose dataset `values` made, with what is said of it."""
    done = chart.properties(
        title=told.title,
        description=f"{told.title}. {told.description}",
        usermeta={"name": told.name, "caption": told.caption},
    )
    return cast(C, done.configure(**CONFIG))


def told(chart: Chart) -> Told:
    """What `finished` was told."""
    done = cast(Any, chart)
    return Told(
        done.usermeta["name"], str(done.title), done.usermeta["caption"], str(done.description)
    )


def table(chart: Chart) -> tuple[list[str], list[list[Any]]]:
    """Names of columns, and rows, of the figure's dataset."""
    rows: Sequence[Row] = cast(Any, chart.data).values
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[row.get(name) for name in names] for row in rows]


def plain(chart: C) -> C:
    """The chart without what a whole figure alone has, so that it can stand beside others; see
    docs/figures.md."""
    bare: Any = chart.copy()
    bare.config = bare.usermeta = alt.Undefined
    return cast(C, bare)


def spec_of(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite's JSON."""
    # Altair would move the rows to `datasets` under a name by their hash; what it is told here, it
    # is told for all threads.
    inline = {"consolidate_datasets": False, "max_rows": None}
    with _ALTAIR, alt.data_transformers.enable("default", **inline):
        return chart.to_dict()


def svg(chart: Chart, spec: dict[str, Any] | None = None) -> str:
    """The figure as an SVG document: drawn without a browser; it asks nobody for anything.

    spec: what `spec_of` made of it, where that is at hand: it takes as long as drawing.
    """
    made = json.dumps(spec_of(chart) if spec is None else spec)
    drawn = str(vlc.vegalite_to_svg(made, vl_version=VL_VERSION))
    return _TAG.sub(lambda tag: _DIGITS.sub(r"\1", tag[0]).replace(' opacity="1"', ""), drawn)


def save(chart: Chart, folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Write ``<folder>/<name>.<ending>`` for each of ``endings``: svg, png (2 pixels for one), pdf,
    csv (the data)."""
    spec, name = spec_of(chart), told(chart).name
    on_white = json.dumps({**spec, "background": "white"})
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for ending in endings:
        file = folder / f"{name}.{ending}"
        if ending == "svg":
            file.write_text(svg(chart), encoding="utf-8")
        elif ending == "png":
            file.write_bytes(vlc.vegalite_to_png(on_white, vl_version=VL_VERSION, scale=2))
        elif ending == "pdf":
            file.write_bytes(vlc.vegalite_to_pdf(on_white, vl_version=VL_VERSION))
        else:
            file.write_text(_csv(chart), encoding="utf-8", newline="")
        files.append(file)
    return files


def _csv(chart: Chart) -> str:
    names, rows = table(chart)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([[harmless(cell) for cell in row] for row in rows])
    return text.getvalue()


def scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of some 900 kB, which sets ``window.vegaEmbed``
    (2 s; keep it). It needs no ``eval`` where figures are drawn with ``ast: true``."""
    return str(vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VL_VERSION))
