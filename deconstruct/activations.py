"""The stage activations: a model's hidden states over a corpus, as Parquet shards.

One forward pass serves every site that is missing and stops after the last of them. Documents of
equal length are batched together, so that no padding is computed. They are laid out over the
shards in an order drawn from the seed: each shard is a random sample of its split, and a reader
that mixes a few shards draws close to uniformly from the whole store. A shard is the unit of
resuming: it is computed from its own documents alone, in batches that depend on nothing else, so
that a killed extraction ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconstruct import shards
from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.config import ActivationsConfig
from deconstruct.errors import DataError
from deconstruct.hooks import capture
from deconstruct.model import ResolvedModel, load, pick_device, pick_dtype
from deconstruct.progress import track
from deconstruct.site import Site

VERSION = 1
SPLITS = ("train", "test")
BATCH_TOKENS = 4096
"""Tokens in one forward pass. Fixed: rounding in bfloat16 depends on the shape of a batch."""


def recipes(
    config: ActivationsConfig, model: ResolvedModel, corpus: Artifact, dtype: str = "auto"
) -> list[Recipe]:
    """The recipes of ``config.sites``, in their order: each site is an artifact of its own."""
    settings = config.model_dump(mode="json", exclude={"sites"})
    inputs = {"model": model.digest, "corpus": corpus.key}
    return [
        Recipe("activations", VERSION, {"site": site, "dtype": dtype, **settings}, inputs)
        for site in config.sites
    ]


def extract(
    store: ArtifactStore,
    config: ActivationsConfig,
    model: ResolvedModel,
    corpus: Artifact,
    *,
    dtype: str = "auto",
    device: str = "auto",
) -> dict[Site, Artifact]:
    """Record ``config.sites`` over the corpus; sites that are there already are not recomputed.

    Memory: the model, two shards of activations a site, and 9 bytes a document. Raises
    ``ConfigError`` for a layer or device that is not there, ``DataError`` where the model gives
    NaN or infinity, ``StorageError`` if the disk fills up.
    """
    sites = [Site.parse(site) for site in config.sites]
    model.check_sites(sites)
    wanted = dict(zip(sites, recipes(config, model, corpus, dtype), strict=True))
    made = {site: store.find(recipe) for site, recipe in wanted.items()}
    missing = sorted((s for s, a in made.items() if a is None), key=lambda s: wanted[s].key)

    def make(remaining: Sequence[Site], drafts: Mapping[Site, Draft]) -> None:
        """Open a draft for one site after another (keys in order: no deadlock), then fill all."""
        if remaining:
            site, *others = remaining
            made[site] = store.make(
                wanted[site], lambda draft: make(others, {**drafts, site: draft})
            )
        elif drafts:
            _Extraction(config, model, corpus, drafts, dtype, device).run()

    make(missing, {})
    return {site: artifact for site, artifact in made.items() if artifact is not None}


@dataclass
class _Shard:
    """Which documents a shard holds, and how many rows they give."""

    name: str
    documents: NDArray[np.int64]
    rows: int


class _Extraction:
    """One pass over the corpus for the drafts of one or more sites."""

    def __init__(
        self,
        config: ActivationsConfig,
        model: ResolvedModel,
        corpus: Artifact,
        drafts: Mapping[Site, Draft],
        dtype: str,
        device: str,
    ) -> None:
        self.config = config
        self.model = model
        self.drafts = drafts
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.tokens = _Tokens.read(corpus, config.skip_positions, next(iter(drafts.values())))
        self.shards = list(self._plan(corpus))

    def run(self) -> None:
        """Compute the shards that are missing, then the moments and the facts of each site."""
        todo = [s for s in self.shards if not all(d.has(s.name) for d in self.drafts.values())]
        total = sum(shard.rows for shard in self.shards)
        done = total - sum(shard.rows for shard in todo)
        with (
            track("activations", total, "tokens", done) as advance,
            ThreadPoolExecutor(1, "shard-writer") as writer,
        ):
            model = load(self.model, self.dtype, self.device) if todo else None
            writing: Future[None] | None = None
            for shard in todo:
                activations = self._compute(model, shard)  # type: ignore[arg-type]
                if writing is not None:
                    writing.result()  # at most one shard waits; a full disk is heard of here
                writing = writer.submit(self._write, shard, activations)
                advance(shard.rows)
            if writing is not None:
                writing.result()
        for site, draft in self.drafts.items():
            self._finish(site, draft)

    def _plan(self, corpus: Artifact) -> Iterator[_Shard]:
        """Documents of a split in random order, cut into shards of about ``shard_tokens`` rows."""
        splits = pq.read_table(corpus.file("documents.parquet"), columns=["split"])["split"]
        split_of = splits.to_numpy(zero_copy_only=False)
        for number, split in enumerate(SPLITS):
            documents = np.flatnonzero((split_of == split) & (self.tokens.rows > 0))
            if len(documents) == 0:
                raise DataError(
                    f"split {split!r} has no document longer than activations.skip_positions = "
                    f"{self.config.skip_positions} tokens; add documents or lower it"
                )
            np.random.default_rng([self.config.seed, number]).shuffle(documents)
            ends = np.cumsum(self.tokens.rows[documents])
            cuts = np.searchsorted(ends, np.arange(0, ends[-1], self.config.shard_tokens) + 1)
            bounds = [*np.unique(cuts), len(documents)]
            for index, (first, last) in enumerate(pairwise(bounds)):
                chosen = documents[first:last]
                rows = int(self.tokens.rows[chosen].sum())
                yield _Shard(f"{split}-{index:05d}.parquet", chosen, rows)

    def _compute(self, model: nn.Module, shard: _Shard) -> dict[Site, Tensor]:
        """Activations of a shard's rows, site -> [rows, d_in] on the CPU, in document order."""
        starts = np.concatenate([[0], np.cumsum(self.tokens.rows[shard.documents])])
        result: dict[Site, Tensor] = {}
        for batch in _equal_lengths(shard.documents, self.tokens.lengths):
            documents = shard.documents[batch]
            ids = np.stack([self.tokens.of(document) for document in documents])
            keep = np.stack([self.tokens.kept(document) for document in documents])
            captured = capture(model, torch.from_numpy(ids).to(self.device), list(self.drafts))
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in batch])
            for site, activation in captured.items():
                chosen = activation.cpu()[torch.from_numpy(keep)]
                if not torch.isfinite(chosen).all():
                    raise self._not_finite(site, documents, activation.cpu())
                if site not in result:
                    result[site] = chosen.new_empty(shard.rows, chosen.shape[1])
                result[site][torch.from_numpy(rows)] = chosen
        return result

    def _write(self, shard: _Shard, activations: Mapping[Site, Tensor]) -> None:
        rows = self.tokens.rows_of(shard.documents)
        for site, draft in self.drafts.items():
            if not draft.has(shard.name):
                with draft.writing(shard.name) as path:
                    shards.write(path, rows, activations[site], self.config.storage)

    def _finish(self, site: Site, draft: Draft) -> None:
        for shard in self.shards:
            draft.rows[shard.name] = shard.rows
        train = [draft.path / s.name for s in self.shards if s.name.startswith("train")]
        moments = shards.moments(train)
        if not draft.has("moments.safetensors"):
            with draft.writing("moments.safetensors") as path:
                moments.save(path)
        draft.facts.update(
            site=str(site),
            layer=site.layer,
            hook=site.hook,
            d_in=len(moments.mean),
            train_rows=moments.rows,
            test_rows=sum(s.rows for s in self.shards) - moments.rows,
            mean_squared_norm=float(moments.variance.sum()),
            model=self.model.name,
            model_digest=self.model.digest,
            dtype=str(self.dtype).removeprefix("torch."),
        )

    def _not_finite(
        self, site: Site, documents: NDArray[np.int64], activation: Tensor
    ) -> DataError:
        batch, position = (
            int(i[0]) for i in torch.nonzero(~torch.isfinite(activation).all(-1), as_tuple=True)
        )
        return DataError(
            f"activations at site {str(site)!r} are not finite in document "
            f"{documents[batch]}, position {position} ({str(self.dtype).removeprefix('torch.')}); "
            "set model.dtype = 'float32', or check the model's weights"
        )


