"""The latents stage: the trained SAE applied to every recorded token, sparse, in three orders.

Three passes, none of which holds more than a bucket of the firings in memory, or a part of one that
has very many (`buckets.PART`):

1. encode the shards as they lie and deal firings into buckets of consecutive documents;
2. bucket by bucket order them by token: ``latents_by_token``, ``document_latents``; deal them
   into buckets of consecutive latents;
3. bucket by bucket order them by (latent, strength): ``latents``, and the counts of features.

The buckets take 24 bytes per firing in the draft's scratch folder, 48 for a moment in pass 2. The
stage is short next to training and keeps no checkpoint: after a kill it starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.ancestry import earlier
from deconstruct.common.errors import DataError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import Advance, track
from deconstruct.config import LatentsConfig
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.features.counts import FeatureCounts
from deconstruct.features.geometry import Geometry, directions
from deconstruct.features.tables import DIRECTIONS, FEATURES
from deconstruct.latents.ahead import Part, encoded
from deconstruct.latents.buckets import FIRING, Buckets
from deconstruct.latents.tables import DOCUMENT_LATENTS, LATENTS

if TYPE_CHECKING:
    from deconstruct.activations.reader import ActivationReader, Block
    from deconstruct.sae.autoencoder import Sparse, SparseAutoencoder

VERSION = 2
BUCKET_TOKENS = 8192
"""Tokens whose firings share a bucket, unless that makes too many. 6 MiB at 32 per token: sorting
larger ones is slower, as caches don't hold them."""
GROUP_ROWS = 262_144
"""One latent's firings lie in one or two of these row groups, whose statistics name them. Looking
one latent up in 100 million firings takes DuckDB 13 ms, with groups of 65,536 rows 37 ms (more of
them to read about), in 10 million 5 and 7 ms."""
DIRECTION_ROWS = 4096


def recipe(
    config: LatentsConfig, *, sae: Artifact, activations: Artifact, corpus: Artifact
) -> Recipe:
    """All that decides the firings."""
    inputs = keys_of(sae=sae, activations=activations, corpus=corpus)
    return Recipe("latents", VERSION, config.key_fields(), inputs)


def encode(
    root: DataRoot,
    config: LatentsConfig,
    *,
    sae: Artifact,
    activations: Artifact,
    corpus: Artifact,
    device: str = "auto",
) -> Artifact:
    """Encode every recorded token, of both splits: the latents artifact.

    A firing is an activation above ``config.threshold``. ``docs/schema.md`` has the files'
    columns; facts are ``rows`` (firings), ``tokens`` (recorded), ``l0`` (their ratio),
    ``dead_share`` (of latents that fire on no token of the corpus).

    Firings of a corpus that this one grew from, by the same SAE, are taken over.

    Raises ``DataError`` if the SAE's width is not that of the activations, or if its weights
    are not finite; ``StorageError`` if a shard is damaged.
    """

    def write(draft: Draft) -> None:
        from deconstruct.common.hardware import pick_device
        from deconstruct.sae.files import load

        weights = load(sae.path).to(pick_device(device))
        before = earlier(root, wanted, corpus, activations)
        _Encoding(draft, config, weights, corpus, before).run(activations)

    wanted = recipe(config, sae=sae, activations=activations, corpus=corpus)
    return root.make(wanted, write)


STAGE = Stage("latents", recipe, encode)


