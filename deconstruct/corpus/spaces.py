"""Whether the pieces of a tokenizer keep the spaces of a text.

Byte-level and SentencePiece vocabularies do: their pieces, put together, are the text. Those of
words (WordPiece, WordLevel, BPE with an end-of-word mark, anything behind a splitter that drops
what it splits at) do not, and what stands between two tokens must be taken from the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from deconstruct.artifacts import sha256_of

_DROPPING = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit")
_MARKS = re.compile(rb'"(end_of_word_suffix|continuing_subword_prefix)"\s*:\s*"[^"]')
_PRE_TOKENIZER = re.compile(rb'"pre_tokenizer"\s*:\s*(?=\{)')
_LONGEST = 1 << 20
_END_OF_WORD = b"</w>"


def kept_by(folder: Path) -> bool:
    """Whether the tokenizer in a model's folder keeps spaces, read from its files alone.

    One that is not there, or that does not read, counts as keeping them: loading says what is
    wrong.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        return _kept(file, sha256_of(file))
    if (folder / "vocab.txt").is_file():  # WordPiece
        return False
    merges = folder / "merges.txt"
    return not (merges.is_file() and _END_OF_WORD in merges.read_bytes())


@lru_cache(maxsize=8)
def _kept(file: Path, digest: str) -> bool:
    """Of ``tokenizer.json``: megabytes of vocabulary, so only what is looked for is parsed.

    Keys are found by their bytes: inside a string their quotes would be escaped.
    """
    raw = file.read_bytes()
    if _MARKS.search(raw):
        return False
    found = _PRE_TOKENIZER.search(raw)
    if found is None:
        return True
    text = raw[found.end() : found.end() + _LONGEST].decode("utf-8", "replace")
    try:
        pre_tokenizer, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return True
    kept = True
    for step in _steps(pre_tokenizer):
        if step.get("type") in _DROPPING or step.get("behavior") == "Removed":
            kept = False
        elif step.get("add_prefix_space") or step.get("prepend_scheme") == "always":
            kept = True  # each word that is left gets a mark
    return kept


def _steps(pre_tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield pre_tokenizer
    for inner in pre_tokenizer.get("pretokenizers", []):
        yield from _steps(inner)
