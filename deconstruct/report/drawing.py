"""What figures are drawn with: questions to the store, names that fit, intervals as rules.

Every figure has one plot of `WIDTH` pixels, so that pages of one size show letters of one size; on
a telephone the drawing shrinks to some three quarters, and is still read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, cast

import altair as alt
import duckdb

from deconstruct.common.showing import printable
from deconstruct.report.chart import Chart, Missing, values
from deconstruct.report.theme import ONE, QUIET
from deconstruct.store.render import records_of

WIDTH = 400
"""Pixels of a plot, without its axes."""
ROW = 22
"""Pixels of a row of a dot plot."""
POINTS = 2_250
"""Points that a map draws at most: some 300 kB of SVG."""
LABELS = 8
"""Labels that are told apart; of more, the rarer ones are one group."""
LONGEST = 40
"""Characters of a name in a figure."""
NO_LABEL = "(no label)"
OTHERS = "other labels"
EMPTY = "(empty)"
NONE_BEST = "tells none of them best"
OURS = {NO_LABEL, OTHERS, EMPTY, NONE_BEST}
"""What is called so is no label; a label of that name is numbered."""

P = ParamSpec("P")
Rows = list[dict[str, Any]]


def query(store: duckdb.DuckDBPyConnection, sql: str, *given: Any) -> Rows:
    """The answer's rows by the names of its columns; NaN and infinities, which nothing can be drawn
    of, are as unknown as NULL."""
    found = records_of(store.execute(sql, list(given)))
    for row in found:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[name] = None
    return found


def careful(make: Callable[P, Chart]) -> Callable[P, Chart]:
    """A figure that is as one of nothing where a store lacks numbers that it needs, as a damaged or
    a foreign one may: it raises ``Missing``, and no page fails for it."""

    @wraps(make)
    def made(*args: P.args, **named: P.kwargs) -> Chart:
        try:
            return make(*args, **named)
        except (ArithmeticError, LookupError, TypeError, ValueError, duckdb.DataError) as error:
            raise Missing(
                f"this figure can't be drawn: values that it needs are unknown, or "
                f"no numbers, in this store ({type(error).__name__})"
            ) from error

    return made


def query_new(store: duckdb.DuckDBPyConnection, sql: str, *given: Any, lacks: str) -> Rows:
    """As `query`, of relations that a file which an older release exported has not.

    Raises ``Missing`` with ``lacks`` where there is nothing.
    """
    try:
        found = query(store, sql, *given)
    except duckdb.CatalogException:
        found = []
    if not found:
        raise Missing(lacks)
    return found


def digits(value: float | None, most: int = 4) -> float | None:
    """``value`` with so many significant digits: figures need no more, and files are smaller."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{most}g}")


def names_for(given: Iterable[str | None], longest: int = LONGEST) -> dict[str | None, str]:
    """What each of ``given`` is called in a figure: printable, short, and no two of them alike."""
    called: dict[str | None, str] = {}
    for one in given:
        if one in called:
            continue
        text = NO_LABEL if one is None else printable(one[: 4 * longest])
        text = text if text.strip() else EMPTY
        ours = OURS if one and one.strip() else {OTHERS, NONE_BEST}
        text = text if len(text) <= longest else text[: longest - 1] + "…"
        number, free = 1, text
        while free in called.values() or free in ours:
            number += 1
            free = f"{text} ({number})"
        called[one] = free
    return called


def grouped(given: Sequence[str | None], most: int = LABELS) -> dict[str | None, str]:
    """As `names_for`, by how often each is given, most often first; of more than ``most``
    different ones the rarer ones share the name `OTHERS`."""
    counts = Counter(given)
    order = sorted(counts, key=lambda one: (-counts[one], one is None, one or ""))
    if len(order) <= most:
        return names_for(order)
    shown = names_for(order[: most - 1])
    return shown | dict.fromkeys(order[most - 1 :], OTHERS)


def whiskers(along: str, low: str, high: str, *channels: Any, title: str = "") -> alt.Chart:
    """Intervals as rules from column ``low`` to column ``high``. along: x or y. channels: where
    else, and in which colour. title: of the axis."""
    rules = alt.Chart().mark_rule(strokeWidth=1.5, color=ONE, aria=False)
    if along == "x":
        return rules.encode(alt.X(f"{low}:Q", title=title), alt.X2(f"{high}:Q"), *channels)
    return rules.encode(alt.Y(f"{low}:Q", title=title), alt.Y2(f"{high}:Q"), *channels)