@dataclass
class _Encoding:
    """One encoding of a corpus, with the little that is kept beside the buckets.

    before: the latents and the corpus that this one grew from, if they are there; ``known`` of
    the documents are in it. recorded: how many tokens of each of the others are recorded.
    """

    draft: Draft
    config: LatentsConfig
    sae: SparseAutoencoder
    corpus: Artifact
    before: tuple[Artifact, Artifact] | None = None
    known: int = 0
    recorded: NDArray[np.int64] = field(init=False)
    rows: int = 0

    def run(self, activations: Artifact) -> None:
        """The three passes; raises ``DataError`` before the first for an SAE that does not fit."""
        from deconstruct.activations.reader import ActivationReader

        readers = [ActivationReader(activations, split) for split in ("train", "test")]
        d_sae, d_in = self.sae.d_sae, self.sae.d_in
        if readers[0].d_in != d_in:
            raise DataError(
                f"the SAE takes activations of width {d_in} and {activations.path} holds width "
                f"{readers[0].d_in}; give the SAE that was trained on this site"
            )
        if not all(torch.isfinite(w).all() for w in self.sae.weights().values()):
            raise DataError(
                "the SAE's weights are not all finite numbers: its training diverged; train it "
                "anew with a lower sae.learning_rate"
            )
        if self.before is not None:
            self.known = int(self.before[1].facts["documents"])
        documents = max(1, int(self.corpus.facts["documents"]) - self.known)
        self.recorded = np.zeros(documents, np.int64)
        tokens = sum(reader.rows for reader in readers)
        count = -(-tokens // BUCKET_TOKENS)
        counts = FeatureCounts(d_sae)
        scratch = self.draft.scratch
        self.sae.for_many_tokens()
        with ExitStack() as stack:
            by_document = stack.enter_context(Buckets(scratch / "by-document", documents, count))
            by_latent = stack.enter_context(Buckets(scratch / "by-latent", d_sae, count))
            with track("latents", tokens, "tokens") as advance:
                for reader in readers:
                    self._encode(self._new_blocks(reader, advance), by_document, advance)
            by_document.close()  # `by_latent` opens as many
            if self.before is not None:
                self.rows += int(self.before[0].facts["rows"])
            with track("by token", self.rows, "firings") as advance:
                self._by_token(by_document, by_latent, counts, advance)
            with track("by latent", self.rows, "firings") as advance:
                self._by_latent(by_latent, counts, advance)
        geometry = Geometry.of(self.sae.W_enc, self.sae.W_dec)
        table = counts.table(geometry, tokens, token_strings(self.corpus))
        with (
            self.draft.writing("features.parquet") as path,
            GroupedWriter(path, FEATURES.arrow, GROUP_ROWS) as features,
        ):
            features.write(table)
        split = {"decoder.list.element": "BYTE_STREAM_SPLIT"}
        with (
            self.draft.writing("directions.parquet") as path,
            GroupedWriter(path, DIRECTIONS.arrow, DIRECTION_ROWS, split) as decoder,
        ):
            decoder.write(directions(self.sae.W_dec))
        self.draft.rows["features.parquet"] = self.draft.rows["directions.parquet"] = d_sae
        self.draft.facts |= {
            "rows": self.rows,
            "tokens": tokens,
            "l0": self.rows / tokens,
            "dead_share": float((counts.n_fires == 0).mean()),
        }

    def _new_blocks(self, reader: ActivationReader, advance: Advance) -> Iterator[Block]:
        """Blocks of the shards whose firings are not known. A shard is known whole or not."""
        for part in reader.groups:
            if self.known and part.doc_id()[0] < self.known:
                advance(part.rows)
            else:
                yield part.block()

    def _encode(self, blocks: Iterator[Block], buckets: Buckets, advance: Advance) -> None:
        """Pass 1: firings of each block into the buckets of their documents."""
        for part, sparse in encoded(self.sae, blocks):
            document = part.column("doc_id") - np.uint32(self.known)
            seen, tokens = np.unique(document, return_counts=True)
            self.recorded[seen] += tokens
            firings = self._firings(part, sparse)
            buckets.add(firings["doc_id"] - np.uint32(self.known), firings)
            self.rows += len(firings)
            advance(len(document))

    def _firings(self, part: Part, sparse: Sparse) -> NDArray[np.void]:
        """What fires on some rows of a block: `FIRING` [n]."""
        activation = sparse.activations.numpy()
        keep = activation > self.config.threshold
        token = np.repeat(np.arange(len(sparse)), np.diff(sparse.offsets.numpy()))[keep]
        firings = np.empty(len(token), FIRING)
        for name in ("token_index", "doc_id", "token_id"):
            firings[name] = part.column(name)[token]
        firings["latent"] = sparse.latents.numpy()[keep]
        firings["activation"] = activation[keep]
        return firings

    def _by_token(
        self,
        by_document: Buckets,
        by_latent: Buckets,
        counts: FeatureCounts,
        advance: Advance,
    ) -> None:
        """Pass 2: firings ordered by (token_index, latent), pooled by document, dealt by latent."""
        d_sae = by_latent.keys
        with (
            self.draft.writing("latents_by_token.parquet") as path,
            self.draft.writing("document_latents.parquet") as pooled_path,
            GroupedWriter(
                path,
                LATENTS.arrow,
                GROUP_ROWS,
                {"token_index": "DELTA_BINARY_PACKED", "activation": "BYTE_STREAM_SPLIT"},
            ) as writer,
            GroupedWriter(
                pooled_path,
                DOCUMENT_LATENTS.arrow,
                GROUP_ROWS,
                {"mean": "BYTE_STREAM_SPLIT", "max": "BYTE_STREAM_SPLIT"},
            ) as pooled,
        ):
            if self.before is not None:
                self._take_over(self.before[0], writer, pooled, by_latent, counts, advance)
            for number in range(by_document.count):
                for part in by_document.parts(number, lambda of: of["doc_id"]):
                    # A pair of token and latent occurs once, so that any sort gives one order.
                    place = part["token_index"] - part["token_index"].min()
                    firings = part[np.argsort(place * np.uint64(d_sae) + part["latent"])]
                    columns = (np.ascontiguousarray(firings[name]) for name in LATENTS.arrow.names)
                    writer.write(LATENTS.of(*columns))
                    summary = self._pool(firings, d_sae)
                    counts.add_documents(summary["latent"].to_numpy())
                    pooled.write(summary)
                    by_latent.add(firings["latent"], firings)
                    advance(len(firings))
            self.draft.rows["document_latents.parquet"] = pooled.rows
        self.draft.rows["latents_by_token.parquet"] = writer.rows

    def _take_over(
        self,
        latents: Artifact,
        writer: GroupedWriter,
        pooled: GroupedWriter,
        by_latent: Buckets,
        counts: FeatureCounts,
        advance: Advance,
    ) -> None:
        """Firings of the known documents, which come before all others in every order by token."""
        token_ids = self._token_ids()
        for table in latents.rows("latents_by_token.parquet"):
            writer.write(table)
            firings = np.zeros(len(table), FIRING)
            for name in LATENTS.arrow.names:
                firings[name] = table[name].to_numpy()
            firings["token_id"] = token_ids[firings["token_index"]]
            by_latent.add(firings["latent"], firings)
            advance(len(firings))
        for table in latents.rows("document_latents.parquet"):
            pooled.write(table)
            counts.add_documents(table["latent"].to_numpy())

    def _token_ids(self) -> NDArray[np.uint32]:
        """Every token's id, in a file that is mapped, not read."""
        path = self.draft.scratch / "token_ids.u32"
        with path.open("wb") as file:
            for table in self.corpus.rows("tokens.parquet", ["token_id"]):
                table["token_id"].to_numpy().astype(np.uint32).tofile(file)
        return np.memmap(path, np.uint32, "r")

    def _pool(self, firings: NDArray[np.void], d_sae: int) -> pa.Table:
        """Firings of some documents pooled, ordered by (doc_id, latent)."""
        key = firings["doc_id"].astype(np.uint64) * np.uint64(d_sae) + firings["latent"]
        order = np.argsort(key, kind="stable")
        key, activation = key[order], firings["activation"][order]
        starts = np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1])
        doc_id, latent = np.divmod(key[starts], np.uint64(d_sae))
        total = np.add.reduceat(activation.astype(np.float64), starts)
        return DOCUMENT_LATENTS.of(
            doc_id.astype(np.uint32),
            latent.astype(np.uint32),
            np.diff(starts, append=len(key)).astype(np.uint32),
            (total / self.recorded[doc_id - np.uint64(self.known)]).astype(np.float32),
            np.maximum.reduceat(activation, starts),
        )

    def _by_latent(self, by_latent: Buckets, counts: FeatureCounts, advance: Advance) -> None:
        """Pass 3: firings ordered by (latent, activation descending, token_index)."""
        with (
            self.draft.writing("latents.parquet") as path,
            GroupedWriter(
                path,
                LATENTS.arrow,
                GROUP_ROWS,
                {"token_index": "PLAIN", "activation": "BYTE_STREAM_SPLIT"},
            ) as writer,
        ):
            for number in range(by_latent.count):
                counts.add(
                    (block["latent"], block["token_id"], block["activation"])
                    for block in by_latent.blocks(number)
                )
                for firings in by_latent.parts(number, _weakening):
                    order = np.argsort(_weakening(firings), kind="stable")
                    columns = (firings[name][order] for name in LATENTS.arrow.names)
                    writer.write(LATENTS.of(*columns))
                    advance(len(firings))
        self.draft.rows["latents.parquet"] = writer.rows


def _weakening(firings: NDArray[np.void]) -> NDArray[np.uint64]:
    """What orders firings by (latent, activation descending), [n]. Positive floats are ordered as
    their bits are. Firings come by token: where the sort is stable, equal strengths stay so."""
    bits = np.ascontiguousarray(firings["activation"]).view(np.uint32)
    return firings["latent"].astype(np.uint64) << np.uint64(32) | ~bits
