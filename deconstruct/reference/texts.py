"""The texts whose losses are judged: held-out documents, drawn evenly over the corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.common import parquet
from deconstruct.corpus.tables import RECORDED

BATCH_TOKENS = 512
"""Tokens in one pass: their logits over a vocabulary of 262,144 take 0.25 GB in bfloat16."""


@dataclass(frozen=True)
class Text:
    """One document, or a window of one: token ids [length] and which positions are recorded
    [length]."""

    doc_id: int
    ids: NDArray[np.int64]
    recorded: NDArray[np.bool_]


def held_out_texts(corpus: Artifact, limit: int | None, skip_positions: int) -> list[Text]:
    """Test documents of at least two tokens, at most ``limit``, drawn evenly over the corpus.

    Of documents that are split it is windows that are drawn.
    """
    documents = corpus.table("documents.parquet", ["split", "n_tokens"])
    length = int(corpus.manifest.config["max_tokens"])
    lengths = documents["n_tokens"].to_numpy().astype(np.int64)
    test = np.flatnonzero(documents["split"].to_numpy(zero_copy_only=False) == "test")
    windows = -(-lengths[test] // length)
    document = np.repeat(test, windows)
    number = np.arange(len(document)) - np.repeat(np.cumsum(windows) - windows, windows)
    if limit is not None and len(document) > limit:
        drawn = np.linspace(0, len(document) - 1, limit).round().astype(int)
        document, number = document[drawn], number[drawn]
    starts = (np.cumsum(lengths) - lengths)[document] + number * length
    sizes = np.minimum(lengths[document] - number * length, length)
    columns = ["position", "token_id", "special"]
    tables = _token_rows(corpus, "tokens.parquet", columns, starts, sizes)
    masks: Iterator[pa.Table | None] = itertools.repeat(None)
    if RECORDED in corpus.manifest.files:
        masks = _token_rows(corpus, RECORDED, ["recorded"], starts, sizes)
    texts = []
    for doc_id, table, role in zip(document, tables, masks, strict=False):
        ids = table["token_id"].to_numpy().astype(np.int64)
        special = table["special"].to_numpy(zero_copy_only=False)
        recorded = (table["position"].to_numpy() >= skip_positions) & ~special
        if role is not None:
            recorded &= role["recorded"].to_numpy(zero_copy_only=False)
        if recorded[:-1].any():
            texts.append(Text(int(doc_id), ids, recorded))
    return texts


def equal_lengths(texts: Sequence[Text], most: int = 0) -> Iterator[list[Text]]:
    """Batches of texts of equal length and ``most`` tokens (none: `BATCH_TOKENS`), so that no
    padding is computed."""
    most = most or BATCH_TOKENS
    by_length: dict[int, list[Text]] = {}
    for text in texts:
        by_length.setdefault(len(text.ids), []).append(text)
    for length, same in sorted(by_length.items()):
        size = max(1, most // length)
        yield from (same[first : first + size] for first in range(0, len(same), size))


def _token_rows(
    corpus: Artifact,
    name: str,
    columns: list[str],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> Iterator[pa.Table]:
    """Rows of a file that has one per token: so many from each start, in ascending order of starts.
    Only the row groups that hold any are read, one after another."""
    with parquet.opened(corpus.file(name)) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = np.cumsum(groups)
        held: dict[int, pa.Table] = {}
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            first, last = np.searchsorted(ends, [start, start + size - 1], side="right").tolist()
            held = {
                group: held[group] if group in held else file.read_row_group(group, columns)
                for group in range(first, last + 1)
            }
            offset = start - int(ends[first]) + groups[first]
            yield pa.concat_tables(list(held.values())).slice(offset, size)
