"""How much of words' first letters an SAE's latents absorb, on words of the run's own corpus.

SAEBench asks a model to spell words of a list; here the activation is that of the word in a text,
and the probe is fitted on other word types than it is judged on. So the numbers are comparable
between runs of one corpus, and not with leaderboards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deconstruct.causes.absorption import absorbed, main_latents, sparse_f1
from deconstruct.causes.subject import subject_of
from deconstruct.causes.words import Part, Words, words_of
from deconstruct.common.errors import DataError
from deconstruct.common.progress import track
from deconstruct.common.threads import one_quiet_thread
from deconstruct.sae import files
from deconstruct.sae.autoencoder import SparseAutoencoder

LEAST_F1 = 0.6
"""F1 of the probe on unseen words from which a letter is judged."""
LEAST_WORDS = 10
"""Words of a letter in each part, and read rightly by the probe, at least."""
STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Inverse strengths of the probe's penalty that are tried."""


@dataclass(frozen=True)
class Letter:
    """A letter that the probe reads.

    words: held-out ones that begin with it and that the probe reads rightly; the rest is about
    those, but for the F1s, which are about all held-out words. recall: share of them on which a
    main latent fires. main_f1: of a probe on the main latents alone. fraction, full: means of
    `deconstruct.causes.absorption`.
    """

    letter: str
    words: int
    probe_f1: float
    main: tuple[int, ...]
    main_f1: float
    recall: float
    fraction: float
    full: float


@dataclass(frozen=True)
class Absorption:
    """The letters that are judged, and how many words there were of each part."""

    run_id: str
    letters: tuple[Letter, ...]
    words: dict[Part, int]

    def mean(self, name: str) -> float:
        """Mean of a figure over the letters."""
        return float(np.mean([getattr(one, name) for one in self.letters]))

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        names = ("probe_f1", "main_f1", "recall", "fraction", "full")
        return {
            "run_id": self.run_id,
            "words": self.words,
            **{name: self.mean(name) for name in names},
            "letters": [asdict(one) for one in self.letters],
        }


def absorption(home: Path | str | None, run: str) -> Absorption:
    """First-letter absorption of a run's SAE. Raises ``QueryError`` for an unknown run,
    ``DataError`` for a transcoder, or if a probe reads no letter of its corpus' words."""
    subject = subject_of(home, run)
    if subject.site != subject.source:
        raise DataError(
            f"run {subject.run_id} is a transcoder, which writes another site than the one whose "
            "letters a probe reads; name the run of an autoencoder"
        )
    words = words_of(subject)
    sae = files.load(subject.sae.path)
    letters = judged(words, sae)
    if not letters:
        counts = ", ".join(f"{len(of.words)} {part}" for part, of in words.items())
        raise DataError(
            f"no letter of run {subject.run_id} is read from its words ({counts}) with an F1 of "
            f"{LEAST_F1} or more; take a later or earlier site, or more text in letters A to Z"
        )
    return Absorption(subject.run_id, letters, {part: len(of.words) for part, of in words.items()})


def judged(words: dict[Part, Words], sae: SparseAutoencoder) -> tuple[Letter, ...]:
    """The letters of words that a probe reads, each with what becomes of it in the SAE."""
    fit, inner, test = (words[part] for part in ("fit", "chosen_on", "test"))
    enough = [
        letter
        for letter in np.unique(fit.letters)
        if all((of.letters == letter).sum() >= LEAST_WORDS for of in (fit, inner, test))
    ]
    if len(enough) < 2:
        return ()
    found = []
    with one_quiet_thread(), track("absorption", len(enough), "letters") as advance:
        directions, guessed = _probe(fit, inner, test.x)
        codes = [_encoded(sae, of.x) for of in (fit, inner, test)]
        decoder = sae.W_dec.numpy().astype(np.float64)
        for letter in enough:
            advance()
            f1 = _f1(test.letters == letter, guessed == letter)
            rightly = (test.letters == letter) & (guessed == letter)
            if f1 < LEAST_F1 or rightly.sum() < LEAST_WORDS:
                continue
            learnt, chosen, seen = (
                (code, of.letters == letter)
                for code, of in zip(codes, (fit, inner, test), strict=True)
            )
            main = main_latents(learnt, chosen)
            u = directions[letter] / np.linalg.norm(directions[letter])
            here = codes[2][rightly]
            of_words = absorbed(here, decoder, u, test.x[rightly].astype(np.float64) @ u, main)
            found.append(
                Letter(
                    letter=str(letter),
                    words=int(rightly.sum()),
                    probe_f1=f1,
                    main=tuple(main),
                    main_f1=sparse_f1(learnt, seen, main),
                    recall=float((here[:, main] > 0).any(1).mean()),
                    fraction=float(of_words.fraction.mean()),
                    full=float(of_words.full.mean()),
                )
            )
    return tuple(found)


def _probe(
    fit: Words, inner: Words, test: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.str_]]:
    """Each letter's direction in activations, [d_in], and the letters guessed of the test words.

    One softmax over the letters, on standardised activations; the penalty by inner accuracy.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = fit.x.mean(0, dtype=np.float64), fit.x.std(0, dtype=np.float64)
    spread = np.maximum(spread, 1e-9 * max(spread.max(), 1e-9))

    def scaled(x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray((x - mean) / spread)

    x, beside = scaled(fit.x), scaled(inner.x)
    probes = [
        LogisticRegression(C=strength, max_iter=200).fit(x, fit.letters) for strength in STRENGTHS
    ]
    best = max(probes, key=lambda probe: float((probe.predict(beside) == inner.letters).mean()))
    weights = best.coef_ if len(best.classes_) > 2 else np.concatenate([-best.coef_, best.coef_])
    apart = (weights - weights.mean(0)) / spread
    directions = {str(one): apart[i] for i, one in enumerate(best.classes_)}
    return directions, np.asarray(best.predict(scaled(test)))


def _encoded(sae: SparseAutoencoder, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Activations of words, [n, d_sae]."""
    sparse = sae.encode_sparse(torch.from_numpy(x))
    found = np.zeros((len(x), sae.d_sae), np.float32)
    row = np.repeat(np.arange(len(x)), np.diff(sparse.offsets.numpy()))
    found[row, sparse.latents.numpy()] = sparse.activations.numpy()
    return found


def _f1(truth: NDArray[np.bool_], guessed: NDArray[np.bool_]) -> float:
    both = float((truth & guessed).sum())
    return 2 * both / max(float(truth.sum() + guessed.sum()), 1.0)
