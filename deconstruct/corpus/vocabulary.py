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


UNCUT = 1 << 40
"""Tokens that no text has."""
PIECE = 1 << 18
"""Characters of a text that are tokenised at once, where all of it is wanted: what a tokenizer
holds of a token takes some hundred bytes."""
CONTEXT = 1 << 10
"""Characters before a piece that are read with it, so that its first tokens are those of the
text."""


class Cut(NamedTuple):
    """The first tokens of a text, or all of them in windows.

    spaced: [tokens], whether space stands before a token that its piece does not hold, and
    characters: of the text, up to the last token's end; None where pieces keep spaces. starts:
    [tokens], at which character of the text each begins, -1 for those before it; None unless asked
    for. recorded: [tokens], whether its activations are; None: of all but special ones.
    """

    ids: list[int] | NDArray[np.uint32]
    spaced: list[bool] | NDArray[np.bool_] | None = None
    characters: int | None = None
    starts: NDArray[np.int64] | None = None
    recorded: NDArray[np.bool_] | None = None


class _Piece(NamedTuple):
    """Tokens of a part of a text, and where they begin and end in the text. [tokens] each."""

    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def at(self, chosen: slice | NDArray[np.bool_]) -> _Piece:
        """Some of them."""
        return _Piece(self.ids[chosen], self.starts[chosen], self.ends[chosen])


class Vocabulary:
    """Wraps a fast ``transformers`` tokenizer.

    spaces_kept: whether its pieces, put together, are the text (`spaces.kept_by`). prepend_bos:
    ``always`` begins a document with BOS, ``never`` with its text, ``auto`` with what the
    tokenizer itself puts first (BOS or nothing, for language models). placed: whether cuts say
    where their tokens begin.
    """

    def __init__(
        self,
        tokenizer: Any,
        prepend_bos: Literal["auto", "always", "never"],
        spaces_kept: bool = True,
        placed: bool = False,
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
        self._placed = placed
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
            none = np.empty(0, np.int64) if self._placed else None
            return [Cut([], None if self.spaces_kept else [], 0, none) for _ in texts]
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=length < UNCUT,
            max_length=length if length < UNCUT else None,
            verbose=False,  # of more tokens than the model takes: they are dealt out
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=self._placed or not self.spaces_kept,
        )
        cuts = [Cut(ids) for ids in encoded["input_ids"]]
        if not self.spaces_kept:
            cuts = list(map(_with_spaces, texts, encoded["input_ids"], encoded["offset_mapping"]))
        if not self._placed:
            return cuts
        starts = (np.array(o, np.int64).reshape(-1, 2)[:, 0] for o in encoded["offset_mapping"])
        return [cut._replace(starts=found) for cut, found in zip(cuts, starts, strict=True)]

    def windows(self, texts: list[str], length: int) -> list[Cut]:
        """All tokens of each text, in windows of ``length`` one after another, `prefix` before
        each, as `documents` has the first.

        Time is linear in a text's length. Of one of more than `PIECE` characters pieces are read
        that begin at white space, with `CONTEXT` before them: memory is that of a piece, beside 4
        bytes a token. A token there may be another than one of the text as a whole, where that is
        decided by what lies farther off.
        """
        return [_dealt(cut, self.prefix, length) for cut in self._whole(texts)]

    def _whole(self, texts: list[str]) -> Iterator[Cut]:
        """All tokens of each text; short ones are read together, for a tokenizer's threads."""
        waiting: list[str] = []
        for text in texts:
            if len(text) > PIECE or sum(map(len, waiting)) > PIECE:
                yield from self.cut(waiting, UNCUT)
                waiting = []
            if len(text) > PIECE:
                yield self._by_pieces(text)
            else:
                waiting.append(text)
        yield from self.cut(waiting, UNCUT)

    def _by_pieces(self, text: str) -> Cut:
        ids, starts, end = [], [], 0
        spaced: list[NDArray[np.bool_]] = []
        for piece in self._pieces(text):
            ids.append(piece.ids)
            starts.append(piece.starts if self._placed else piece.starts[:0])
            if not self.spaces_kept and len(piece.ids):
                offsets = list(zip(piece.starts.tolist(), piece.ends.tolist(), strict=True))
                spaced.append(np.array(_space_before(text, end, offsets), np.bool_))
                end = max(end, int(piece.ends.max()))
        cut = Cut(np.concatenate(ids), starts=np.concatenate(starts) if self._placed else None)
        if self.spaces_kept:
            return cut
        return cut._replace(spaced=np.concatenate([np.zeros(0, np.bool_), *spaced]), characters=end)

    def _pieces(self, text: str) -> Iterator[_Piece]:
        """The tokens of a text; each piece ends before a token that begins at white space, and is
        looked for so far from where its reading ended that what follows could not change it."""
        done = 0
        while True:
            begin = max(0, done - CONTEXT)
            last = begin + PIECE >= len(text)
            found = self._tokenizer(
                text[begin : begin + PIECE],
                add_special_tokens=False,
                verbose=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                return_offsets_mapping=True,
            )
            offsets = np.array(found["offset_mapping"], np.int64).reshape(-1, 2) + begin
            piece = _Piece(np.array(found["input_ids"], np.uint32), offsets[:, 0], offsets[:, 1])
            if begin > 0:
                piece = piece.at(piece.ends > done)
            if last:
                yield piece
                return
            count = _whole_until(piece, text, done, begin + PIECE - CONTEXT)
            done = int(piece.starts[count]) if count < len(piece.ids) else begin + PIECE
            yield piece.at(slice(count))

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
    spaced = None if cut.spaced is None else [False] * len(prefix) + list(cut.spaced)
    starts = None if cut.starts is None else np.r_[np.full(len(prefix), -1), cut.starts]
    return cut._replace(ids=prefix + list(cut.ids), spaced=spaced, starts=starts)


