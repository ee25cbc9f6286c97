"""How figures look: colours and shapes that tell labels apart for everyone, and nothing else.

Colours are those of Okabe and Ito (2008), which people with any colour vision can tell apart;
shapes say the same again, for print. Ink and lines are taken from the page that a figure stands in
(`static/style.css` overrides them, in light and in dark).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import altair as alt

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a800", "#7a7a7a",
)  # fmt: skip
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right",
    "triangle-left",
)  # fmt: skip
ONE = COLOURS[0]
"""Colour of a figure's only series."""
OTHER = COLOURS[4]
"""Of what stands beside it: gates, the run before."""
QUIET = COLOURS[7]
"""Of baselines and of what is left out."""
HEAT = "#e69f00"
"""The one hue by whose strength a token tells how much fires on it."""

# Drawings are laid out by the widths of Arial's letters; where a browser has none like them, they
# are a little wider, for which there is some room at the left.
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "Arial, Helvetica, Liberation Sans, sans-serif",
    "padding": {"left": 20, "right": 8, "top": 5, "bottom": 5},
    "view": {"stroke": None, "continuousWidth": 400, "continuousHeight": 240},
    "title": {
        "anchor": "start", "frame": "bounds", "fontSize": 14, "fontWeight": 600,
        "color": "#1a1a1a", "offset": 10,
    },
    "axis": {
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 400,
        "labelColor": "#444", "titleColor": "#444", "gridColor": "#e4e4e4", "gridOpacity": 1,
        "domainColor": "#999", "tickColor": "#999", "tickSize": 4, "labelLimit": 150,
    },
    "legend": {
        "orient": "top", "direction": "horizontal", "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": 400, "labelColor": "#444", "titleColor": "#444", "labelLimit": 160,
        "symbolOpacity": 1, "symbolStrokeWidth": 0, "columnPadding": 20, "offset": 8,
    },
    "header": {
        "labelFontSize": 12, "labelColor": "#444", "labelAnchor": "start", "labelFontWeight": 600,
        "titleFontSize": 12, "titleColor": "#444",
    },
    "text": {"fontSize": 12, "color": "#1a1a1a"},
    "range": {"category": list(COLOURS)},
    "mark": {"color": ONE},
}  # fmt: skip


def columns(names: Sequence[str]) -> int:
    """Names in a row of a legend that is as wide as a plot."""
    longest = max(map(len, names), default=1)
    return max(1, min(len(names), 430 // (28 + 7 * min(longest, 20))))


def coloured(
    field: str, values: Sequence[str], *, quiet: Collection[str] = (), legend: bool = True
) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of a field whose values are given in their order; one legend for both.

    Of more than eight values the further ones begin again at the first colour, with another shape.
    quiet: those that are no finding.
    """
    n = len(values)
    colours = [
        QUIET if value in quiet else COLOURS[i % len(COLOURS)] for i, value in enumerate(values)
    ]
    shapes = [SHAPES[(i + i // len(COLOURS)) % len(SHAPES)] for i in range(n)]
    shown = alt.Legend(title=None, columns=columns(values)) if legend else None
    return (
        alt.Color(f"{field}:N", scale=alt.Scale(domain=list(values), range=colours), legend=shown),
        alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(values), range=shapes), legend=shown),
    )
