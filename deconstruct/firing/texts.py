"""Texts of one's own, cut into tokens as the corpus of a run was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import spaces
from deconstruct.corpus.reading.chats import Chats, recorded
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import UNCUT, Cut, Vocabulary
from deconstruct.model.loading import load_tokenizer
from deconstruct.model.resolve import ResolvedModel

MOST_TEXTS = 256
MOST_CHARACTERS = 200_000
"""Of all texts together: some 50,000 tokens, which a small model reads in a minute or so."""

Chat = Sequence[Mapping[str, str]]
"""Messages, each with a role and a content."""


@dataclass(frozen=True)
class Read:
    """A text as the run's model reads it.

    text: of a chat, what the template makes of it. ids: int64 [n]; tokens: their own texts [n];
    position: uint32 [n], each one's place in what the model reads at once; special: bool [n],
    whether it is a mark such as BOS and no piece of the text; recorded: bool [n], whether the SAE
    encodes it: no special token, none of the run's skipped first positions.
    left_out: tokens of the text that come after these, which the run does not read.
    """

    text: str
    ids: NDArray[np.int64]
    tokens: tuple[str, ...]
    position: NDArray[np.uint32]
    special: NDArray[np.bool_]
    recorded: NDArray[np.bool_]
    left_out: int

    def windows(self) -> list[slice]:
        """What the model reads at once: the whole, or one part after another."""
        starts = np.flatnonzero(self.position == 0).tolist()
        ends = [*starts[1:], len(self.ids)]
        return [slice(first, last) for first, last in zip(starts, ends, strict=True)]


def checked(texts: str | Iterable[str | Chat]) -> list[str | Chat]:
    """The texts as a list. Raises ``DataError`` for none or too many, for an empty one, one that is
    no text, and for more characters than are read at once."""
    if not isinstance(texts, str | Iterable):
        raise DataError(f"texts = {texts!r:.80} is no text; give a string or a list of strings")
    listed: list[str | Chat] = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise DataError("texts = [] holds no text; give at least one")
    if len(listed) > MOST_TEXTS:
        raise DataError(
            f"texts holds {len(listed):,} texts, and at most {MOST_TEXTS} are read at once; give "
            "fewer, or make a run of them with 'deconstruct analyse'"
        )
    characters = 0
    for number, text in enumerate(listed):
        if not isinstance(text, str) and not _is_chat(text):
            raise DataError(
                f"texts[{number}] = {text!r:.80} is no text; give a string or, to a run of chats, "
                "a list of messages with a role and a content"
            )
        said = [text] if isinstance(text, str) else [one["content"] for one in text]
        if not any(one.strip() for one in said):
            raise DataError(f"texts[{number}] is empty; write something into it")
        characters += sum(map(len, said))
    if characters > MOST_CHARACTERS:
        raise DataError(
            f"texts has {characters:,} characters, and at most {MOST_CHARACTERS:,} are read at "
            "once; shorten them, or give them one after another"
        )
    return listed


def _is_chat(text: object) -> bool:
    return (
        isinstance(text, Sequence)
        and not isinstance(text, bytes)
        and len(text) > 0
        and all(
            isinstance(one, Mapping)
            and all(isinstance(one.get(name), str) for name in ("role", "content"))
            for one in text
        )
    )


class Cutter:
    """Cuts texts as ``corpus`` was cut. model: the run's own; skip: first positions that are not
    recorded."""

    def __init__(self, model: ResolvedModel, corpus: Artifact, skip: int) -> None:
        settings = corpus.manifest.config
        names = ("max_tokens", "prepend_bos", "long_documents", "roles")
        self._config = CorpusConfig(**{name: settings[name] for name in names if name in settings})
        self._model, self._skip = model, skip
        tokenizer = load_tokenizer(model)
        roles = self._config.roles
        self._chats = None if roles is None else Chats(tokenizer, roles, model.name)
        kept = spaces.kept_by(model.folder)
        self._vocabulary = Vocabulary(
            tokenizer, self._config.prepend_bos, kept, self._chats is not None
        )

    def read(self, texts: Sequence[str | Chat]) -> list[Read]:
        """The texts' tokens.

        A text of more than the run's ``corpus.max_tokens`` is cut off there or, where the run
        splits long documents, dealt out in windows. Of chats, which only a run of chats reads, the
        tokens that the run records of theirs are recorded; of a plain text all.

        Raises ``DataError`` for a text of which no token would be recorded, or a chat where the run
        has none; ``ConfigError`` for a token that the model has no embedding of.
        """
        return [self._read(number, text) for number, text in enumerate(texts)]

    def _read(self, number: int, text: str | Chat) -> Read:
        spans = None
        if not isinstance(text, str):
            if self._chats is None:
                raise DataError(
                    f"texts[{number}] is a chat, and the run is of plain texts (corpus.roles is "
                    "not set); give it as a string"
                )
            cell = json.dumps([dict(message) for message in text])
            text = self._chats.text_of(cell) or ""
            if self._config.roles != "all":
                spans = self._chats.spans_of(cell)
        text = encodable(text)
        length, vocabulary = self._config.max_tokens, self._vocabulary
        split = self._config.long_documents == "split"
        [cut] = (vocabulary.windows if split else vocabulary.documents)([text], length)
        ids = np.asarray(cut.ids, np.int64)
        self._check(number, ids)
        position = (np.arange(len(ids)) % length).astype(np.uint32)
        special = vocabulary.special[ids]
        kept = ~special & (position >= self._skip)
        if spans is not None and cut.starts is not None:
            kept &= recorded(cut.starts, spans)
        if not kept.any():
            raise DataError(
                f"texts[{number}] = {text!r:.60} has no token that the run records (special ones "
                f"and the first {self._skip} are not); write more"
            )
        left_out = self._left_out(text, cut, split)
        return Read(text, ids, self._spelled(cut), position, special, kept, left_out)

    def _check(self, number: int, ids: NDArray[np.int64]) -> None:
        largest, rows = int(ids.max(initial=0)), self._model.vocabulary
        if rows is not None and largest >= rows:
            raise ConfigError(
                f"texts[{number}] has the token {largest}, and the embedding of {self._model.name} "
                f"has {rows} rows; leave out what the model does not know"
            )

    def _spelled(self, cut: Cut) -> tuple[str, ...]:
        spaced = None if cut.spaced is None else np.asarray(cut.spaced, np.bool_)
        return tuple(self._vocabulary.texts_of(np.asarray(cut.ids, np.uint32), spaced).to_pylist())

    def _left_out(self, text: str, cut: Cut, split: bool) -> int:
        """How many tokens come after those that were cut."""
        if split or len(cut.ids) < self._config.max_tokens:
            return 0
        everything = UNCUT + len(self._vocabulary.prefix)
        [whole] = self._vocabulary.documents([text], everything)
        return len(whole.ids) - len(cut.ids)
