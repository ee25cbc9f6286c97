"""How near reconstructions x' are to activations x, as sums over each document's tokens.

Sums are float64 and taken token by token on rows of any block size, so that ratios of them depend
on no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import ActivationReader, Block
from deconstruct.common.progress import track
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
    sums: dict[str, NDArray[np.float64]] = {}
    errors: list[pa.Table] = []
    output = output or reader
    total = np.zeros(output.d_in)

    def add(doc_id: NDArray[np.uint32], **values: NDArray[np.float64]) -> None:
        for name, own in values.items():
            added = np.bincount(doc_id, own, documents).astype(np.float64)
            sums[name] = sums[name] + added if name in sums else added

    with track("evaluation", reader.rows, "tokens") as advance:
        for block, wanted in _pairs(reader, output):
            x, y = block.activation.to(device), wanted.to(device)
            sparse = sae.encode_sparse(x)
            values = per_token(y, sae.decode(sparse, x))
            values["fires"] = sparse.offsets.diff().double().cpu().numpy()
            add(block.doc_id, tokens=np.ones(len(block)), **values)
            total += y.double().sum(0).cpu().numpy()
            columns = (block.token_index, values["error"], values["squares_in"])
            errors.append(
                pa.Table.from_arrays(
                    [
                        pa.array(c, f.type, safe=False)
                        for c, f in zip(columns, TOKEN_ERRORS, strict=True)
                    ],
                    schema=TOKEN_ERRORS,
                )
            )
            advance(len(block))
    mean = total / reader.rows
    for block in output.rows_in_order():  # once more, about the mean of these very rows
        centred = block.activation.double().numpy() - mean
        add(block.doc_id, variance=np.einsum("nd,nd->n", centred, centred))
    seen = sums["tokens"] > 0
    by_document = {name: own[seen] for name, own in sums.items()}
    by_document["elements"] = by_document["tokens"] * output.d_in
    return Fidelity(by_document, pa.concat_tables(errors).sort_by("token_index").combine_chunks())


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
