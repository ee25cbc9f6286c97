"""What fires on some texts: pairs of tokens and latents, and what stands out among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.common.errors import DataError
from deconstruct.firing.known import Known
from deconstruct.firing.texts import Read

By = Literal["activation", "lift", "label"]
"""How latents are ordered; `Firings.top` says what each is."""


class Top(NamedTuple):
    """A latent that fires on a text.

    activation: its strongest there, on the token ``place`` of the text. fires, mean: on how many of
    the text's recorded tokens, and its mean over all of them, zeros counted. usual: its mean
    activation where it fires in the run's corpus; lift: activation / usual, infinite where it never
    fires there; density: on which share of the corpus' tokens it does; top_token: on which most
    often. label, push: by label alone: what it adds to the probe's log odds of that label.
    """

    latent: int
    activation: float
    text: int
    place: int
    token: str
    fires: int
    mean: float
    usual: float | None
    lift: float
    density: float
    top_token: str | None
    label: str | None = None
    push: float | None = None


@dataclass(frozen=True)
class Firings:
    """Texts through a run's model and dictionary.

    texts: as the model read them. Pairs, in this order, [n] each: ``text``, ``place`` (of the token
    among its text's), ``latent``, ``activation`` (float32). What it does not show: how a latent
    would fire in another context; and a probe that was fitted on whole documents says the less of a
    text the shorter that is.
    """

    run_id: str
    texts: tuple[Read, ...]
    text: NDArray[np.uint32]
    place: NDArray[np.uint32]
    latent: NDArray[np.uint32]
    activation: NDArray[np.float32]
    known: Known

    def __len__(self) -> int:
        return len(self.latent)

    def __repr__(self) -> str:
        tokens = sum(int(read.recorded.sum()) for read in self.texts)
        return (
            f"<Firings of run {self.run_id}: {len(self.texts)} texts, {tokens:,} recorded tokens, "
            f"{len(np.unique(self.latent)):,} latents, {len(self):,} firings>"
        )

    def top(self, n: int | None = 10, by: By = "activation", text: int | None = None) -> list[Top]:
        """The first n latents (None: all) over all texts, or on one.

        by: ``activation``, the strongest on any token. ``lift``, that over the latent's usual: the
        mean of its activations in the corpus. Not their maximum, which one massive activation sets
        for good (a latent may fire at thousands on one token and at a hundred on all others); the
        mean of a rare latent rests on few tokens, so look at density beside it. ``label``: pairs of
        a latent and a label, by what the latent adds to the log odds of the label by the run's
        probe: its weight times the latent's activation pooled over the text.

        Raises ``DataError`` for a text that there is not, another ``by``, or a run without probe.
        """
        if by not in get_args(By):
            raise DataError(f"by = {by!r} is unknown; name one of {', '.join(get_args(By))}")
        if n is not None and n < 1:
            raise DataError(f"n = {n} must be at least 1, or None for all")
        chosen = range(len(self.texts)) if text is None else [self._number(text)]
        rows = [row for number in chosen for row in self._rows(number)]
        if by == "label":
            return sorted(self._pushes(rows), key=lambda row: (-(row.push or 0), row.latent))[:n]
        strongest: dict[int, Top] = {}
        for row in rows:
            if row.latent not in strongest or row.activation > strongest[row.latent].activation:
                strongest[row.latent] = row
        order = {"activation": lambda row: (-row.activation, row.latent),
                 "lift": lambda row: (-row.lift, -row.activation, row.latent)}[by]  # fmt: skip
        return sorted(strongest.values(), key=order)[:n]

    def only_in(self, a: int, b: int, n: int | None = None) -> list[Top]:
        """The latents that fire on text a and on no token of text b, the strongest first.

        Silence is on the tokens of that text alone: where k latents fire on a token, one may be
        silent because others are stronger.
        """
        there = self._number(b)
        silent = np.setdiff1d(self.latent, self.latent[self.text == there])
        rows = [row for row in self._rows(self._number(a)) if row.latent in set(silent.tolist())]
        return sorted(rows, key=lambda row: (-row.activation, row.latent))[:n]

    def log_odds(self, text: int = 0) -> dict[str, float]:
        """What the run's probe on all latents says of a text: label -> log odds against all others.

        Empty where that can't be computed exactly: without labels, or in runs whose store does not
        give the probe's intercepts. The probe was fitted on whole documents of the corpus.
        """
        probe = self.known.probe
        if probe is None or probe.intercepts is None:
            return {}
        number = self._number(text)
        pooled = np.zeros(probe.weights.shape[1])
        for row in self._rows(number):
            pooled[row.latent] = row.activation if probe.pooling == "max" else row.mean
        odds = probe.weights @ pooled + probe.intercepts
        return dict(zip(probe.labels, odds.tolist(), strict=True))

    def on_token(self, text: int, place: int, n: int | None = None) -> list[tuple[int, float]]:
        """The latents that fire on a token, the strongest first: (latent, activation)."""
        here = (self.text == self._number(text)) & (self.place == place)
        order = np.lexsort((self.latent[here], -self.activation[here]))[:n]
        latents, strength = self.latent[here][order], self.activation[here][order]
        return list(zip(latents.tolist(), strength.tolist(), strict=True))

    def dense(self, latents: Sequence[int], text: int = 0) -> NDArray[np.float32]:
        """Activations of some latents on a text's tokens, float32 [tokens, latents]."""
        number = self._number(text)
        found = np.zeros((len(self.texts[number].ids), len(latents)), np.float32)
        for column, latent in enumerate(latents):
            here = (self.text == number) & (self.latent == latent)
            found[self.place[here], column] = self.activation[here]
        return found

    def to_arrow(self) -> pa.Table:
        """A row for each pair: text, place, position, token_id, token, latent, activation."""
        place, text = self.place.astype(np.int64), self.text.astype(np.int64)
        starts = np.cumsum([0, *(len(read.ids) for read in self.texts)])[text] + place
        whole = {
            "position": np.concatenate([read.position for read in self.texts]),
            "token_id": np.concatenate([read.ids for read in self.texts]).astype(np.uint32),
        }
        tokens = pa.array([token for read in self.texts for token in read.tokens], pa.string())
        return pa.table(
            {
                "text": self.text,
                "place": self.place,
                "position": whole["position"][starts],
                "token_id": whole["token_id"][starts],
                "token": tokens.take(pa.array(starts)),
                "latent": self.latent,
                "activation": self.activation,
            }
        )

    def _repr_html_(self) -> str:
        """For notebooks: the texts coloured by each token's strongest latent, and the latents."""
        from deconstruct.firing.fragment import fragment

        return fragment(self)

    def _number(self, text: int) -> int:
        if not 0 <= text < len(self.texts):
            raise DataError(f"there is no text {text}; they are 0 to {len(self.texts) - 1}")
        return text

    def _rows(self, number: int) -> Iterator[Top]:
        """A row for each latent that fires on a text, by latent."""
        here = np.flatnonzero(self.text == number)
        read = self.texts[number]
        recorded = int(read.recorded.sum())
        order = here[np.lexsort((self.place[here], -self.activation[here], self.latent[here]))]
        latents, first, counts = np.unique(
            self.latent[order], return_index=True, return_counts=True
        )
        for latent, start, fires in zip(
            latents.tolist(), first.tolist(), counts.tolist(), strict=True
        ):
            strongest = float(self.activation[order[start]])
            total = float(self.activation[order[start : start + fires]].astype(np.float64).sum())
            place = int(self.place[order[start]])
            usual = float(self.known.usual[latent])
            known = not math.isnan(usual)
            yield Top(
                latent, strongest, number, place, read.tokens[place], fires, total / recorded,
                usual if known else None, strongest / usual if known else float("inf"),
                float(self.known.density[latent]), self.known.top_token[latent],
            )  # fmt: skip

    def _pushes(self, rows: Sequence[Top]) -> Iterator[Top]:
        """A row for each latent and label that it speaks for."""
        probe = self.known.probe
        if probe is None:
            raise DataError(
                f"by = 'label': run {self.run_id} has no probe of labels; take 'activation' or "
                "'lift'"
            )
        for row in rows:
            pooled = row.activation if probe.pooling == "max" else row.mean
            for label, weight in zip(probe.labels, probe.weights[:, row.latent], strict=True):
                if weight > 0:
                    yield row._replace(label=label, push=float(weight * pooled))
