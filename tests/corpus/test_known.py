"""How many held-out documents an SAE has been trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from support.planted import artifact_of, filled

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.corpus.growth import held_out_but_known
from deconstruct.corpus.tables import DOCUMENTS


def corpus(root: DataRoot, seed: int, texts: list[str], held_out: list[bool]) -> Artifact:
    table = filled(
        DOCUMENTS,
        doc_key=[hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts],
        split=["test" if of else "train" for of in held_out],
        label=None,
        text=texts,
        n_tokens=1,
    )
    return artifact_of(root, Recipe("corpus", 1, {"seed": seed}, {}), {DOCUMENTS: table})


def test_those_are_counted_whose_text_was_trained_on(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    for seed in range(20):
        draw = np.random.default_rng(seed)
        texts = [[str(n) for n in draw.integers(0, 30, draw.integers(1, 40))] for _ in range(2)]
        held = [[bool(of) for of in draw.random(len(some)) < 0.5] for some in texts]
        judged, trained = (corpus(root, 2 * seed + n, texts[n], held[n]) for n in range(2))
        known = {text for text, out in zip(texts[1], held[1], strict=True) if not out}
        expected = sum(out and text in known for text, out in zip(texts[0], held[0], strict=True))
        assert held_out_but_known(judged, trained) == expected