def dots(size: int = 55) -> alt.Chart:
    """Marks of single values."""
    return alt.Chart().mark_point(filled=True, size=size, opacity=1)


def histogram(x: alt.X, y: alt.Y, *tooltip: str) -> alt.Chart:
    """Bars from the columns ``from`` to ``to``, as high as y; x: of ``from``. tooltip: what is told
    beside these two, y's column among it."""
    marks = alt.Chart().mark_bar(stroke="white", strokeWidth=0.5)
    return marks.encode(x=x, x2="to:Q", y=y, y2=alt.datum(0), tooltip=["from:Q", "to:Q", *tooltip])


def layered(rows: Rows, *layers: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """A plot of several layers over one dataset."""
    return cast(alt.LayerChart, alt.layer(*layers, data=values(rows)))


def stacked(
    rows: Rows, by: str, plot: Callable[[Rows], alt.LayerChart], spacing: int = 30
) -> alt.VConcatChart:
    """A plot for each value of the column ``by``, one below the other, each with axes of its own.

    plot: makes one, without data, of its rows. Facets, whose scales are found in several layers
    at a time, have Vega guess how high each is, and warn of it.
    """
    given = values(rows)
    shown = dict.fromkeys(row[by] for row in cast(Any, given).values)
    plots = [
        plot([row for row in rows if printable(str(row[by])) == one])
        .properties(
            title=alt.Title(one, anchor="middle", frame="group", fontSize=11, fontWeight="normal")
        )
        .transform_filter(alt.FieldEqualPredicate(field=by, equal=one))
        for one in shown
    ]
    return alt.vconcat(*plots, data=given, spacing=spacing)


def reference(along: str, value: float, words: str = "") -> alt.LayerChart:
    """A dashed line where ``along`` (x or y) is ``value``: what nothing, or chance, gives; at x,
    with ``words`` above it."""
    line = alt.Chart().mark_rule(color=QUIET, strokeDash=[4, 3], aria=False)
    once = {"rows": "count()"}  # a line, not one for each row
    if along == "y":
        layers = [line.encode(y=alt.datum(value)).transform_aggregate(**once)]
        return cast(alt.LayerChart, alt.layer(*layers))
    layers = [line.encode(x=alt.datum(value)).transform_aggregate(**once)]
    if words:
        text = alt.Chart().mark_text(text=words, color=QUIET, fontSize=11, aria=False)
        layers.append(text.encode(x=alt.datum(value), y=alt.value(-7)).transform_aggregate(**once))
    return cast(alt.LayerChart, alt.layer(*layers))


def panel(tick: str = ",~r", count: int = 4) -> alt.Axis:
    """The y axis of a small multiple: those of a column and a row stand in line."""
    return alt.Axis(tickCount=count, format=tick, minExtent=34, labelFlush=True)


def decades(low: float, high: float) -> alt.Scale:
    """A logarithmic scale from ``low`` to ``high``, both above 0."""
    return alt.Scale(type="log", domain=[low, high], nice=False)


def powers(low: float, high: float, form: str = "~g", grid: bool = False) -> alt.Axis:
    """Its axis: ticks at powers of ten, or at more where there would be too few."""
    ends = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    steps = (1,) if len(ends) > 3 else (1, 3) if len(ends) > 1 else (1, 2, 5)
    ticks = [float(f"{s}e{e}") for e in range(ends.start - 1, ends.stop + 1) for s in steps]
    shown = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return alt.Axis(values=shown, format=form, grid=grid)


def height(rows: int, least: int = 2) -> int:
    """Of a plot with a line of text for each of ``rows``."""
    return ROW * max(rows, least)


def told_interval(row: Mapping[str, Any], value: str = "value") -> str:
    """``0.104 (0.102 to 0.105)``."""
    low, high = row.get("low"), row.get("high")
    own = "unknown" if row[value] is None else f"{row[value]:.3g}"
    return own if low is None or high is None else f"{own} ({low:.3g} to {high:.3g})"
