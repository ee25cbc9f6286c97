"""What a word means in a run: a latent's number, a token, a label, a text."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

Store = duckdb.DuckDBPyConnection
SHOWN = 60
"""Characters of a text that are shown on each side of what was searched."""


class TokenFound(NamedTuple):
    """A token of the corpus. n: how often it stands there, where that was counted."""

    token: str
    n: int


class Firing(NamedTuple):
    """A latent that fires on a token most often. share: of the latent's own firings."""

    latent: int
    token: str
    n_fires: int
    share: float


class TextFound(NamedTuple):
    """A document that holds the words."""

    doc_id: int
    label: str | None
    split: str
    before: str
    found: str
    after: str


def latents_on(store: Store, run_id: str, words: str, most: int = 30) -> list[Firing]:
    """Latents whose most frequent token is the word (or begins like it), those first that fire on
    little else."""
    rows = store.execute(
        """
SELECT f.latent, f.top_token, f.n_fires, f.top_token_share FROM features AS f
WHERE f.run_id = $run AND NOT f.dead AND (
    lower(trim(f.top_token)) = lower(trim($words))
    OR len(trim($words)) > 1 AND starts_with(lower(trim(f.top_token)), lower(trim($words)))
)
ORDER BY lower(trim(f.top_token)) <> lower(trim($words)),
    f.top_token_share * ln(1 + f.n_fires) DESC, f.latent LIMIT $most""",
        {"run": run_id, "words": words, "most": most},
    ).fetchall()
    return [Firing(*row) for row in rows]


def labels(store: Store, run_id: str, words: str, most: int = 10) -> list[str]:
    """Labels that hold the words."""
    rows = store.execute(
        """
SELECT DISTINCT d.label FROM documents AS d
WHERE d.run_id = $run AND contains(lower(d.label), lower($words)) ORDER BY d.label LIMIT $most""",
        {"run": run_id, "words": words, "most": most},
    ).fetchall()
    return [str(label) for (label,) in rows]


def texts(store: Store, run_id: str, words: str, most: int = 20) -> list[TextFound]:
    """Documents that hold the words, however large or small their letters are written."""
    rows = store.execute(
        """
WITH found AS (
    SELECT d.doc_id, d.label, d.split, d.text, position(lower($words) IN lower(d.text)) AS at
    FROM documents AS d WHERE d.run_id = $run AND contains(lower(d.text), lower($words))
    ORDER BY d.doc_id LIMIT $most
)
SELECT f.doc_id, f.label, f.split,
    f.text[greatest(1, f.at - $shown):f.at - 1], f.text[f.at:f.at + len($words) - 1],
    f.text[f.at + len($words):f.at + len($words) + $shown]
FROM found AS f ORDER BY f.doc_id""",
        {"run": run_id, "words": words, "most": most, "shown": SHOWN},
    ).fetchall()
    return [TextFound(*row) for row in rows]
