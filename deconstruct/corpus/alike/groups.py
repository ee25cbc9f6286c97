"""Which documents hang together as texts alike, and in what a corpus says so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact
from deconstruct.common.parquet import opened
from deconstruct.corpus.alike.exact import Pairs, Shared
from deconstruct.corpus.alike.minhash import components, firsts, links
from deconstruct.corpus.alike.shingles import Kept
from deconstruct.corpus.tables import DOCUMENTS

GROUP_ID = "group_id"
EXACT_DOCUMENTS = 20_000
EXACT_TOKENS = 1 << 22
EXACT_PRODUCTS = 1 << 29
"""As far as all pairs are compared: some 200 MiB at the most. Beyond, `links`."""


def alike(kept: Kept, documents: NDArray[np.int64]) -> Pairs:
    """Pairs of documents whose shingles have a Jaccard index of at least one half.

    documents: ascending. All pairs of up to 20,000 documents; of more, or of so many long or
    repetitive ones that comparing all would take long, as many as link them (`links`).
    """
    ends = kept.ends()
    tokens = int((ends[documents + 1] - ends[documents]).sum())
    if len(documents) <= EXACT_DOCUMENTS and tokens <= EXACT_TOKENS:
        shared = Shared(kept, documents)
        if shared.products <= EXACT_PRODUCTS:
            return shared.pairs()
    return links(kept, documents)


def joined(
    kept: Kept, distinct: NDArray[np.int64], parts: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Parts of documents, put together where a document of one is like a document of another.

    distinct: [documents], numbered from 0, equal where the same tokens are kept. parts:
    [documents], such documents are of one. None if more than half of the different texts hang
    together, or all parts would: what a template made is alike all through, and likeness says
    nothing of it.
    """
    documents = np.sort(firsts(distinct, int(distinct.max()) + 1)).astype(np.int64)
    pairs = alike(kept, documents)
    if not len(pairs):
        return parts
    if 2 * np.bincount(components(pairs, len(documents))).max() > len(documents):
        return None
    whole = components(parts[documents[pairs]], int(parts.max()) + 1)[parts]
    return whole if whole.max() > 0 else None


def group_ids(corpus: Artifact) -> NDArray[np.int64]:
    """The group of each document, by the smallest doc_id of it: [documents].

    Documents of one group are no independent draws: texts alike, or rows of one
    ``corpus.group_column``. Of a corpus of an older release each document is its own group.
    """
    with opened(corpus.file(DOCUMENTS.file)) as file:
        if GROUP_ID not in file.schema_arrow.names:
            return np.arange(file.metadata.num_rows)
        found: NDArray[np.int64] = file.read([GROUP_ID])[GROUP_ID].to_numpy().astype(np.int64)
    return found
