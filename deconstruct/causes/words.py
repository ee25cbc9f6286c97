"""The words of a run's corpus that are one token each, with an activation of each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deconstruct.activations.shards import ShardFile
from deconstruct.artifacts import Artifact
from deconstruct.causes.subject import Subject
from deconstruct.corpus.vocabulary import token_strings

MOST_ROWS = 1_000_000
"""Recorded tokens of a split among which words are looked for."""
_WORD = re.compile(" [A-Za-z]{2,}")

Part = Literal["fit", "chosen_on", "test"]


@dataclass(frozen=True)
class Words:
    """Words of one part: in small letters [n], their first letters [n], x float32 [n, d_in]."""

    words: list[str]
    letters: NDArray[np.str_]
    x: NDArray[np.float32]


def words_of(subject: Subject) -> dict[Part, Words]:
    """Each word, in small letters, once: the first that is met in the shards, whose order is drawn.

    A word is a token of letters after a space that no letter follows. Half of the words that occur
    in held-out documents, by a hash, are ``test``, with activations from there; the others come
    from train documents, three quarters of them ``fit``.
    """
    kinds, whole, names = _whole_words(subject.corpus)
    found: dict[Part, Words] = {}
    test = _first(subject.activations, "test", kinds, whole)
    test = {kind: x for kind, x in test.items() if _hash(names[kind], 0) < 128}
    rest = _first(subject.activations, "train", kinds, whole)
    rest = {kind: x for kind, x in rest.items() if kind not in test}
    inner = {kind for kind in rest if _hash(names[kind], 1) < 64}
    parts: dict[Part, dict[int, NDArray[np.float32]]] = {
        "fit": {kind: x for kind, x in rest.items() if kind not in inner},
        "chosen_on": {kind: x for kind, x in rest.items() if kind in inner},
        "test": test,
    }
    width = int(subject.activations.facts["d_in"])
    for part, of in parts.items():
        words = [names[kind] for kind in sorted(of)]
        x = np.stack([of[kind] for kind in sorted(of)]) if of else np.empty((0, width), np.float32)
        found[part] = Words(words, np.array([word[0] for word in words], dtype="U1"), x)
    return found


def _whole_words(
    corpus: Artifact,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], list[str]]:
    """Of each token of the corpus the number of its word, [tokens]; whether it is one whole word,
    [tokens]; and the words by number."""
    strings = token_strings(corpus, special=False)
    tables = list(corpus.rows("tokens.parquet", ["token_id", "position"]))
    ids = np.concatenate([table["token_id"].to_numpy() for table in tables]).astype(np.int64)
    position = np.concatenate([table["position"].to_numpy() for table in tables])
    size = int(ids.max(initial=0)) + 1
    names: dict[str, int] = {}
    kind_of, goes_on = np.full(size, -1), np.zeros(size, bool)
    for token, text in sorted(strings.items()):
        goes_on[token] = text[:1].isalpha()
        if _WORD.fullmatch(text):
            kind_of[token] = names.setdefault(text[1:].lower(), len(names))
    kinds = kind_of[ids]
    followed = np.append(ids[1:], 0)
    inside = np.append(position[1:], 0) > 0  # what is cut off may go on
    return kinds, (kinds >= 0) & inside & ~goes_on[followed], list(names)


def _first(
    activations: Artifact, split: str, kinds: NDArray[np.int64], whole: NDArray[np.bool_]
) -> dict[int, NDArray[np.float32]]:
    """Number of a word -> the activation of its first occurrence among the shards of a split."""
    found: dict[int, NDArray[np.float32]] = {}
    rows = 0
    for path in activations.files(f"{split}-*.parquet"):
        shard = ShardFile(path)
        for group in range(len(shard.group_rows)):
            if rows >= MOST_ROWS:
                return found
            token = shard.column(group, "token_index").astype(np.int64)
            rows += len(token)
            places = np.flatnonzero(whole[token])
            words, first = np.unique(kinds[token[places]], return_index=True)
            new = [
                (int(w), int(places[f]))
                for w, f in zip(words, first, strict=True)
                if int(w) not in found
            ]
            if new:
                block = shard.activation(group)
                found |= {word: block[place].float().numpy().copy() for word, place in new}
    return found


def _hash(word: str, byte: int) -> int:
    return hashlib.sha256(word.encode()).digest()[byte]