@dataclass
class _Tokens:
    """The corpus' tokens on disk, by document. ``rows``: how many of a document are recorded."""

    ids: NDArray[np.int32]
    keep: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def read(cls, corpus: Artifact, skip_positions: int, draft: Draft) -> _Tokens:
        """Lay token ids out as flat files in the draft's scratch folder, and map them."""
        count = int(corpus.facts["tokens"])
        ids = np.memmap(draft.scratch / "token_ids.i32", np.int32, "w+", shape=(count,))
        keep = np.memmap(draft.scratch / "keep.u8", np.bool_, "w+", shape=(count,))
        documents = int(corpus.facts["documents"])
        lengths = np.zeros(documents, np.int64)
        rows = np.zeros(documents, np.int64)
        columns = ["token_index", "doc_id", "position", "token_id", "special"]
        file = pq.ParquetFile(corpus.file("tokens.parquet"), page_checksum_verification=True)
        for block in file.iter_batches(1 << 20, columns=columns):
            index, document, position, token, special = (
                column.to_numpy(zero_copy_only=False) for column in block.columns
            )
            kept = (position >= skip_positions) & ~special
            where = slice(int(index[0]), int(index[-1]) + 1)
            ids[where] = token
            keep[where] = kept
            np.add.at(lengths, document, 1)
            np.add.at(rows, document, kept)
        return cls(ids, keep, lengths, rows, np.concatenate([[0], np.cumsum(lengths)]))

    def of(self, document: int) -> NDArray[np.int64]:
        """Token ids of one document."""
        return self.ids[self.starts[document] : self.starts[document + 1]].astype(np.int64)

    def kept(self, document: int) -> NDArray[np.bool_]:
        """Which of its tokens are recorded."""
        return np.asarray(self.keep[self.starts[document] : self.starts[document + 1]])

    def rows_of(self, documents: NDArray[np.int64]) -> shards.Rows:
        """Where the recorded rows of ``documents`` come from, in order."""
        positions = [np.flatnonzero(self.kept(document)) for document in documents]
        position = np.concatenate(positions)
        document = np.repeat(documents, [len(p) for p in positions])
        index = self.starts[document] + position
        return shards.Rows(
            token_index=index.astype(np.uint64),
            doc_id=document.astype(np.uint32),
            position=position.astype(np.uint32),
            token_id=self.ids[index].astype(np.uint32),
        )


def _equal_lengths(
    documents: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Places in ``documents``, grouped to batches of equal length and at most `BATCH_TOKENS`."""
    own = lengths[documents]
    for length in np.unique(own):
        places = np.flatnonzero(own == length)
        size = max(1, BATCH_TOKENS // int(length))
        yield from (places[first : first + size] for first in range(0, len(places), size))
