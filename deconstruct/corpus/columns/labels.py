"""Columns of labels: which kind each is, and their rows of ``document_labels.parquet``.

What a column holds is known once it has been read; until then its labels wait as numbers, 16 bytes
each, beside the names of its classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deconstruct.artifacts import Artifact, Draft
from deconstruct.common.errors import DataError
from deconstruct.common.parquet import GroupedWriter
from deconstruct.config import LabelColumn, LabelKind
from deconstruct.corpus.growth import as_integer
from deconstruct.corpus.tables import DOCUMENT_LABELS
from deconstruct.corpus.values import label_name

MAX_LABELS = 1000
"""More distinct labels than this are taken for a column of ids, named by mistake."""
NONE_OF_THEM = -1
"""Code of a document whose list of labels is empty: known to have none."""
GROUP_ROWS = 65_536

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
_PARTED = re.compile(r"[;|]")


class Told(NamedTuple):
    """A column's labels once all of it is known.

    document, code, number: [labels], ordered by document, then code; code: index into ``names``,
    which are sorted, or `NONE_OF_THEM`; number: of kind "number", which has no codes.
    """

    task: str
    kind: LabelKind
    document: NDArray[np.uint32]
    code: NDArray[np.int32]
    number: NDArray[np.float64]
    names: list[str]

    def labels_in(self, documents: int) -> Callable[[pa.RecordBatch], pa.Array]:
        """What gives the labels of some rows of ``documents.parquet``; of kind "class"."""
        codes, names = np.full(documents, -1, np.int32), pa.array(self.names, pa.string())
        codes[self.document] = self.code

        def of(batch: pa.RecordBatch) -> pa.Array:
            mine = codes[batch.column("doc_id").to_numpy()]
            return names.take(pa.array(mine, mask=mine < 0))

        return of

    def texts(self, rows: slice) -> list[str | None]:
        """Some of the labels as ``value`` has them: a number as short as it is told exactly."""
        if self.kind == "number":
            return [label_name(one) for one in self.number[rows].tolist()]
        return [self.names[code] if code >= 0 else None for code in self.code[rows].tolist()]


class Labels:
    """One column of labels while it is read.

    Its kind is ``column.kind`` or, where that is None: "multilabel" if a cell is a list; "number"
    if all cells are numbers and one has a fraction, or if they are floats with more than
    `MAX_LABELS` different values; else "class". So whole floats are classes, as pandas makes floats
    of integers with gaps. typed: whether cells have types; strings that look like numbers are
    numbers where they have none, as in CSV files. source: its name, for messages.
    """

    def __init__(self, column: LabelColumn, source: str, typed: bool) -> None:
        self.column, self._source, self._typed = column, source, typed
        self._codes: dict[str, int] = {}
        self._only_numbers = True
        self._floats = self._fraction = self._lists = self._uncounted = False
        self._found: list[_Rows] = []
        self._before: list[_Rows] = []
        self._said: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._forms: dict[str, str] = {}

    def adopt(self, documents: int) -> None:
        """So many documents have labels already (`recall`), which hold where the source has
        nothing more to say of the document. The kind is known then."""
        self._said = np.zeros(documents, np.bool_)

    def recall(self, documents: NDArray[np.uint32], values: Iterable[str | None]) -> None:
        """Labels of adopted documents, as `Told.texts` had them."""
        numbers = self.column.kind == "number"
        rows = [
            (NONE_OF_THEM, math.nan) if value is None
            else (NONE_OF_THEM, float(value)) if numbers
            else (self._coded(value), math.nan)
            for value in values
        ]  # fmt: skip
        self._before.append(_Rows.of(documents, rows))

    def recalled(self) -> None:
        """That was all: a class of theirs keeps its name, also where the source writes it as
        another form of the same integer now."""
        self._forms = {as_integer(name): name for name in self._codes}

    def note(self, documents: NDArray[np.uint32], cells: Iterable[Any]) -> None:
        """What the source says of some documents. Raises ``DataError`` for what is no label."""
        self._said[documents[documents < len(self._said)]] = True
        rows: list[tuple[int, float]] = []
        of: list[int] = []
        for document, cell in zip(documents.tolist(), cells, strict=True):
            rows += self._labels(cell)
            of += [document] * (len(rows) - len(of))
        self._found.append(_Rows.of(np.array(of, np.uint32), rows))

    def _labels(self, cell: Any) -> Iterator[tuple[int, float]]:
        """Code and number of each label in a cell."""
        if isinstance(cell, str) and self.column.kind == "multilabel":
            cell = _listed(cell)
        if isinstance(cell, list | tuple | np.ndarray):
            if self.column.kind in ("class", "number"):
                raise self._fault(cell, f"not one {self.column.kind} per document")
            self._lists = True
            names = dict.fromkeys(map(self._name, cell))
            names.pop(None, None)
            yield from ((self._coded(name), math.nan) for name in names if name is not None)
            if not names:
                yield NONE_OF_THEM, math.nan
        elif (name := self._name(cell)) is not None:
            number = self._as_number(cell)
            yield self._coded(name), number

    def _name(self, value: Any) -> str | None:
        if isinstance(value, list | tuple | dict | np.ndarray):
            raise self._fault(value, "not labels")
        return label_name(value)

    def _as_number(self, cell: Any) -> float:
        """A cell's number, NaN if it is none; of strings only where cells have no types."""
        wanted = self.column.kind == "number"
        number = math.nan
        if isinstance(cell, str):
            if (wanted or not self._typed) and _NUMBER.fullmatch(cell):
                number = float(cell)
                self._floats |= not cell.strip().lstrip("+-").isdigit()
        elif isinstance(cell, int | float | np.number | Decimal) and not isinstance(cell, bool):
            number = float(str(cell))  # of short floats what they show, not what they are
            self._floats |= not isinstance(cell, int | np.integer)
        if math.isinf(number) or (wanted and math.isnan(number)):
            raise self._fault(cell, "not a number" if wanted else "neither a label nor a number")
        self._only_numbers &= not math.isnan(number)
        self._fraction |= not math.isnan(number) and not number.is_integer()
        return number

    def _coded(self, name: str) -> int:
        """The number of a label's name; names are no longer counted of what must be numbers."""
        kind = self.column.kind
        if kind == "number":
            return NONE_OF_THEM
        if name not in self._codes:
            name = self._forms.get(as_integer(name), name)
        if not self._uncounted:
            code = self._codes.setdefault(name, len(self._codes))
            if len(self._codes) <= MAX_LABELS:
                return code
            self._uncounted = True
        numbers = self._only_numbers and not self._lists
        if kind is None and numbers and self._floats:
            return NONE_OF_THEM
        column = self.column.name
        remedy = f"for numbers say '{column}:number', else " if numbers else ""
        raise DataError(
            f"corpus.label_columns {column!r} of {self._source} has more than {MAX_LABELS} "
            f"different values, so it holds no classes; {remedy}name another column, or leave it "
            "out"
        )

    def _fault(self, cell: Any, what: str) -> DataError:
        shown = json.dumps(cell, default=str)[:80]
        return DataError(
            f"corpus.label_columns {self.column.name!r} of {self._source} holds {shown}, {what}; "
            "name another column or another kind ('class', 'multilabel' or 'number' after a "
            "colon), or leave it out"
        )

    def told(self) -> Told:
        """All labels, of the kind that was found."""
        kind = self._kind()
        left = [rows.where(~self._said[rows.document]) for rows in self._before]
        whole = _Rows(*map(np.concatenate, zip(_Rows.of([], []), *self._found, *left, strict=True)))
        document, code, number = whole
        names: list[str] = []
        if kind != "number":
            by_code = list(self._codes)
            names = sorted(by_code[i] for i in np.unique(code[code >= 0]))
            place = {name: i for i, name in enumerate(names)}
            renumber = [*(place.get(name, NONE_OF_THEM) for name in by_code), NONE_OF_THEM]
            code = np.array(renumber, np.int32)[code]  # the last place is of NONE_OF_THEM
        order = np.lexsort((code, document))
        return Told(self.column.name, kind, document[order], code[order], number[order], names)

    def _kind(self) -> LabelKind:
        if self.column.kind is not None:
            return self.column.kind
        if self._lists:
            return "multilabel"
        real = self._fraction or self._uncounted
        return "number" if self._only_numbers and real else "class"


