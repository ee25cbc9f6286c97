"""The corpus stage: texts cut into tokens once, with a split that does not move.

Texts are read, tokenised and written batch by batch: memory does not grow with the corpus (but
for one string per entry of the vocabulary, and the names of the labels).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import track
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources, spaces
from deconstruct.corpus.growth import KnownDocuments, documents_of, segments
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.splits import Settled, Splits, rewrite
from deconstruct.corpus.tables import DOCUMENTS, KEPT, TOKENS
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import Cut, Vocabulary

if TYPE_CHECKING:
    from deconstruct.model.resolve import ResolvedModel

log = logging.getLogger(__name__)

VERSION = 3
UNCHANGED = 2
"""What version 3 leaves as it was, byte for byte, keeps the keys of this one."""
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
    changed = base is not None or source.renamed or not spaces.kept_by(model.folder)
    version = VERSION if changed else UNCHANGED
    return Recipe("corpus", version, settings | {"kind": source.kind}, inputs)


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

    base: an earlier corpus that this one grows from (`growth`): its documents come first, numbered
    and split as they are, and those that the source has beyond them after it, as a segment of
    their own. Labels are those that the source has now.

    Raises ``ConfigError`` if a BOS token is asked for that the tokenizer has not, ``DataError``
    for a source that does not read, has no text, or no two different texts to split, and for one
    that is written to meanwhile.
    """

    def write(draft: Draft) -> None:
        from deconstruct.model.loading import load_tokenizer

        kept = spaces.kept_by(model.folder)
        vocabulary = Vocabulary(load_tokenizer(model), config.prepend_bos, kept)
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
    kept: list[NDArray[np.uint32]] = field(default_factory=list)
    splits: Splits = field(init=False)

    def run(self, model_name: str) -> None:
        """Write both files, some documents at a time, and the facts."""
        self.splits = Splits(self.config.test_share, self.config.seed)
        total, rows = sources.read(self.source, self.config)
        if total == 0:
            raise sources.without_text(self.source, self.config, total)
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
            settled = self._settle(documents_path)
        if self.kept:
            self.draft.write_table(KEPT, pa.table({"characters": np.concatenate(self.kept)}))
        self._warn(settled.twins)
        test_documents = int(settled.test.sum())
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
        """Take over the documents of ``base`` as they are; their labels are settled at the end."""
        self.known = KnownDocuments(base)
        for table, ids in documents_of(base):
            documents.write(table)
            self.splits.adopt([split == "test" for split in table["split"].to_pylist()], ids)
            self.documents += len(table)
            if not self.vocabulary.spaces_kept:  # version 2 gave their tokens no spaces
                cuts = self._cut(table["text"].to_pylist())
                if [cut.ids for cut in cuts] != ids:
                    raise DataError(
                        f"corpus.source {self.source.name!r}: this version of `transformers` cuts "
                        "the texts of the corpus that it grows from into other tokens; take "
                        "growth anew"
                    )
                self._write_tokens(table["doc_id"].to_numpy(), cuts, tokens)
        if self.vocabulary.spaces_kept:
            for batch in base.rows("tokens.parquet"):
                tokens.write(batch)
                self.tokens += len(batch)

    def _write_batch(
        self, batch: list[Row], documents: GroupedWriter, tokens: GroupedWriter
    ) -> None:
        kept = [(encodable(row.text), row.label) for row in batch if row.text and row.text.strip()]
        if self.read == 0:
            self._refuse_numbers([text for text, _ in kept])
        self.read += len(batch)
        self.without_text += len(batch) - len(kept)
        new = self._not_known(kept)
        special = self.vocabulary.special
        cuts = self._cut([text for text, _ in new])
        whole = [
            (text, label, cut)
            for (text, label), cut in zip(new, cuts, strict=True)
            if not special[cut.ids].all()
        ]
        self.without_tokens += len(new) - len(whole)
        if not whole:
            return
        texts, labels, cuts = (list(column) for column in zip(*whole, strict=True))
        doc_ids = np.arange(self.documents, self.documents + len(whole), dtype=np.uint32)
        keys = [_doc_key(text) for text in texts]
        self._note_labels(labels)
        splits = self.splits.draw(keys, [cut.ids for cut in cuts])
        lengths = np.array([len(cut.ids) for cut in cuts], np.uint32)
        documents.write(DOCUMENTS.of(doc_ids, keys, splits, labels, texts, lengths))
        self._write_tokens(doc_ids, cuts, tokens)
        self.documents += len(whole)

    def _not_known(self, rows: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        """Those of some texts and labels that no base holds; of the others, note the label."""
        if self.known is None:
            return rows
        new = []
        for text, said in rows:
            label = self.known.named(said)
            doc_id = self.known.take(_doc_key(text))
            if doc_id is None:
                new.append((text, label))
            else:
                self.known.relabel(doc_id, label)
        return new

    def _cut(self, texts: list[str]) -> list[Cut]:
        return self.vocabulary.documents(texts, self.config.max_tokens)

    def _write_tokens(
        self, doc_ids: NDArray[np.uint32], cuts: list[Cut], tokens: GroupedWriter
    ) -> None:
        """Rows of ``tokens.parquet`` of some documents, and how far they go in their texts."""
        lengths = np.array([len(cut.ids) for cut in cuts], np.int64)
        ids = (cut.ids for cut in cuts)
        token_ids = np.fromiter(itertools.chain.from_iterable(ids), np.uint32)
        spaced = None
        if not self.vocabulary.spaces_kept:
            before = (cut.spaced or [] for cut in cuts)
            spaced = np.fromiter(itertools.chain.from_iterable(before), np.bool_)
            self.kept.append(np.array([cut.characters for cut in cuts], np.uint32))
        count = len(token_ids)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = [
            np.arange(self.tokens, self.tokens + count, dtype=np.uint64),
            np.repeat(doc_ids, lengths),
            (np.arange(count) - starts).astype(np.uint32),
            token_ids,
            self.vocabulary.texts_of(token_ids, spaced),
            self.vocabulary.special[token_ids],
        ]
        tokens.write(TOKENS.of(*columns))
        self.tokens += count

    def _settle(self, documents: Path) -> Settled:
        """Decide on splits, and on the labels of documents that were known."""
        settled = self.splits.settle()
        columns: dict[str, Callable[[pa.RecordBatch], pa.Array]] = {}
        if settled.moved:
            columns["split"] = settled.names_in
        if self.known is not None:
            self._note_labels(self.known.labels())
            if self.known.changed():
                columns["label"] = self.known.labels_in
        if columns:
            rewrite(documents, columns)
        return settled

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
            raise sources.without_text(self.source, self.config, self.read)
        if self.splits.distinct() == 1:
            raise DataError(
                f"corpus.source {self.source.name!r} has one text only "
                f"({self.documents} document{'s' if self.documents > 1 else ''}); at least two "
                f"that differ in their first {self.config.max_tokens} tokens are needed, one to "
                "learn from and one held out"
            )

    def _warn(self, twins: int) -> None:
        name = self.source.name
        if self.known is not None and self.known.changed():
            log.info(
                "%s: %d texts that were there before have another label now",
                name,
                self.known.changed(),
            )
        if twins:
            log.info("%s: %d texts begin as train texts do, so are not held out", name, twins)
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
