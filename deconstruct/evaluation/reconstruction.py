"""How near reconstructions x' are to activations x, as sums over each document's tokens.

Sums are float64 and taken token by token on rows of any block size, so that ratios of them depend
on no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import ActivationReader, Block
from deconstruct.activations.shards import Rows
from deconstruct.common.progress import Advance, track
from deconstruct.evaluation.tables import TOKEN_ERRORS
from deconstruct.sae.autoencoder import Sparse, SparseAutoencoder


@dataclass(frozen=True)
class Typical:
    """Which tokens are typical: |x - mean|^2 of the activation is at most ``bound``.

    mean: [d_out] float64, that of the train rows; the bound is a multiple of their median.
    """

    mean: NDArray[np.float64]
    bound: float


@dataclass(frozen=True)
class Fidelity:
    """doc_id: uint32 [documents with a recorded token], ascending. documents: name -> [documents].

    tokens: `TOKEN_ERRORS`, in order. firings: int64 [d_sae], tokens that each latent fires on.
    ratios: |x - x'|^2 / |x - mean|^2 of each token, about the train mean, and ``places``, which of
    the documents each one is of.
    """

    doc_id: NDArray[np.uint32]
    documents: dict[str, NDArray[np.float64]]
    tokens: pa.Table
    firings: NDArray[np.int64]
    ratios: NDArray[np.float64]
    places: NDArray[np.int64]


class InOrder(Protocol):
    """Rows with their activations, as `ActivationReader` has them. rows: how many."""

    @property
    def rows(self) -> int: ...

    @property
    def d_in(self) -> int: ...

    def rows_in_order(self) -> Iterator[Block]:
        """All of them, some at a time; each time the same."""


@torch.no_grad()
def fidelity(
    reader: InOrder,
    sae: SparseAutoencoder,
    documents: int,
    device: str,
    output: InOrder | None = None,
    typical: Typical | None = None,
) -> Fidelity:
    """Encode and decode a split. documents: of the whole corpus.

    output: the same rows as a transcoder reconstructs them, x below; none: those of ``reader``.
    typical: which tokens are no outliers; none: all.

    Sums by document: ``error`` of |x - x'|^2, ``variance`` of |x - mean|^2 about the mean of all
    rows of the split, ``inner`` of x.x', ``squares_in`` and ``squares_out`` of |x|^2 and |x'|^2,
    ``cosine``, ``fires`` of latents that fire, ``tokens`` and ``elements`` counts. Of the typical
    tokens ``tokens_typical``, ``error_typical`` and ``variance_typical``, about their own mean; of
    the others ``variance_outliers``, about that of all.
    """
    sums, tokens = DocumentSums(documents), _Tokens(reader.rows)
    firings = np.zeros(sae.d_sae, np.int64)
    output = output or reader
    typical = typical or Typical(np.zeros(output.d_in), np.inf)
    centre = torch.from_numpy(typical.mean).to(device)
    total, total_typical = np.zeros(output.d_in), np.zeros(output.d_in)
    with track("evaluation", reader.rows, "tokens") as advance:
        for block, own in _pairs(reader, output):
            x, wanted = block.activation.to(device), own.to(device).double()
            sparse = sae.encode_sparse(x)
            values = _values(sae, sparse, x, wanted)
            firings += np.bincount(sparse.latents.cpu().numpy(), minlength=sae.d_sae)
            distance = (wanted - centre).square().sum(1).cpu().numpy()
            near = distance <= typical.bound
            values["tokens_typical"] = near.astype(np.float64)
            values["error_typical"] = np.where(near, values["error"], 0)
            sums.add(block.doc_id, values)
            total += wanted.sum(0).cpu().numpy()
            total_typical += wanted[torch.from_numpy(near).to(device)].sum(0).cpu().numpy()
            tokens.add(block, values, distance, near)
            advance(len(block))
    mean = total / reader.rows
    mean_typical = total_typical / max(1, int(tokens.near.sum()))
    first = 0
    for block in output.rows_in_order():  # about these means
        near, first = tokens.near[first : first + len(block)], first + len(block)
        y = block.activation.double().numpy()
        squares, typically = (np.square(y - m).sum(1) for m in (mean, mean_typical))
        sums.add(
            block.doc_id,
            {
                "variance": squares,
                "variance_outliers": np.where(near, 0, squares),
                "variance_typical": np.where(near, typically, 0),
            },
        )
    doc_id, by_document = sums.seen(), sums.of_seen()
    by_document["elements"] = by_document["tokens"] * output.d_in
    places = np.searchsorted(doc_id, tokens.doc_id)
    return Fidelity(doc_id, by_document, tokens.errors(), firings, tokens.ratios, places)


class _Tokens:
    """What is kept of each of ``rows`` tokens, in the order in which they come.

    The room for it is taken at once: small pieces, kept one after another among the large arrays of
    a block that are let go, would leave the memory between them to nobody.
    """

    def __init__(self, rows: int) -> None:
        self.token_index = np.empty(rows, np.uint64)
        self.doc_id = np.empty(rows, np.uint32)
        self.near = np.empty(rows, np.bool_)
        self.ratios = np.empty(rows)
        self.error = np.empty(rows, np.float32)
        self.squares = np.empty(rows, np.float32)
        self._seen = 0

    def add(
        self,
        block: Block,
        values: Mapping[str, NDArray[np.float64]],
        distance: NDArray[np.float64],
        near: NDArray[np.bool_],
    ) -> None:
        own = slice(self._seen, self._seen + len(block))
        self._seen = own.stop
        self.token_index[own], self.doc_id[own] = block.token_index, block.doc_id
        self.near[own] = near
        self.error[own], self.squares[own] = values["error"], values["squares_in"]
        with np.errstate(invalid="ignore", divide="ignore"):
            self.ratios[own] = values["error"] / distance

    def errors(self) -> pa.Table:
        table = TOKEN_ERRORS.of(self.token_index, self.error, self.squares)
        return table.sort_by("token_index").combine_chunks()


def sampled(
    blocks: Iterable[tuple[Rows, Tensor, Tensor]],
    sae: SparseAutoencoder,
    mean: NDArray[np.float64],
    documents: int,
    tokens: int,
    advance: Advance,
) -> tuple[NDArray[np.uint32], dict[str, NDArray[np.float64]]]:
    """The documents seen until ``tokens`` are, and the sums of `fidelity` over them: [documents
    seen] each.

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
    return sums.seen(), sums.of_seen()


