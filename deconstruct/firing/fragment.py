"""Firings as a piece of HTML, for notebooks: it carries its look, runs nothing and asks nobody."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup

from deconstruct.report.html import environment, static

if TYPE_CHECKING:
    from deconstruct.firing.firings import Firings

TEXTS, TOKENS, LATENTS = 8, 400, 10
"""What is shown at most: texts, tokens of each, latents of each list."""


def fragment(found: Firings) -> str:
    """The texts, each token coloured by its strongest latent, and the latents that stand out."""
    texts = [
        [
            (token, *next(iter(found.on_token(number, place, 1)), (None, None)))
            for place, token in enumerate(read.tokens[:TOKENS])
            if not read.special[place]
        ]
        for number, read in enumerate(found.texts[:TEXTS])
    ]
    template = _templates().get_template("firings.html")
    return template.render(
        found=found,
        texts=texts,
        largest=float(found.activation.max(initial=0.0)),
        lists=(
            ("Strongest", found.top(LATENTS)),
            ("Furthest above their usual", found.top(LATENTS, "lift")),
        ),
        style=Markup(static("card.css")),
    )


@cache
def _templates() -> Environment:
    return environment("deconstruct.firing")
