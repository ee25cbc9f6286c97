"""The corpus stage: texts cut into tokens once, with a split that does not move.

Texts are read, tokenised and written batch by batch: memory does not grow with the corpus (but
for one string an entry of the vocabulary, and the names of the labels).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import track
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus.growth import KnownDocuments, documents_of, segments
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.splits import Splits
from deconstruct.corpus.tables import DOCUMENTS, TOKENS
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.vocabulary import Vocabulary

if TYPE_CHECKING:
    from deconstruct.model.resolve import ResolvedModel

log = logging.getLogger(__name__)

VERSION = 2
BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 4_000_000
MAX_LABELS = 1000
"""More distinct labels than this are taken for a column of ids, named by mistake."""


def recipe(
    config: CorpusConfig,
    *,
    source: ResolvedSource,
    model: ResolvedModel,
    base: Artifact | None = None,
) -> Recipe:
    """All that decides the tokenised corpus. The source enters by its contents, not its name."""
    settings = config.key_fields()
    inputs = {"source": source.digest, "tokenizer": model.tokenizer_digest}
    if base is not None:
        inputs["base"] = base.key
    return Recipe("corpus", VERSION, settings | {"kind": source.kind}, inputs)


def tokenise(
    root: DataRoot,
    config: CorpusConfig,
    *,
    source: ResolvedSource,
    model: ResolvedModel,
    base: Artifact | None = None,
) -> Artifact:
    """Read the source's texts, split them, cut them into tokens: the corpus artifact.

    A document is a row of ``documents.parquet`` and ``n_tokens`` consecutive rows of
    ``tokens.parquet`` (``docs/schema.md`` has the columns). Documents without text, or
    without a token of it, are left out with a warning that counts them. A document keeps its
    first ``config.max_tokens`` tokens; it begins with BOS if ``config.prepend_bos`` says so, and
    ends without EOS, as it is a cut.

    `Splits` says which documents are held out.

    base: an earlier corpus that this one grows from (`growth`): its documents come first, as they
    are, and those that the source has beyond them after it, as a segment of their own.

    Raises ``ConfigError`` if a BOS token is asked for that the tokenizer has not, ``DataError``
    for a source that does not read, has no text, or no two different texts to split.
    """

    def write(draft: Draft) -> None:
        from deconstruct.model.loading import load_tokenizer

        vocabulary = Vocabulary(load_tokenizer(model), config.prepend_bos)
        if config.prepend_bos == "always" and vocabulary.bos is None:
            raise ConfigError(
                f"corpus.prepend_bos 'always': the tokenizer of {model.name!r} has no BOS token; "
                "take 'auto' or 'never'"
            )
        writing = _Writing(draft, config, source, vocabulary, base)
        writing.run(model.name)

    return root.make(recipe(config, source=source, model=model, base=base), write)


STAGE = Stage("corpus", recipe, tokenise)


@dataclass
class _Writing:
    """One pass over a source: what was counted on the way."""

    draft: Draft
    config: CorpusConfig
    source: ResolvedSource
    vocabulary: Vocabulary
    base: Artifact | None = None
    known: KnownDocuments | None = None
    read: int = 0
    without_text: int = 0
    without_tokens: int = 0
    without_label: int = 0
    documents: int = 0
    tokens: int = 0
    labels: set[str] = field(default_factory=set)
    splits: Splits = field(init=False)

    def run(self, model_name: str) -> None:
        """Write both files, some documents at a time, and the facts."""
        self.splits = Splits(self.config.test_share, self.config.seed)
        total, rows = sources.read(self.source, self.config)
        if total == 0:
            raise DataError(f"corpus.source {self.source.name!r} is empty: it has no documents")
        with (
            self.draft.writing("documents.parquet") as documents_path,
            self.draft.writing("tokens.parquet") as tokens_path,
        ):
            with (
                GroupedWriter(documents_path, DOCUMENTS.arrow, group_rows=8192) as documents,
                GroupedWriter(tokens_path, TOKENS.arrow, group_rows=16_384) as tokens,
                track("corpus", total, "documents") as advance,
            ):
                if self.base is not None:
                    self._adopt(self.base, documents, tokens)
                for batch in _batches(rows):
                    self._write_batch(batch, documents, tokens)
                    advance(len(batch))
            self._check()
            test_documents, twins = self.splits.settle(documents_path)
        self._warn(twins)
        self.draft.rows |= {"documents.parquet": self.documents, "tokens.parquet": self.tokens}
        self.draft.facts |= {
            "documents": self.documents,
            "train_documents": self.documents - test_documents,
            "test_documents": test_documents,
            "tokens": self.tokens,
            "labels": sorted(self.labels),
            "tokenizer": model_name,
            "vocabulary": len(self.vocabulary.strings),
            "source": self.source.name,
        }
        if self.base is not None:
            new = self.documents - int(self.base.facts["documents"])
            self.draft.facts["segments"] = [*segments(self.base), new]

    def _adopt(self, base: Artifact, documents: GroupedWriter, tokens: GroupedWriter) -> None:
        """Take over the documents of ``base`` as they are."""
        self.known = KnownDocuments(base)
        for table, ids in documents_of(base):
            documents.write(table)
            self.splits.adopt([split == "test" for split in table["split"].to_pylist()], ids)
            self._note_labels(table["label"].to_pylist())
            self.documents += len(table)
        for batch in base.rows("tokens.parquet"):
            tokens.write(batch)
            self.tokens += len(batch)

    def _write_batch(
        self, batch: list[Row], documents: GroupedWriter, tokens: GroupedWriter
    ) -> None:
        kept = [
            Row(_encodable(row.text), row.label) for row in batch if row.text and row.text.strip()
        ]
        if self.read == 0:
            self._refuse_numbers([row.text or "" for row in kept])
        without_text = len(batch) - len(kept)
        if self.known is not None:
            kept = [row for row in kept if not self.known.take(_doc_key(row.text or ""))]
        self.read += len(batch)
        self.without_text += without_text
        prefix = self.vocabulary.prefix
        cut = self.vocabulary.cut(
            [row.text or "" for row in kept], self.config.max_tokens - len(prefix)
        )
        special = self.vocabulary.special
        whole = [
            (row, prefix + ids)
            for row, ids in zip(kept, cut, strict=True)
            if not special[ids].all()
        ]
        self.without_tokens += len(kept) - len(whole)
        if not whole:
            return
        lengths = np.array([len(ids) for _, ids in whole], np.uint32)
        doc_ids = np.arange(self.documents, self.documents + len(whole), dtype=np.uint32)
        keys = [_doc_key(row.text or "") for row, _ in whole]
        self._note_labels(row.label for row, _ in whole)
        columns = [
            doc_ids,
            keys,
            self.splits.draw(keys, [ids for _, ids in whole]),
            [row.label for row, _ in whole],
            [row.text for row, _ in whole],
            lengths,
        ]
        documents.write(DOCUMENTS.of(*columns))
        token_ids = np.fromiter(itertools.chain.from_iterable(i for _, i in whole), np.uint32)
        count = len(token_ids)
        starts = np.repeat(np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
        columns = [
            np.arange(self.tokens, self.tokens + count, dtype=np.uint64),
            np.repeat(doc_ids, lengths),
            (np.arange(count) - starts).astype(np.uint32),
            token_ids,
            self.vocabulary.strings.take(pa.array(token_ids)),
            special[token_ids],
        ]
        tokens.write(TOKENS.of(*columns))
        self.documents += len(whole)
        self.tokens += count

    def _refuse_numbers(self, texts: list[str]) -> None:
        if texts and all(_is_number(text) for text in texts[:100]):
            raise DataError(
                f"corpus.text_column {self.config.text_column!r} of {self.source.name} holds "
                f"numbers (the first is {texts[0].strip()!r}), not texts; name the column of texts"
            )

    def _note_labels(self, labels: Iterable[str | None]) -> None:
        for label in labels:
            if label is None:
                self.without_label += self.config.label_column is not None
            else:
                self.labels.add(label)
        if len(self.labels) > MAX_LABELS:
            raise DataError(
                f"corpus.label_column {self.config.label_column!r} of {self.source.name} has more "
                f"than {MAX_LABELS} different values, so it holds no classes; name another "
                "column, or go without: corpus.label_column=none"
            )

    def _check(self) -> None:
        if self.documents == 0:
            raise DataError(
                f"corpus.source {self.source.name!r}: none of its {self.read} documents has any "
                f"text in column {self.config.text_column!r}"
            )
        if self.splits.distinct() == 1:
            raise DataError(
                f"corpus.source {self.source.name!r} has one text only "
                f"({self.documents} document{'s' if self.documents > 1 else ''}); at least two "
                f"that differ in their first {self.config.max_tokens} tokens are needed, one to "
                "learn from and one held out"
            )

    def _warn(self, twins: int) -> None:
        name = self.source.name
        if twins:
            log.info("%s: %d texts begin as train texts do; not held out", name, twins)
        if self.without_text:
            log.warning(
                "%s: %d of %d documents have no text and are left out",
                name, self.without_text, self.read,
            )  # fmt: skip
        if self.without_tokens:
            log.warning(
                "%s: %d of %d documents have no token and are left out",
                name, self.without_tokens, self.read,
            )  # fmt: skip
        if self.without_label:
            log.warning(
                "%s: %d of %d documents have no label", name, self.without_label, self.documents
            )


def _doc_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encodable(text: str | None) -> str | None:
    """JSON can hold lone surrogates, which no UTF-8 can; they become question marks."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Some hundred documents at a time, fewer if they are long."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.text or "")
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
