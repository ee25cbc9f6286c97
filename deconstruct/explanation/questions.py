"""What is shown and what is asked of a latent: contexts drawn, and rendered as excerpts.

Explanations are made from train documents, and scored on held-out ones: no context, document or
copy of a text is on both sides, as a corpus' splits keep them apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.config import ExplanationConfig
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.interpretation.contexts import (
    Firings,
    Texts,
    drawn_documents,
    one_a_group,
    quantile_parts,
    read,
    silent_places,
)


@dataclass(frozen=True)
class Side:
    """The documents of one split: their tokens, what these look like, and where latents fire."""

    texts: Texts
    words: list[str]
    firings: Firings

    @classmethod
    def of(
        cls,
        corpus: Artifact,
        latents: Artifact,
        split: str,
        config: ExplanationConfig,
        wanted: NDArray[np.int64],
    ) -> Side:
        """At most ``config.max_documents`` of a split; of the held-out ones none that is like a
        train document, from which explanations are made."""
        documents = drawn_documents(corpus, split, config.max_documents, config.seed)
        if split == "test":
            groups = group_ids(corpus)
            table = corpus.table("documents.parquet", ["split"])["split"]
            train = table.to_numpy(zero_copy_only=False) == "train"
            documents = documents[~np.isin(groups[documents], groups[train])]
        texts, firings = read(corpus, latents, documents, wanted)
        words: list[str] = []
        for rows in corpus.rows("tokens.parquet", ["doc_id", "token", "special"]):
            inside = np.isin(rows["doc_id"].to_numpy(), documents)
            kept = rows.filter(inside)
            words += [
                "" if special else token
                for token, special in zip(
                    kept["token"].to_pylist(), kept["special"].to_pylist(), strict=True
                )
            ]
        return cls(texts, words, firings)

    def excerpt(self, place: int, width: int, marked: Collection[int]) -> str:
        """The tokens around a place, those of ``marked`` between << and >>."""
        low, high = (int(end[0]) for end in self.texts.bounds(np.array([place]), width))
        shown = []
        for at in range(low, high + 1):
            word = self.words[at]
            bare = word.lstrip(" ")
            shown.append(f"{word[: len(word) - len(bare)]}<<{bare}>>" if at in marked else word)
        return "".join(shown).strip()

    def near(self, latent: int, place: int, width: int) -> list[int]:
        """Places in a context where the latent fires."""
        low, high = self.texts.bounds(np.array([place]), width)
        fires = self.firings.place[latent]
        begin, end = np.searchsorted(fires, low[0]), np.searchsorted(fires, high[0], "right")
        return [int(at) for at in fires[begin:end]]


@dataclass(frozen=True)
class Context:
    """A place, and the quantile of the activation there; None of a silent one."""

    place: int
    quantile: int | None


def firing_contexts(
    side: Side, latent: int, most: int, quantiles: int, draw: np.random.Generator
) -> list[Context]:
    """At most ``most`` contexts of a latent, evenly from its quantiles, the strongest first, each
    from another group of documents."""
    fires, seen = side.firings.place[latent], np.empty(0, np.int64)
    by_part = []
    each = -(-most // quantiles)
    for quantile, part in quantile_parts(side.firings.activation[latent], quantiles):
        places = one_a_group(side.texts, fires[part], draw)
        places = places[~np.isin(side.texts.group[places], seen)][:each]
        seen = np.append(seen, side.texts.group[places])
        by_part.append([Context(int(place), quantile) for place in places])
    return [one for part in reversed(by_part) for one in part][:most]


def silent_contexts(
    side: Side, latent: int, most: int, width: int, apart: list[Context], draw: np.random.Generator
) -> list[Context]:
    """At most ``most`` contexts in which a latent is silent, in groups of their own."""
    fires = side.firings.place[latent]
    taken = side.texts.group[np.array([one.place for one in apart], np.int64)]
    found: list[Context] = []
    for _ in range(8):
        for place in silent_places(side.texts, fires, width, taken, draw)[: most - len(found)]:
            found.append(Context(int(place), None))
            taken = np.append(taken, side.texts.group[place])
        if len(found) == most:
            break
    return found


def wrong_marks(
    side: Side, latent: int, place: int, width: int, draw: np.random.Generator
) -> list[int]:
    """As many tokens of a context as the latent fires on there, on none of which it does; fewer
    where there are fewer."""
    fires = side.near(latent, place, width)
    low, high = (int(end[0]) for end in side.texts.bounds(np.array([place]), width))
    silent = [at for at in range(low, high + 1) if at not in fires and is_seen(side, at)]
    count = min(len(fires), len(silent))
    return sorted(int(at) for at in draw.choice(silent, count, replace=False)) if count else []


def is_seen(side: Side, place: int) -> bool:
    """Whether a token is anything that one sees marked."""
    return bool(side.words[place].strip())