class _Rows(NamedTuple):
    """Labels of documents, as `Told` has them, but in any order."""

    document: NDArray[np.uint32]
    code: NDArray[np.int32]
    number: NDArray[np.float64]

    @classmethod
    def of(cls, document: Any, labels: Sequence[tuple[int, float]]) -> _Rows:
        """labels: code and number of each."""
        code, number = zip(*labels, strict=True) if labels else ((), ())
        return cls(
            np.asarray(document, np.uint32), np.array(code, np.int32), np.array(number, np.float64)
        )

    def where(self, wanted: NDArray[np.bool_]) -> _Rows:
        """Some of them."""
        return _Rows(self.document[wanted], self.code[wanted], self.number[wanted])


def _listed(cell: str) -> list[Any]:
    """The labels in a string: a JSON list, or parted by ``;`` or ``|``."""
    if cell.lstrip().startswith("["):
        try:
            found = json.loads(cell)
            return found if isinstance(found, list) else [found]
        except ValueError:
            pass
    return [part.strip() for part in _PARTED.split(cell)]


def recall(base: Artifact, tasks: Sequence[Labels]) -> None:
    """Adopt the labels that a corpus has."""
    by_name = {task.column.name: task for task in tasks}
    for task in tasks:
        task.adopt(int(base.facts["documents"]))
    for table in base.rows(DOCUMENT_LABELS.file, ["doc_id", "task", "value"]):
        for name, task in by_name.items():
            mine = table.filter(pc.equal(table["task"], name))
            task.recall(mine["doc_id"].to_numpy(), mine["value"].to_pylist())
    for task in tasks:
        task.recalled()


