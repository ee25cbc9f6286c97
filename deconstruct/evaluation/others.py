"""Other texts: sources that the SAE is judged on, and that nothing is trained or fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deconstruct.activations.layout import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from deconstruct.activations.reader import Block
from deconstruct.activations.shards import Rows
from deconstruct.artifacts import Artifact
from deconstruct.common.cores import each_on_one_thread
from deconstruct.common.errors import DataError, DeconstructError
from deconstruct.common.site import Site
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources, spaces
from deconstruct.corpus.columns.texts import batches
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.tokens import TokenWriter
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import Vocabulary
from deconstruct.model.hooks import reading
from deconstruct.model.loading import load_tokenizer
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.texts import Text, equal_lengths

SHARED = ("text_column", "max_tokens", "prepend_bos", "long_documents", "txt_documents")
"""Settings of the corpus by which other texts are read and cut."""


def resolve(corpus: CorpusConfig, other: str) -> ResolvedSource:
    """Find one of ``evaluation.other``, and see that it reads as the corpus' texts do.

    Raises a ``DeconstructError`` that says which one it is about.
    """
    try:
        return sources.resolve(_settings(corpus.model_dump(), other, None))
    except DeconstructError as error:
        raise type(error)(f"evaluation.other {other!r}: {error}") from error


def read(
    source: ResolvedSource, other: str, corpus: Artifact, model: ResolvedModel, skip: int,
    limit: int | None,
) -> list[Text]:  # fmt: skip
    """At most ``limit`` documents (of split ones windows) of a source, drawn evenly over it, cut as
    those of ``corpus``.

    other: as the configuration names it. skip: leading positions that are not recorded. Documents
    without a token of text are left out; those that are split are several texts of one ``doc_id``,
    their number among those read. Raises ``DataError`` where none is left.
    """
    config = _settings(corpus.manifest.config, other, limit)
    tokenizer = load_tokenizer(model)
    vocabulary = Vocabulary(tokenizer, config.prepend_bos, spaces.kept_by(model.folder), False)
    cutting = TokenWriter(vocabulary, config, None)
    texts: list[Text] = []
    number = 0
    try:
        for batch in batches(sources.read(source, config)[1]):
            told = [encodable(row.text) for row in batch if row.text and row.text.strip()]
            for cut in cutting.cut(told):
                ids = np.asarray(cut.ids, np.int64)
                special = vocabulary.special[ids]
                if special.all():
                    continue
                texts += _windows(number, ids, ~special, config.max_tokens, skip)
                number += 1
    except DeconstructError as error:
        raise type(error)(f"evaluation.other {other!r}: {error}") from error
    if not texts:
        raise DataError(
            f"evaluation.other {other!r}: none of its documents has more than "
            f"{skip + 1} tokens; name another source, or leave it out"
        )
    if limit is not None and len(texts) > limit:  # of split ones windows are drawn, as of the own
        texts = [texts[n] for n in np.linspace(0, len(texts) - 1, limit).round().astype(int)]
    return texts


@dataclass(frozen=True)
class Held:
    """Rows in memory, one block after another, as `InOrder` has them."""

    blocks: list[Block]

    @property
    def rows(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def d_in(self) -> int:
        return int(self.blocks[0].activation.shape[1])

    def rows_in_order(self) -> Iterator[Block]:
        return iter(self.blocks)


def activations(
    lm: torch.nn.Module, sites: list[Site], texts: list[Text], device: str
) -> dict[Site, Held]:
    """The recorded activations of the texts at some sites, in memory as float32."""
    on_cpu = device == "cpu"
    found: dict[int, dict[Site, Block]] = {}
    with reading(lm, list(dict.fromkeys(sites))) as read_at:

        def compute(numbered: tuple[int, list[Text]]) -> tuple[int, dict[Site, Block]]:
            number, batch = numbered
            ids = np.stack([text.ids for text in batch])
            recorded = np.stack([text.recorded for text in batch])
            at = read_at(torch.from_numpy(ids).to(device))
            rows = _rows(batch, ids, recorded)
            kept = torch.from_numpy(recorded)
            return number, {s: Block(rows, one.cpu()[kept].float()) for s, one in at.items()}

        most = CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS
        side_by_side = each_on_one_thread if on_cpu else map
        found = dict(side_by_side(compute, enumerate(equal_lengths(texts, most))))
    return {site: Held([found[number][site] for number in sorted(found)]) for site in sites}


def _settings(corpus: dict[str, object], other: str, limit: int | None) -> CorpusConfig:
    shared = {name: corpus[name] for name in SHARED if name in corpus}
    return CorpusConfig.model_validate(
        {**shared, "source": other, "label_column": None, "limit": limit}
    )


def _windows(
    number: int, ids: NDArray[np.int64], text: NDArray[np.bool_], length: int, skip: int
) -> Iterator[Text]:
    """A document as the model reads it. text: which of its tokens are no special ones."""
    for first in range(0, len(ids), length):
        window = slice(first, first + length)
        recorded = text[window] & (np.arange(len(ids[window])) >= skip)
        if recorded[:-1].any():
            yield Text(number, ids[window], recorded)


def _rows(batch: list[Text], ids: NDArray[np.int64], recorded: NDArray[np.bool_]) -> Rows:
    """Where the recorded rows come from; they are tokens of no corpus, and all numbered 0."""
    document = np.repeat(np.array([text.doc_id for text in batch], np.uint32), ids.shape[1])
    position = np.tile(np.arange(ids.shape[1], dtype=np.uint32), len(batch))
    chosen = recorded.ravel()
    return Rows(
        np.zeros(int(chosen.sum()), np.uint64),
        document[chosen],
        position[chosen],
        ids.astype(np.uint32).ravel()[chosen],
    )
