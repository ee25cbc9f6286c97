"""What is drawn for a planted store: texts, and the dense arrays of what a run finds in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = ("business", "sp'ort; DROP TABLE runs", "tech")
D_SAE = 24
D_IN = 16
DEAD = 23
SPORT_LATENT = 7  # fires on " goal", which only the second label's documents hold
TWINS = (4, 5)  # 5 fires wherever 4 does, half as strongly
WORDS = ("the", " market", " goal", " chip", ' "quoted"', "\n", " naïve", " 100%", " of", " a")
APOSTROPHE = "’"  # in no text but those of `massive`
TOKEN_IDS = {word: number for number, word in enumerate(("<bos>", *WORDS, APOSTROPHE))}


@dataclass(kw_only=True)
class Texts:
    """A corpus of random words, a third of its documents under each label."""

    names: tuple[str, str, str]  # of the three labels
    tokens: list[str]
    special: np.ndarray  # [n_tokens] bool
    doc_of: np.ndarray  # [n_tokens]
    positions: np.ndarray  # [n_tokens]
    labels: list[str]  # of each document

    @property
    def test_docs(self) -> list[int]:
        """Every fifth document is held out."""
        return list(range(0, len(self.labels), 5))


@dataclass(kw_only=True)
class Drawn(Texts):
    """The texts, and the dense arrays of what a run finds in them."""

    activations: np.ndarray  # [n_tokens, D_SAE] float32, zero where silent
    errors: np.ndarray  # [n_tokens, 2] squared_error, squared_norm
    predictions: list[tuple[int, str, str]]  # doc_id, label, predicted
    weights: np.ndarray  # [3 labels, D_SAE]
    clusters: np.ndarray  # of each document
    decoder: np.ndarray  # [D_SAE, D_IN]
