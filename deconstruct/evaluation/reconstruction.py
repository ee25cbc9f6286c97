"""How near reconstructions x' are to activations x, as sums over each document's tokens.

Sums are float64 and taken token by token on rows of any block size, so that ratios of them depend
on no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import ActivationReader, Block
from deconstruct.activations.shards import Rows
from deconstruct.common.progress import Advance, track
from deconstruct.evaluation.tables import TOKEN_ERRORS
from deconstruct.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Fidelity:
    """documents: name -> [documents with a recorded token]. tokens: `TOKEN_ERRORS`, in order."""

    documents: dict[str, NDArray[np.float64]]
    tokens: pa.Table


def fidelity(
    reader: ActivationReader,
    sae: SparseAutoencoder,
    documents: int,
    device: str,
    output: ActivationReader | None = None,
) -> Fidelity:
    """Encode and decode a split. documents: of the whole corpus.

    output: the rows that a transcoder reconstructs, x below; none: those of ``reader``.

    Sums by document: ``error`` of |x - x'|^2, ``variance`` of |x - mean|^2 about the mean of all
    rows of the split, ``inner`` of x.x', ``squares_in`` and ``squares_out`` of |x|^2 and |x'|^2,
    ``cosine``, ``fires`` of latents that fire, ``tokens`` and ``elements`` counts.
    """
    sums = DocumentSums(documents)
    errors: list[pa.Table] = []
    output = output or reader
    total = np.zeros(output.d_in)
    with track("evaluation", reader.rows, "tokens") as advance:
        for block, wanted in _pairs(reader, output):
            values = judged(sae, block.activation.to(device), wanted.to(device))
            sums.add(block.doc_id, values)
            total += wanted.to(device).double().sum(0).cpu().numpy()
            squared = (values[name].astype(np.float32) for name in ("error", "squares_in"))
            errors.append(TOKEN_ERRORS.of(block.token_index, *squared))
            advance(len(block))
    mean = total / reader.rows
    for block in output.rows_in_order():  # once more, about the mean of these very rows
        centred = block.activation.double().numpy() - mean
        sums.add(block.doc_id, {"variance": np.einsum("nd,nd->n", centred, centred)})
    by_document = sums.of_seen()
    by_document["elements"] = by_document["tokens"] * output.d_in
    return Fidelity(by_document, pa.concat_tables(errors).sort_by("token_index").combine_chunks())


def sampled(
    blocks: Iterable[tuple[Rows, Tensor, Tensor]],
    sae: SparseAutoencoder,
    mean: NDArray[np.float64],
    documents: int,
    tokens: int,
    advance: Advance,
) -> dict[str, NDArray[np.float64]]:
    """The sums of `fidelity` over blocks until ``tokens`` are seen: [documents seen].

    blocks: rows, what is read of them and what is reconstructed. mean: [d_out], what ``variance``
    is about.
    """
    sums, seen = DocumentSums(documents), 0
    device = sae.W_dec.device
    for rows, read, wanted in blocks:
        values = judged(sae, read.to(device), wanted.to(device))
        values["variance"] = np.square(wanted.double().numpy() - mean).sum(1)
        sums.add(rows.doc_id, values)
        seen += len(rows)
        advance(len(rows))
        if seen >= tokens:
            break
    return sums.of_seen()


class DocumentSums:
    """Sums of what tokens have, by name and document: float64 [documents of the corpus]."""

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, doc_id: NDArray[np.uint32], values: Mapping[str, NDArray[np.float64]]) -> None:
        """Of some tokens, [n] each. Time and memory are those of the tokens' own documents."""
        seen, place = np.unique(doc_id, return_inverse=True)
        for name, value in values.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(self._documents)
            self._sums[name][seen] += np.bincount(place, value)

    def of_seen(self) -> dict[str, NDArray[np.float64]]:
        """Of the documents that have any: [documents seen]."""
        seen = self._sums["tokens"] > 0
        return {name: total[seen] for name, total in self._sums.items()}


@torch.no_grad()
def judged(sae: SparseAutoencoder, x: Tensor, wanted: Tensor) -> dict[str, NDArray[np.float64]]:
    """`per_token` of what ``sae`` makes of x, [n, d_in], against ``wanted``, [n, d_out]; how many
    latents fire (``fires``), and a count of one per token (``tokens``): [n] each."""
    sparse = sae.encode_sparse(x)
    return {
        "tokens": np.ones(len(x)),
        **per_token(wanted, sae.decode(sparse, x)),
        "fires": sparse.offsets.diff().double().cpu().numpy(),
    }


def _pairs(reader: ActivationReader, output: ActivationReader) -> Iterator[tuple[Block, Tensor]]:
    """Blocks of one reader with the other's activations of the same rows."""
    if output is reader:
        yield from ((block, block.activation) for block in reader.rows_in_order())
        return
    reader.check_rows(output)
    both = zip(reader.rows_in_order(), output.rows_in_order(), strict=True)
    yield from ((block, wanted.activation) for block, wanted in both)


def per_token(x: Tensor, out: Tensor) -> dict[str, NDArray[np.float64]]:
    """Sums over d_in for each token of x and its reconstruction, both [n, d_in]: [n] each."""
    a, b = x.double(), out.double()
    inner = (a * b).sum(1)
    squares_in, squares_out = a.square().sum(1), b.square().sum(1)
    values = {
        "error": (a - b).square().sum(1),
        "inner": inner,
        "squares_in": squares_in,
        "squares_out": squares_out,
        "cosine": inner / (squares_in * squares_out).sqrt().clamp(min=1e-30),
    }
    return {name: value.cpu().numpy() for name, value in values.items()}
