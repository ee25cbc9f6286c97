"""A latent of a run changed in the model, beside others of like density and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.causes.steering import Effect, Steering, Trial
from deconstruct.causes.subject import subject_of
from deconstruct.common.progress import track
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.reference.texts import Text
from deconstruct.sae import files
from deconstruct.store import QueryError

TOP = 5
"""Tokens that are shown of those that rise and fall most."""


@dataclass(frozen=True)
class Steered:
    """What changing a latent did. factor: by which its activations were multiplied.

    controls: of other latents, changed by the same factor, each in texts in which it fires itself.
    rising, falling: token ids, texts and mean changes of the logits that move most, among the
    corpus' tokens.
    """

    run_id: str
    factor: float
    effect: Effect
    controls: tuple[Effect, ...]
    rising: tuple[tuple[int, str, float], ...]
    falling: tuple[tuple[int, str, float], ...]

    def rank(self, measure: str) -> int:
        """Place of the latent among the controls and itself, from 1: the largest |change|."""
        own = abs(getattr(self.effect, measure))
        return 1 + sum(bool(abs(getattr(one, measure)) > own) for one in self.controls)

    def spread(self, measure: str) -> tuple[float, float, float]:
        """Least, median and largest of the controls; NaN without any."""
        known = [v for one in self.controls if np.isfinite(v := getattr(one, measure))]
        if not known:
            return (float("nan"),) * 3
        return float(np.min(known)), float(np.median(known)), float(np.max(known))

    def record(self) -> dict[str, Any]:
        """The same for programs."""

        def told(effect: Effect) -> dict[str, Any]:
            return {k: v for k, v in asdict(effect).items() if k != "logits"}

        logits = {
            name: [dict(zip(("token_id", "token", "change"), one, strict=True)) for one in moved]
            for name, moved in (("rising", self.rising), ("falling", self.falling))
        }
        return {
            "run_id": self.run_id,
            "factor": self.factor,
            **told(self.effect),
            "controls": [told(one) for one in self.controls],
            **logits,
        }


def steer(
    home: Path | str | None,
    run: str,
    latent: int,
    factor: float,
    *,
    texts: int = 8,
    controls: int = 20,
    device: str = "auto",
) -> Steered:
    """Multiply a latent's activations by ``factor`` in held-out texts in which it fires.

    texts: at most so many, spread evenly over the strengths with which it fires in them. controls:
    so many living latents nearest in log density and log decoder norm. Raises ``QueryError`` for an
    unknown run or latent, or one that fires in no held-out text; ``ConfigError`` or
    ``SourceUnreachable`` if the language model is not there.
    """
    subject = subject_of(home, run)
    held_out = _by_document(subject.held_out())
    firing = _Firing(subject.latents, np.array(sorted(held_out), np.int64))
    if not 0 <= latent < len(firing.texts):
        raise QueryError(
            f"run {subject.run_id} has no latent {latent}; its latents are 0 to "
            f"{len(firing.texts) - 1}"
        )
    if not firing.texts[latent]:
        raise QueryError(
            f"latent {latent} of run {subject.run_id} fires in no held-out document, so that "
            "there is nothing to change; name one that does ('deconstruct sql' with "
            '"FROM features" lists them)'
        )
    others = alike(firing.density, firing.norm, np.array(firing.texts) > 0, latent, controls)
    chosen = [latent, *others]
    documents = firing.documents(chosen, texts)
    trials = [
        Trial(one, _windows([held_out[doc] for doc in docs], texts), logits=one == latent)
        for one, docs in zip(chosen, documents, strict=True)
    ]
    model = subject.language_model(device)
    dictionary = files.load(subject.sae.path).to(str(next(model.parameters()).device))
    steering = Steering(model, subject.site, dictionary, subject.source)
    with track("steer", sum(len(trial.texts) for trial in trials), "texts") as advance:
        own, *beside = steering.effects(trials, factor, advance)
    rising, falling = _moved(own, token_strings(subject.corpus, special=False))
    return Steered(subject.run_id, factor, own, tuple(beside), rising, falling)


def alike(
    density: NDArray[np.float64],
    norm: NDArray[np.float64],
    usable: NDArray[np.bool_],
    latent: int,
    count: int,
) -> list[int]:
    """The ``count`` other usable latents nearest to one in log density and log norm, in standard
    deviations of each; of equally near ones the first. All arrays are [d_sae]."""
    others = np.flatnonzero(usable & (np.arange(len(usable)) != latent) & (norm > 0))
    apart = np.zeros(len(others))
    for values in (density, norm):
        logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        spread = logs[usable].std()
        if spread > 1e-6:  # decoder rows may have one common norm
            apart += ((logs[others] - logs[latent]) / spread) ** 2
    return [int(one) for one in others[np.argsort(apart, kind="stable")[:count]]]


class _Firing:
    """Where latents fire. density, norm: float64 [d_sae]; texts: held-out documents of each."""

    def __init__(self, latents: Artifact, held_out: NDArray[np.int64]) -> None:
        table = latents.table("features.parquet", ["density", "decoder_norm"])
        self.density = table["density"].to_numpy().astype(np.float64)
        self.norm = table["decoder_norm"].to_numpy().astype(np.float64)
        self._latents, self._held_out = latents, held_out
        counts = np.zeros(len(table), np.int64)
        for _, latent, _ in self._rows():
            counts += np.bincount(latent, minlength=len(table))
        self.texts = counts.tolist()

    def documents(self, wanted: Sequence[int], most: int) -> list[list[int]]:
        """At most so many held-out documents of each, evenly over how strongly it fires there."""
        found: dict[int, list[tuple[float, int]]] = {one: [] for one in wanted}
        for document, latent, strength in self._rows():
            for place in np.flatnonzero(np.isin(latent, wanted)):
                row = (float(strength[place]), int(document[place]))
                found[int(latent[place])].append(row)
        drawn = []
        for one in wanted:
            order = sorted(found[one], reverse=True)
            places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
            drawn.append([order[place][1] for place in places])
        return drawn

    def _rows(self) -> Any:
        for table in self._latents.rows("document_latents.parquet", ["doc_id", "latent", "max"]):
            document = table["doc_id"].to_numpy().astype(np.int64)
            kept = np.isin(document, self._held_out)
            latent = table["latent"].to_numpy().astype(np.int64)
            yield document[kept], latent[kept], table["max"].to_numpy()[kept]


def _by_document(texts: Sequence[Text]) -> dict[int, list[Text]]:
    found: dict[int, list[Text]] = {}
    for text in texts:
        found.setdefault(text.doc_id, []).append(text)
    return found


def _windows(documents: Sequence[Sequence[Text]], most: int) -> list[Text]:
    """At most so many windows: the first of each document, then the second of each."""
    rounds = zip_longest(*documents)
    return [text for texts in rounds for text in texts if text is not None][:most]


def _moved(
    effect: Effect, tokens: dict[int, str]
) -> tuple[tuple[tuple[int, str, float], ...], tuple[tuple[int, str, float], ...]]:
    """The tokens whose logits rise and fall most, each with its text and change."""
    assert effect.logits is not None
    ids = np.array(sorted(tokens))
    change = effect.logits[ids]
    order = np.argsort(-change, kind="stable")

    def told(places: NDArray[np.int64]) -> tuple[tuple[int, str, float], ...]:
        return tuple((int(ids[p]), tokens[int(ids[p])], float(change[p])) for p in places)

    return told(order[:TOP]), told(order[::-1][:TOP])
