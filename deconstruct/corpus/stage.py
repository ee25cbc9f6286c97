"""The corpus stage: texts cut into tokens once, with a split that does not move.

Texts are read, tokenised and written batch by batch: memory does not grow with the corpus (but
for one string per entry of the vocabulary, and the names of the labels).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
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
from deconstruct.corpus.columns.further import Further
from deconstruct.corpus.columns.labels import MAX_LABELS, Told
from deconstruct.corpus.columns.texts import batches, doc_key, refuse_numbers
from deconstruct.corpus.growth import KnownDocuments, documents_of, segments
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.splits import Settled, Splits, rewrite
from deconstruct.corpus.tables import DOCUMENTS, GROUPS, KEPT, TOKENS
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import Cut, Vocabulary

if TYPE_CHECKING:
    from deconstruct.model.resolve import ResolvedModel

log = logging.getLogger(__name__)

VERSION = 3
UNCHANGED = 2
"""What version 3 leaves as it was, byte for byte, keeps the keys of this one."""


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
    their own. Labels and metadata are those that the source has now.

    Raises ``ConfigError`` if a BOS token is asked for that the tokenizer has not, ``DataError``
    for a source that does not read, has no text, or no two different texts (or groups of them) to
    split, for columns that don't hold what they should, and for one that is written to meanwhile.
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
    further: Further = field(init=False)
    splits: Splits = field(init=False)

    def run(self, model_name: str) -> None:
        """Write both files, some documents at a time, and the facts."""
        said = self.config.split_column is not None
        self.splits = Splits(self.config.test_share, self.config.seed, said)
        self.further = Further(self.config, self.source, self.base)
        total, rows = sources.read(self.source, self.config)
        if total == 0:
            raise sources.without_text(self.source, self.config, total)
        with (
            self.draft.writing("documents.parquet") as documents_path,
            self.draft.writing("tokens.parquet") as tokens_path,
            self.further.writing(self.draft),
        ):
            with (
                GroupedWriter(documents_path, DOCUMENTS.arrow, group_rows=8192) as documents,
                GroupedWriter(tokens_path, TOKENS.arrow, group_rows=16_384) as tokens,
                track("corpus", total, "documents") as advance,
            ):
                if self.base is not None:
                    self._adopt(self.base, documents, tokens)
                for batch in batches(rows):
                    self._write_batch(batch, documents, tokens)
                    advance(len(batch))
            self._check()
            settled = self._settle(documents_path, self.further.finish(self.draft))
        if self.kept:
            self.draft.write_table(KEPT, pa.table({"characters": np.concatenate(self.kept)}))
        if (groups := self.splits.groups()) is not None:
            self.draft.write_table(GROUPS, pa.table({"group": groups}))
        self._warn(settled)
        self.further.say(self.documents)
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
        if self.config.keep_columns:
            self.draft.facts["metadata"] = list(self.config.keep_columns)
        if self.base is not None:
            new = self.documents - int(self.base.facts["documents"])
            self.draft.facts["segments"] = [*segments(self.base), new]

    def _adopt(self, base: Artifact, documents: GroupedWriter, tokens: GroupedWriter) -> None:
        """Take over the documents of ``base`` as they are; their labels are settled at the end."""
        self.known = KnownDocuments(base)
        grouped = self.config.group_column is not None
        groups = base.table(GROUPS)["group"].to_numpy() if grouped else None
        for table, ids in documents_of(base):
            documents.write(table)
            those = slice(self.documents, self.documents + len(table))
            test = [split == "test" for split in table["split"].to_pylist()]
            self.splits.adopt(test, ids, None if groups is None else groups[those])
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
        kept = [
            row._replace(text=encodable(row.text)) for row in batch if row.text and row.text.strip()
        ]
        if self.read == 0:
            texts = [row.text or "" for row in kept]
            refuse_numbers(self.config.text_column, self.source.name, texts)
        self.read += len(batch)
        self.without_text += len(batch) - len(kept)
        new = self._not_known(kept)
        special = self.vocabulary.special
        cuts = self._cut([row.text or "" for row in new])
        whole = [
            (row, cut) for row, cut in zip(new, cuts, strict=True) if not special[cut.ids].all()
        ]
        self.without_tokens += len(new) - len(whole)
        if not whole:
            return
        rows, cuts = [row for row, _ in whole], [cut for _, cut in whole]
        texts, labels = [row.text or "" for row in rows], [row.label for row in rows]
        doc_ids = np.arange(self.documents, self.documents + len(whole), dtype=np.uint32)
        keys = [doc_key(text) for text in texts]
        self._note_labels(labels)
        self.further.note(doc_ids, rows)
        groups, held_out = self.further.groups(keys, rows), self.further.held_out(rows)
        splits = self.splits.draw(keys, [cut.ids for cut in cuts], groups, held_out)
        lengths = np.array([len(cut.ids) for cut in cuts], np.uint32)
        documents.write(DOCUMENTS.of(doc_ids, keys, splits, labels, texts, lengths))
        self._write_tokens(doc_ids, cuts, tokens)
        self.documents += len(whole)

    def _not_known(self, rows: list[Row]) -> list[Row]:
        """Those of some rows whose text no base holds; of the others, note what they say now."""
        if self.known is None:
            return rows
        new, again = [], {}
        for said in rows:
            row = said._replace(label=self.known.named(said.label))
            doc_id = self.known.take(doc_key(row.text or ""))
            if doc_id is None:
                new.append(row)
            else:
                self.known.relabel(doc_id, row.label)
                again[doc_id] = row
        self.further.note(np.array(list(again), np.uint32), list(again.values()))
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

    def _settle(self, documents: Path, classes: Told | None) -> Settled:
        """Decide on splits, and on the labels of documents that were known, or which of several
        columns has told."""
        settled = self.splits.settle()
        settled.check(self.source.name, self.config)
        columns: dict[str, Callable[[pa.RecordBatch], pa.Array]] = {}
        if settled.moved:
            columns["split"] = settled.names_in
        if self.config.label_columns:
            if classes is not None:
                self.labels = set(classes.names)
                columns["label"] = classes.labels_in(self.documents)
        elif self.known is not None:
            self._note_labels(self.known.labels())
            if self.known.changed():
                columns["label"] = self.known.labels_in
        if columns:
            rewrite(documents, columns)
        return settled

    def _note_labels(self, labels: Iterable[str | None]) -> None:
        """Of the one column of labels; several are `Further`'s."""
        if self.config.label_columns:
            return
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
        column, name = self.config.group_column, self.source.name
        if column is not None and self.splits.parts() == 1:
            raise DataError(
                f"corpus.group_column {column!r} of {name}: all {self.documents} documents are of "
                "one group, or have the texts of one another's groups, so that none can be held "
                "out; name another column, or leave it out"
            )
        if self.splits.distinct() == 1:
            raise DataError(
                f"corpus.source {self.source.name!r} has one text only "
                f"({self.documents} document{'s' if self.documents > 1 else ''}); at least two "
                f"that differ in their first {self.config.max_tokens} tokens are needed, one to "
                "learn from and one held out"
            )

    def _warn(self, settled: Settled) -> None:
        name = self.source.name
        if self.known is not None and not self.config.label_columns and self.known.changed():
            log.info(
                "%s: %d texts that were there before have another label now",
                name,
                self.known.changed(),
            )
        settled.say(name, self.config)
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
