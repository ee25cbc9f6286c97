"""A tokenizer as the corpus needs it: texts to ids, ids to readable strings, what is special."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import ConfigError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTE_PIECES = re.compile(r"(?:<0x[0-9A-Fa-f]{2}>)+")


class Cut(NamedTuple):
    """The first tokens of a text.

    spaced: [tokens], whether space stands before a token that its piece does not hold, and
    characters: of the text, up to the last token's end; None where pieces keep spaces.
    """

    ids: list[int]
    spaced: list[bool] | None = None
    characters: int | None = None


class Vocabulary:
    """Wraps a fast ``transformers`` tokenizer.

    spaces_kept: whether its pieces, put together, are the text (`spaces.kept_by`). prepend_bos:
    ``always`` begins a document with BOS, ``never`` with its text, ``auto`` with what the
    tokenizer itself puts first (BOS or nothing, for language models).
    """

    def __init__(
        self,
        tokenizer: Any,
        prepend_bos: Literal["auto", "always", "never"],
        spaces_kept: bool = True,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"the model's tokenizer ({type(tokenizer).__name__}) is not a fast one; save it "
                "with its tokenizer.json"
            )
        tokenizer.truncation_side = "right"  # a document is its beginning
        self._tokenizer = tokenizer
        self._prepend_bos = prepend_bos
        self.spaces_kept = spaces_kept
        self.bos: int | None = tokenizer.bos_token_id

    @cached_property
    def prefix(self) -> list[int]:
        """Ids that every document begins with."""
        if self._prepend_bos == "never":
            return []
        if self._prepend_bos == "always":
            return [] if self.bos is None else [self.bos]
        for text in self._known_texts():
            bare = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            dressed = self._tokenizer(text, add_special_tokens=True)["input_ids"]
            if not bare or self.special[bare].any():  # unknown to it, it may be told as a marker
                continue
            for start in range(len(dressed) - len(bare) + 1):
                if dressed[start : start + len(bare)] == bare:
                    return list(dressed[:start])
            return []
        first = self._tokenizer("", add_special_tokens=True)["input_ids"][:1]
        return first if first == [self.bos] else []

    def _known_texts(self) -> Iterator[str]:
        """Short texts, one of which should have a token: not every vocabulary has an "a"."""
        yield "a"
        yield from (self._tokenizer.decode([i]) for i in np.flatnonzero(~self.special)[:1000])

    def documents(self, texts: list[str], length: int) -> list[Cut]:
        """The first ``length`` tokens of each text as a document, `prefix` and all; one that brings
        the prefix itself, as chats do that begin with "<s>", gets no second."""
        prefix = self.prefix
        cuts = self.cut(texts, length - len(prefix))
        bring = [n for n, cut in enumerate(cuts) if prefix and cut.ids[: len(prefix)] == prefix]
        documents = [_after(prefix, cut) for cut in cuts]
        for n, cut in zip(bring, self.cut([texts[n] for n in bring], length), strict=True):
            documents[n] = cut
        return documents

    def cut(self, texts: list[str], length: int) -> list[Cut]:
        """The first ``length`` tokens of each text, without any that the text does not hold."""
        if not texts or length < 1:
            return [Cut([], None if self.spaces_kept else [], 0) for _ in texts]
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=length,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=not self.spaces_kept,
        )
        if self.spaces_kept:
            return [Cut(ids) for ids in encoded["input_ids"]]
        return [
            _with_spaces(*each)
            for each in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def texts_of(self, ids: NDArray[np.uint32], spaced: NDArray[np.bool_] | None) -> pa.Array:
        """The tokens' texts, with the one space that ``spaced`` asks for. ids, spaced: [tokens]."""
        found = self.strings.take(pa.array(ids))
        if spaced is None:
            return found
        return pc.if_else(pa.array(spaced), pc.binary_join_element_wise(" ", found, ""), found)

    @cached_property
    def strings(self) -> pa.Array:
        """Every id's own text, by id: spaces are spaces, bytes that are no text are ``<0xE2>``.

        Marks of a word's end and of what continues a word are left out.
        """
        size = max(self._tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps
        pieces = self._tokenizer.convert_ids_to_tokens(range(size))
        added = self._tokenizer.added_tokens_decoder
        backend = self._tokenizer.backend_tokenizer
        byte_level = "ByteLevel(" in f"{backend.decoder!r}{backend.pre_tokenizer!r}"
        read = _from_byte_level if byte_level else _from_sentencepiece
        prefix = getattr(backend.model, "continuing_subword_prefix", None) or ""
        suffix = getattr(backend.model, "end_of_word_suffix", None) or ""
        return pa.array(
            [
                "" if piece is None
                else piece if i in added
                else read(piece.removeprefix(prefix).removesuffix(suffix))
                for i, piece in enumerate(pieces)
            ],
            pa.string(),
        )  # fmt: skip

    @cached_property
    def special(self) -> NDArray[np.bool_]:
        """Whether an id is a marker and no text; bool [vocabulary].

        The token for the unknown stands for a text's piece, so it is none, unless it serves as
        BOS, EOS or padding too, as GPT-2's does. Nor is one that texts are made of, such as a comma
        that somebody took for padding; only what stands at a document's beginning is never text.
        """
        tokenizer = self._tokenizer
        ids = set(tokenizer.all_special_ids)
        ids |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        markers = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        if tokenizer.unk_token_id not in markers:
            ids.discard(tokenizer.unk_token_id)
        names = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in ids}
        ids = {i for i in ids if i == tokenizer.bos_token_id or not _is_text(names[i])}
        special = np.zeros(len(self.strings), bool)
        special[sorted(ids)] = True
        return special


