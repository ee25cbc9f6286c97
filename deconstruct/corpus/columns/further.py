"""All that the columns beside text and label say of documents, noted in one pass over a source."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, Draft
from deconstruct.common.errors import DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus.columns import labels
from deconstruct.corpus.columns.labels import Labels, Told
from deconstruct.corpus.columns.metadata import Metadata
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.corpus.textfiles import Row
from deconstruct.corpus.values import label_name

log = logging.getLogger(__name__)

TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "valid", "val", "dev", "eval", "held-out", "held_out")
"""What a source's own split may call its parts, in any case of letters."""


class Further:
    """What a source's further columns say; nothing where the configuration names none.

    told: the columns of labels, once `finish` has been called.
    """

    def __init__(self, config: CorpusConfig, source: ResolvedSource, base: Artifact | None) -> None:
        self._config, self._source, self._base = config, source.name, base
        self._place = {name: i for i, name in enumerate(sources.wanted(config).more)}
        kinds = {} if base is None else {t["task"]: t["kind"] for t in base.facts.get("tasks", ())}
        typed = source.kind != "csv"
        self._labels = [
            Labels(one._replace(kind=kinds.get(one.name, one.kind)), source.name, typed)
            for one in config.tasks
        ]
        if base is not None and self._labels:
            labels.recall(base, self._labels)
        self._metadata = Metadata(config.keep_columns) if config.keep_columns else None
        self.told: list[Told] = []

    @contextmanager
    def writing(self, draft: Draft) -> Iterator[None]:
        """While the source is read: what is written as it comes."""
        if self._metadata is None:
            yield
        else:
            with self._metadata.writing(draft, self._base):
                yield

    def note(self, documents: NDArray[np.uint32], rows: Sequence[Row]) -> None:
        """What the source says of some documents. Raises ``DataError`` for what is no label."""
        for one in self._labels:
            one.note(documents, self._cells(one.column.name, rows))
        if self._metadata is not None:
            places = [self._place[name] for name in self._config.keep_columns]
            self._metadata.note(documents, [[row.more[at] for at in places] for row in rows])

    def groups(self, keys: Sequence[str], rows: Sequence[Row]) -> list[str] | None:
        """What documents have in common that are held out together: their group or, of a document
        without one, its key; None without a group column."""
        column = self._config.group_column
        if column is None:
            return None
        found = []
        for key, cell in zip(keys, self._cells(column, rows), strict=True):
            if isinstance(cell, list | dict):
                raise DataError(
                    f"corpus.group_column {column!r} of {self._source} holds lists or objects, not "
                    "one group per document; name another column, or leave it out"
                )
            name = label_name(cell)
            found.append(f"document {key}" if name is None else f"group {name}")
        return found

    def held_out(self, rows: Sequence[Row]) -> list[bool] | None:
        """Whether the source holds documents out; None without a column that says so."""
        column = self._config.split_column
        if column is None:
            return None
        return [self._is_test(column, cell) for cell in self._cells(column, rows)]

    def _is_test(self, column: str, cell: Any) -> bool:
        said = None if isinstance(cell, list | dict) else label_name(cell)
        plain = (said or "").strip().lower()
        if plain in TRAIN or plain in TEST:
            return plain in TEST
        found = "nothing for a document" if cell is None else ascii(cell)[:80]
        raise DataError(
            f"corpus.split_column {column!r} of {self._source} holds {found}; it must say of each "
            f"document {' or '.join(TRAIN)}, or {', '.join(TEST[:-1])} or {TEST[-1]} (held out); "
            "name another column, or leave it out"
        )

    def _cells(self, name: str, rows: Sequence[Row]) -> Iterator[Any]:
        place = self._place[name]
        return (row.more[place] for row in rows)

    def finish(self, draft: Draft) -> Told | None:
        """Write the labels and note the tasks; give the first column of classes, if there is one.

        Without columns of labels, nothing.
        """
        if not self._labels:
            return None
        self.told = [one.told() for one in self._labels]
        labels.write(draft, self.told)
        draft.facts["tasks"] = [
            {
                "task": told.task,
                "kind": told.kind,
                "documents": len(np.unique(told.document)),
                "labels": len(told.names),
            }
            for told in self.told
        ]
        return next((told for told in self.told if told.kind == "class"), None)

    def say(self, documents: int) -> None:
        """Log which kinds the columns of labels are of, and what has none."""
        for told in self.told:
            count = f" of {len(told.names)} labels" if told.kind != "number" else ""
            log.info("%s: column %r is read as %s%s", self._source, told.task, told.kind, count)
            without = documents - len(np.unique(told.document))
            if without:
                log.warning(
                    "%s: %d of %d documents have no label in column %r",
                    self._source, without, documents, told.task,
                )  # fmt: skip
