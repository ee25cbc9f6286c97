"""HTML of the report, the explorer and the cards of latents: one set of parts, and one rule.

Texts that people bring are text: Jinja2 escapes all that is put into a template, controls and marks
that turn the direction of writing are spelled out, and the policies below let no page run or fetch
anything but what this package has put there. Templates never mark data as safe.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deconstruct.common.showing import json_text, lines, printable
from deconstruct.report import chart as charts

LONGEST = 2_000
"""Characters of a text that a page shows where it does not show the whole."""
STEPS = 10
"""Strengths in which a token is coloured: classes ``h0`` to ``h10`` of the style sheet."""
HERE = Path(__file__).parent
_OWN_ID = re.compile(r"""( id="|url\(#|href="#)(clip\w*|gradient\w*)""")


def environment(*packages: str) -> Environment:
    """Templates of this package, and of ``packages`` before them."""
    loaders: list[BaseLoader] = [PackageLoader(name) for name in (*packages, "deconstruct.report")]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "shown": shown,
        "whole": lines,
        "number": number,
        "percent": percent,
        "count": count,
        "json": for_script,
        "strength": strength,
        "figure": drawn,
    }
    return made


def static(name: str) -> str:
    """A file of this package that pages carry: ``style.css``, ``live.js``."""
    return (HERE / "static" / name).read_text(encoding="utf-8")


def shown(value: object, longest: int = LONGEST) -> str:
    """A text on one line, cut where it is longer, without what is no printable character."""
    text = str(value)
    return printable(text[:longest]) + (" …" if len(text) > longest else "")


def number(value: float | None, digits: int = 3) -> str:
    """A figure as people read it; nothing where it is not known."""
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    if value is None or math.isnan(value):
        return "–"
    return (
        f"{100 * value:.1f} %"
        if 0.001 <= abs(value) < 0.9995 or not value
        else f"{100 * value:.3g} %"
    )


def count(n: int | None, one: str, many: str | None = None) -> str:
    """``1 document``, ``2,225 documents``; of a number that is not known ``– documents``."""
    return f"{'–' if n is None else format(n, ',')} {one if n == 1 else many or one + 's'}"


def strength(activation: float | None, largest: float | None) -> str:
    """The class that colours a token, of its activation and of that which has full colour."""
    if not activation or activation <= 0 or not largest:
        return "h0"
    return f"h{max(1, round(STEPS * min(1.0, activation / largest)))}"


def for_script(value: Any) -> Markup:
    """JSON for ``<script type="application/json">``: no text in it can end the element."""
    text = json_text(value)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


class Drawn(NamedTuple):
    """A figure for the macro ``figure``: its drawing, what Vega makes it live by, and its data."""

    told: charts.Told
    svg: Markup
    spec: Mapping[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def drawn(chart: charts.Chart) -> Drawn:
    """Draw a figure. The SVG is vl-convert's, which escapes the texts in it."""
    columns, rows = charts.table(chart)
    spec, told = charts.spec_of(chart), charts.told(chart)
    return Drawn(told, Markup(apart(charts.svg(chart, spec), told.name)), spec, columns, rows)


def apart(svg: str, name: str) -> str:
    """The same drawing, its clips and gradients under names of its own: a page has several. What is
    around it says what it shows, and a table has its values, so screen readers pass it over."""
    own = _OWN_ID.sub(rf"\g<1>{name}-\g<2>", svg)
    return own.replace("<svg ", '<svg aria-hidden="true" ', 1)


def page_policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """The content policy of a file that is opened from a disk: its own styles and scripts, by their
    hashes, and nothing from anywhere."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hashes(styles)}; "
        f"script-src {_hashes(scripts)}; base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Iterable[str]) -> str:
    found = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in texts
    ]
    return " ".join(f"'sha256-{digest}'" for digest in found) or "'none'"