def _is_text(token: str) -> bool:
    """Whether a token that is declared special is a piece of text, not a marker as ``<s>``,
    ``[SEP]``, ``<|endoftext|>`` and ``PAD`` are."""
    in_brackets = any(sign in token for sign in "<>[]{}|")
    return not in_brackets and not (token.isupper() and len(token) > 2)


def token_strings(corpus: Artifact, *, special: bool = True) -> dict[int, str]:
    """Texts of the token ids that occur in a corpus; markers only if ``special``.

    Of a token that stands now after a space, now at a word's other end, the one with the space.
    """
    strings: dict[int, str] = {}
    for rows in corpus.rows("tokens.parquet", ["token_id", "token", "special"]):
        table = rows if special else rows.filter(pc.invert(rows["special"]))
        least = table.group_by("token_id").aggregate([("token", "min")]).sort_by("token_id")
        columns = (least[name].to_pylist() for name in ("token_id", "token_min"))
        for token, text in zip(*columns, strict=True):
            strings[token] = min(text, strings.get(token, text))
    return strings


def _after(prefix: list[int], cut: Cut) -> Cut:
    spaced = None if cut.spaced is None else [False] * len(prefix) + cut.spaced
    return cut._replace(ids=prefix + cut.ids, spaced=spaced)


def _with_spaces(text: str, ids: list[int], offsets: list[tuple[int, int]]) -> Cut:
    ends = [0, *(end for _, end in offsets)]
    between = [text[end:start] for end, (start, _) in zip(ends, offsets, strict=False)]
    spaced = [any(character.isspace() for character in gap) for gap in between]
    return Cut(ids, spaced, max(ends))


def whole_characters(text: str) -> str:
    """Token texts put together, with the bytes of characters that tokens cut through made whole.

    Bytes that make no character, as at the end of a cut text, are left out.
    """
    return _BYTE_PIECES.sub(
        lambda run: bytes.fromhex(run[0].replace("<0x", "").replace(">", "")).decode(
            "utf-8", "ignore"
        ),
        text,
    )


def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each byte, turned round."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_of()


def _from_byte_level(piece: str) -> str:
    if any(character not in _BYTE_OF for character in piece):
        return piece
    raw = bytes(_BYTE_OF[character] for character in piece)
    text = raw.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def _from_sentencepiece(piece: str) -> str:
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte:
        value = int(byte[1], 16)
        return chr(value) if value < 0x80 else piece
    return piece.replace("\u2581", " ")
