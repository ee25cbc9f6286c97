"""The corpus stage: texts cut into tokens once, with a split that does not move.

Texts are read, tokenised and written batch by batch: memory does not grow with the corpus (but
for one string per entry of the vocabulary, and the names of the labels).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, sha256_of
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.common.progress import track
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources, spaces
from deconstruct.corpus.alike.shingles import Kept
from deconstruct.corpus.columns.further import Further
from deconstruct.corpus.columns.labels import MAX_LABELS, Told
from deconstruct.corpus.columns.texts import batches, doc_key, refuse_numbers
from deconstruct.corpus.growth import KnownDocuments, documents_of, segments
from deconstruct.corpus.reading.chats import template_of
from deconstruct.corpus.reading.recording import Recording
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.splits import Columns, Settled, Splits, rewrite
from deconstruct.corpus.tables import DOCUMENTS, GROUPS, WITH_GROUPS
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.tokens import TokenWriter
from deconstruct.corpus.values import encodable
from deconstruct.corpus.vocabulary import Vocabulary

if TYPE_CHECKING:
    from deconstruct.model.resolve import ResolvedModel

log = logging.getLogger(__name__)

VERSION = 4


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
    if config.roles is not None and (template := template_of(model.folder)) is not None:
        inputs["chat_template"] = sha256_of(template)
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
    ends without EOS, as it is a cut. With ``config.long_documents`` "split" it keeps them all, in
    windows of ``config.max_tokens``, each of which begins so: where ``position`` is 0.

    `Splits` says which documents are held out; their first ``config.max_tokens`` tokens decide
    which are alike.

    base: an earlier corpus that this one grows from (`growth`): its documents come first, numbered
    and split as they are, and those that the source has beyond them after it, as a segment of
    their own. Labels and metadata are those that the source has now.

    Raises ``ConfigError`` if a BOS token is asked for that the tokenizer has not, ``DataError``
    for a source that does not read, has no text, or no two different texts (or groups of them) to
    split, for columns that don't hold what they should, and for one that is written to meanwhile.
    """

    def write(draft: Draft) -> None:
        from deconstruct.model.loading import load_tokenizer

        kept, tokenizer = spaces.kept_by(model.folder), load_tokenizer(model)
        chats = None if config.roles is None else Recording(tokenizer, config.roles, model.name)
        placed = chats is not None and chats.masks
        vocabulary = Vocabulary(tokenizer, config.prepend_bos, kept, placed)
        if config.prepend_bos == "always" and vocabulary.bos is None:
            raise ConfigError(
                f"corpus.prepend_bos 'always': the tokenizer of {model.name!r} has no BOS token; "
                "take 'auto' or 'never'"
            )
        writing = _Writing(draft, config, source, vocabulary, base, chats)
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
    chats: Recording | None = None
    known: KnownDocuments | None = None
    read: int = 0
    without_text: int = 0
    without_tokens: int = 0
    without_label: int = 0
    documents: int = 0
    labels: set[str] = field(default_factory=set)
    further: Further = field(init=False)
    splits: Splits = field(init=False)
    tokens: TokenWriter = field(init=False)

    def run(self, model_name: str) -> None:
        """Write both files, some documents at a time, and the facts."""
        said = self.config.split_column is not None
        kept = Kept(self.draft.scratch, self.vocabulary.special)
        self.splits = Splits(self.config.test_share, self.config.seed, said, kept)
        self.further = Further(self.config, self.source, self.base)
        self.tokens = TokenWriter(self.vocabulary, self.config, self.chats)
        total, rows = sources.read(self.source, self.config)
        if total == 0:
            raise sources.without_text(self.source, self.config, total)
        if self.chats is not None:
            rows = self.chats.texts(rows)
        with (
            self.draft.writing("documents.parquet") as documents_path,
            self.tokens.writing(self.draft),
            self.further.writing(self.draft),
        ):
            with (
                GroupedWriter(documents_path, DOCUMENTS.arrow, group_rows=8192) as documents,
                track("corpus", total, "documents") as advance,
            ):
                if self.base is not None:
                    self._adopt(self.base, documents)
                for batch in batches(rows):
                    self._write_batch(batch, documents)
                    advance(len(batch))
            self._check()
            settled = self._settle(documents_path, self.further.finish(self.draft))
        if (groups := self.splits.groups()) is not None:
            self.draft.write_table(GROUPS, pa.table({"group": groups}))
        self._warn(settled)
        self.further.say(self.documents)
        test_documents = int(settled.test.sum())
        self.draft.rows["documents.parquet"] = self.documents
        self.draft.facts |= {
            "documents": self.documents,
            "train_documents": self.documents - test_documents,
            "test_documents": test_documents,
            "tokens": self.tokens.rows,
            "labels": sorted(self.labels),
            "tokenizer": model_name,
            "vocabulary": len(self.vocabulary.strings),
            "source": self.source.name,
            **settled.facts(),
        }
        if self.config.keep_columns:
            self.draft.facts["metadata"] = list(self.config.keep_columns)
        if self.config.long_documents == "split":
            self.draft.facts["windows"] = self.tokens.windows
        if self.base is not None:
            new = self.documents - int(self.base.facts["documents"])
            self.draft.facts["segments"] = [*segments(self.base), new]

    def _adopt(self, base: Artifact, documents: GroupedWriter) -> None:
        """Take over the documents of ``base`` as they are; their labels are settled at the end."""
        self.known = KnownDocuments(base)
        self.tokens.check_growth()
        length = self.config.max_tokens
        grouped = self.config.group_column is not None
        groups = base.table(GROUPS)["group"].to_numpy() if grouped else None
        for table, ids in documents_of(base):
            documents.write(table.select(DOCUMENTS.arrow.names))
            those = slice(self.documents, self.documents + len(table))
            test = [split == "test" for split in table["split"].to_pylist()]
            self.splits.adopt(
                test,
                [found[:length] for found in ids],
                None if groups is None else groups[those],
            )
            self.documents += len(table)
            if not self.vocabulary.spaces_kept:  # version 2 gave their tokens no spaces
                cuts = self.tokens.cut(table["text"].to_pylist())
                if not all(np.array_equal(c.ids, f) for c, f in zip(cuts, ids, strict=True)):
                    raise DataError(
                        f"corpus.source {self.source.name!r}: this version of `transformers` cuts "
                        "the texts of the corpus that it grows from into other tokens; take "
                        "growth anew"
                    )
                self.tokens.write(table["doc_id"].to_numpy(), cuts)
        if self.vocabulary.spaces_kept:
            self.tokens.adopt(base)

    def _write_batch(self, batch: list[Row], documents: GroupedWriter) -> None:
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
        cuts = self.tokens.cut([row.text or "" for row in new])
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
        splits = self.splits.draw(
            keys, [cut.ids[: self.config.max_tokens] for cut in cuts], groups, held_out
        )
        lengths = np.array([len(cut.ids) for cut in cuts], np.uint32)
        documents.write(DOCUMENTS.of(doc_ids, keys, splits, labels, texts, lengths))
        self.tokens.write(doc_ids, cuts)
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

    def _settle(self, documents: Path, classes: Told | None) -> Settled:
        """Decide on splits, and on the labels of documents that were known, or which of several
        columns has told."""
        settled = self.splits.settle()
        settled.check(self.source.name, self.config)
        columns: Columns = {"group_id": settled.groups_in}
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
        rewrite(documents, columns, WITH_GROUPS.arrow)
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
        if self.chats is not None and self.chats.masks and self.chats.tokens == 0:
            raise DataError(
                f"corpus.roles {self.config.roles!r}: no chat of corpus.source "
                f"{self.source.name!r} has a message of that role with a token of text; take 'all' "
                "or another role"
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