class DocumentSums:
    """Sums of what tokens have, by name and document. Memory: 4 bytes per document of the corpus,
    and 8 to 16 per name of each document that has any."""

    def __init__(self, documents: int) -> None:
        self._place = np.full(documents, -1, np.int32)
        self._count = 0
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, doc_id: NDArray[np.uint32], values: Mapping[str, NDArray[np.float64]]) -> None:
        """Of some tokens, [n] each. Time and memory are those of the tokens' own documents."""
        seen, place = np.unique(doc_id, return_inverse=True)
        new = seen[self._place[seen] < 0]
        self._place[new] = np.arange(self._count, self._count + len(new))
        self._count += len(new)
        for name, value in values.items():
            self._sum(name)[self._place[seen]] += np.bincount(place, value)

    def seen(self) -> NDArray[np.uint32]:
        """The documents that have any, ascending."""
        return np.flatnonzero(self._place >= 0).astype(np.uint32)

    def of_seen(self) -> dict[str, NDArray[np.float64]]:
        """Of the documents that have any: [documents seen]."""
        places = self._place[self.seen()]
        return {name: self._sum(name)[places] for name in self._sums}

    def _sum(self, name: str) -> NDArray[np.float64]:
        """With room for all documents that have any."""
        found = self._sums.get(name, np.zeros(0))
        if len(found) < self._count:
            room = np.zeros(max(self._count, 2 * len(found)))
            room[: len(found)] = found
            self._sums[name] = found = room
        return found


@torch.no_grad()
def judged(sae: SparseAutoencoder, x: Tensor, wanted: Tensor) -> dict[str, NDArray[np.float64]]:
    """`per_token` of what ``sae`` makes of x, [n, d_in], against ``wanted``, [n, d_out]; how many
    latents fire (``fires``), and a count of one per token (``tokens``): [n] each."""
    return _values(sae, sae.encode_sparse(x), x, wanted)


def _values(
    sae: SparseAutoencoder, sparse: Sparse, x: Tensor, wanted: Tensor
) -> dict[str, NDArray[np.float64]]:
    return {
        "tokens": np.ones(len(x)),
        **per_token(wanted, sae.decode(sparse, x)),
        "fires": sparse.offsets.diff().double().cpu().numpy(),
    }


def _pairs(reader: InOrder, output: InOrder) -> Iterator[tuple[Block, Tensor]]:
    """Blocks of one reader with the other's activations of the same rows."""
    if output is reader:
        yield from ((block, block.activation) for block in reader.rows_in_order())
        return
    if isinstance(reader, ActivationReader) and isinstance(output, ActivationReader):
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