def write(draft: Draft, tasks: Sequence[Told]) -> None:
    """``document_labels.parquet``: ordered by document, then task as configured, then label."""
    document = np.concatenate([task.document for task in tasks])
    which = np.repeat(np.arange(len(tasks)), [len(task.document) for task in tasks])
    within = np.concatenate([np.arange(len(task.document)) for task in tasks])
    order = np.lexsort((within, which, document))
    with (
        draft.writing(DOCUMENT_LABELS.file) as path,
        GroupedWriter(path, DOCUMENT_LABELS.arrow, GROUP_ROWS) as writer,
    ):
        for start in range(0, len(order), GROUP_ROWS):
            rows = order[start : start + GROUP_ROWS]
            value = np.empty(len(rows), object)
            for number, task in enumerate(tasks):
                mine = which[rows] == number
                value[mine] = _texts_at(task, within[rows[mine]])
            names = pa.array([task.task for task in tasks]).take(pa.array(which[rows]))
            kinds = pa.array([str(task.kind) for task in tasks]).take(pa.array(which[rows]))
            columns = (document[rows], names, kinds, pa.array(value, pa.string()))
            writer.write(DOCUMENT_LABELS.of(*columns))
    draft.rows[DOCUMENT_LABELS.file] = len(order)


def _texts_at(task: Told, places: NDArray[np.int64]) -> list[str | None]:
    """Texts of labels that follow on one another: each document's, for documents in order."""
    if not len(places):
        return []
    return task.texts(slice(int(places[0]), int(places[-1]) + 1))
