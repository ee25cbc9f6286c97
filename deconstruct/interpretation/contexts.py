"""Contexts of latents: windows of tokens around firings and around silence, as numbers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.corpus.alike.groups import group_ids

TRIES = 64
"""Places that are looked at for one where a latent is silent; dense latents may have none."""


@dataclass(frozen=True)
class Texts:
    """The tokens of some documents, in the corpus' order; arrays [tokens], places into them.

    index: token_index. token: token_id. group: of the document; texts alike share one. first, last:
    place of the first and the last token of what the model read at once. recorded: a latent fires
    on it, so that its activation was recorded.
    """

    index: NDArray[np.int64]
    token: NDArray[np.int64]
    group: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    recorded: NDArray[np.bool_]

    @cached_property
    def recorded_places(self) -> NDArray[np.int64]:
        """Where ``recorded`` holds, ascending."""
        return np.flatnonzero(self.recorded)

    def bounds(
        self, place: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last place of the contexts around ``place``: ``width`` tokens on each side."""
        return (
            np.maximum(self.first[place], place - width),
            np.minimum(self.last[place], place + width),
        )


@dataclass(frozen=True)
class Firings:
    """Where latents fire in some texts: by latent, places ascending, and activations."""

    place: dict[int, NDArray[np.int64]]
    activation: dict[int, NDArray[np.float32]]


def scattered(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number without meaning for each, to draw by (splitmix64, Steele et al. 2014)."""
    x = numbers.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def drawn_documents(corpus: Artifact, split: str, most: int, seed: int) -> NDArray[np.int64]:
    """doc_id of at most ``most`` documents of a split, ascending; a document's own number decides,
    so that others change nothing."""
    splits = corpus.table("documents.parquet", ["split"])["split"].to_numpy(zero_copy_only=False)
    own = np.flatnonzero(splits == split)
    return np.sort(own[np.argsort(scattered(own, seed), kind="stable")[:most]])


def read(
    corpus: Artifact,
    latents: Artifact,
    documents: NDArray[np.int64],
    wanted: NDArray[np.int64],
) -> tuple[Texts, Firings]:
    """The tokens of ``documents``, and where the latents ``wanted`` fire in them."""
    of_document = group_ids(corpus)
    index, token, doc, position = _tokens(corpus, documents)
    starts = np.flatnonzero((position == 0) | (np.diff(doc, prepend=-1) != 0))
    window = np.cumsum(np.isin(np.arange(len(doc)), starts)) - 1 if len(doc) else doc
    ends = np.append(starts[1:], len(doc)) - 1
    recorded = np.zeros(len(doc), bool)
    firings = _firings(latents, index, wanted, recorded)
    texts = Texts(index, token, of_document[doc], starts[window], ends[window], recorded)
    return texts, firings


def _tokens(corpus: Artifact, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """token_index, token_id, doc_id and position of the documents' tokens, in order."""
    names = ["token_index", "token_id", "doc_id", "position"]
    parts: list[list[NDArray[np.int64]]] = []
    for rows in corpus.rows("tokens.parquet", names):
        columns = [rows[name].to_numpy().astype(np.int64) for name in names]
        inside = np.isin(columns[2], documents)
        parts.append([column[inside] for column in columns])
    empty = np.empty(0, np.int64)
    return tuple(np.concatenate([empty, *(part[i] for part in parts)]) for i in range(4))


def _firings(
    latents: Artifact,
    index: NDArray[np.int64],
    wanted: NDArray[np.int64],
    recorded: NDArray[np.bool_],
) -> Firings:
    """Where the wanted latents fire on the tokens ``index``; ``recorded`` is set where any does."""
    is_wanted = np.zeros(len(latents.table("features.parquet", ["latent"])), bool)
    is_wanted[wanted] = True
    place_of = np.full(int(index[-1]) + 1 if len(index) else 0, -1, np.int32)
    place_of[index] = np.arange(len(index))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for rows in latents.rows("latents.parquet", ["latent", "token_index", "activation"]):
        token = rows["token_index"].to_numpy().astype(np.int64)
        near = token < len(place_of)
        place = np.where(near, place_of[np.where(near, token, 0)], -1) if len(place_of) else token
        inside = (place >= 0) & near
        recorded[place[inside]] = True
        latent = rows["latent"].to_numpy()
        kept = inside & is_wanted[latent]
        found.append(
            (
                latent[kept].astype(np.int64),
                place[kept].astype(np.int64),
                rows["activation"].to_numpy()[kept],
            )
        )
    latent = np.concatenate([np.empty(0, np.int64), *(one[0] for one in found)])
    place = np.concatenate([np.empty(0, np.int64), *(one[1] for one in found)])
    strength = np.concatenate([np.empty(0, np.float32), *(one[2] for one in found)])
    order = np.lexsort((place, latent))
    ends = np.searchsorted(latent[order], wanted, "right")
    begins = np.searchsorted(latent[order], wanted, "left")
    parts = {int(w): order[b:e] for w, b, e in zip(wanted, begins, ends, strict=True)}
    return Firings(
        {w: place[part] for w, part in parts.items()},
        {w: strength[part] for w, part in parts.items()},
    )


def quantile_parts(
    activation: NDArray[np.float32], quantiles: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """1, the weakest, up to ``quantiles``, each with its numbers into the array: equally many."""
    order = np.argsort(activation, kind="stable")
    yield from enumerate(np.array_split(order, quantiles), 1)


def one_a_group(
    texts: Texts, place: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """A place of each group among ``place``, in an order without meaning."""
    shuffled = draw.permutation(place)
    _, first = np.unique(texts.group[shuffled], return_index=True)
    return np.asarray(shuffled[np.sort(first)])


def silent_places(
    texts: Texts,
    fires: NDArray[np.int64],
    width: int,
    apart: NDArray[np.int64],
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    """Places of recorded tokens with no firing in their whole context, each in a group of its own
    that is not among ``apart``; of some that were drawn, so there may be none.

    fires: the places where the latent fires, ascending.
    """
    recorded = texts.recorded_places
    if len(recorded) == 0:
        return recorded
    place = recorded[draw.integers(len(recorded), size=TRIES)]
    low, high = texts.bounds(place, width)
    silent = np.searchsorted(fires, low, "left") == np.searchsorted(fires, high, "right")
    place = place[silent & ~np.isin(texts.group[place], apart)]
    _, first = np.unique(texts.group[place], return_index=True)
    return np.asarray(place[np.sort(first)])