def _with_spaces(text: str, ids: list[int], offsets: list[tuple[int, int]]) -> Cut:
    spaced = _space_before(text, 0, offsets)
    return Cut(ids, spaced, max(end for _, end in [(0, 0), *offsets]))


def _space_before(text: str, begin: int, offsets: list[tuple[int, int]]) -> list[bool]:
    """Whether white space stands before each of some tokens, the first of which follows on what
    ends at ``begin``."""
    ends = [begin, *(end for _, end in offsets)]
    between = (text[end:start] for end, (start, _) in zip(ends, offsets, strict=False))
    return [any(character.isspace() for character in gap) for gap in between]


def _dealt(cut: Cut, prefix: list[int], length: int) -> Cut:
    """All tokens of a text in windows of ``length``, each of which begins with ``prefix``."""
    head, room = np.array(prefix, np.uint32), length - len(prefix)
    columns: list[tuple[NDArray[Any], int]] = [(np.asarray(cut.ids, np.uint32), 0)]
    if cut.spaced is not None:
        columns.append((np.asarray(cut.spaced, np.bool_), False))
    if cut.starts is not None:
        columns.append((cut.starts, -1))
    if prefix and np.array_equal(columns[0][0][: len(head)], head):  # a text that brings its own
        columns = [(column[len(head) :], blank) for column, blank in columns]
    count = len(columns[0][0]) if room > 0 else 0
    windows = max(1, -(-count // max(1, room)))
    place = np.arange(count)
    place += (place // max(1, room) + 1) * len(head)
    dealt: list[NDArray[Any]] = []
    for column, blank in columns:
        dealt.append(np.full(count + windows * len(head), blank, column.dtype))
        dealt[-1][place] = column[:count]
    for number, one in enumerate(head):
        dealt[0][np.arange(windows) * length + number] = one
    ids, *others = dealt
    spaced = others.pop(0) if cut.spaced is not None else None
    return Cut(ids, spaced, cut.characters, others[0] if others else None)


def _whole_until(piece: _Piece, text: str, done: int, most: int) -> int:
    """How many tokens of a piece are given: the one after them begins after ``done``, at most at
    ``most``, where none before it still goes on, and best at white space."""
    through = np.concatenate([[done], np.maximum.accumulate(piece.ends)[:-1]])
    whole = (piece.starts > done) & (piece.starts <= most) & (piece.starts >= through)
    places = np.flatnonzero(whole)
    for place in places[::-1]:
        start = int(piece.starts[place])
        if text[start].isspace() or text[start - 1].isspace():
            return int(place)
    return int(places[-1]) if len(places) else len(piece.ids)


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
