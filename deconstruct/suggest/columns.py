"""Which column holds the texts, and which the labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from deconstruct.common.errors import DataError
from deconstruct.suggest.sample import Column, Sample, characters

TEXT_NAMES = frozenset(
    "text texts content body document article review comment message sentence utterance post "
    "tweet abstract description".split()
)
LABEL_NAMES = frozenset(
    "label labels class category target topic sentiment intent genre rating stars y".split()
)
SPLIT_NAMES = frozenset(["split", "fold"])
SPLITS = frozenset(
    "train training test testing dev development val valid validation eval evaluation "
    "holdout".split()
)
NAMED = 8.0
"""A column that is called like a text counts for so many times its length."""
MAX_LABELS = 1000
"""As many as the stage corpus takes."""
ROWS_OF_LABEL = 3
"""A class has at least so many rows, on average."""
RULING_SHARE = 0.7
"""A value that has more of the rows leaves a label little to tell."""
_DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "'|'"}
_PROSE = 60
"""Characters of a column's name that is rather a text."""


class Guess(NamedTuple):
    """What was found. texts, labels: other columns that could be it, best first. splits: columns
    that tell where a row belongs, train or test."""

    text: Column
    label: Column | None
    texts: Sequence[Column]
    labels: Sequence[Column]
    splits: Sequence[Column]


def guess(sample: Sample) -> Guess:
    """The columns of texts and labels.

    The text column has the longest strings of more than one word, weighted by how many of them
    differ; the label column few distinct values beside its rows: one that is called so first, words
    before numbers, what one value does not rule first, then the fewest values. Raises ``DataError``
    if nothing reads as text.
    """
    texts = sorted(filter(_reads_as_text, sample.columns), key=_of_text, reverse=True)
    if not texts:
        raise _no_text(sample)
    _check_header(sample, texts[0])
    others = [column for column in sample.columns if column is not texts[0]]
    splits = [column for column in others if _is_split(column)]
    labels = [c for c in others if c not in splits and _reads_as_label(c, sample)]
    labels.sort(key=_of_label)
    rest = [column for column in texts[1:] if column not in labels and column not in splits]
    return Guess(texts[0], labels[0] if labels else None, rest, labels[1:], splits)


def _reads_as_text(column: Column) -> bool:
    filled = [value for value in column.filled if value.strip()] if column.is_text else []
    if not filled or _share(filled, _is_number_or_date) > 0.5:
        return False
    differ = len(set(filled)) / len(filled)
    if column.name.lower() in TEXT_NAMES:
        return True
    return differ > 0.1 and _share(filled, _has_words) > 0.5


def _of_text(column: Column) -> float:
    named = NAMED if column.name.lower() in TEXT_NAMES else 1.0
    return characters(column) * len(set(column.filled)) / len(column.filled) * named


def _reads_as_label(column: Column, sample: Sample) -> bool:
    counts = column.counts
    rows, distinct = counts.total(), len(counts)
    if distinct < 2 or rows * 2 < sample.rows or distinct * ROWS_OF_LABEL > rows:
        return False
    if column.name == "none":  # which says in a configuration that there is no label
        return False
    if _share(list(counts), lambda label: bool(_DATE.match(label))) > 0.5:
        return False
    # Of the rows that were not looked at, as many are new as one in so many was seen just once.
    once = sum(count == 1 for count in counts.values())
    return distinct + once / rows * max(0, sample.documents - sample.rows) <= MAX_LABELS


def _of_label(column: Column) -> tuple[bool, bool, bool, int]:
    numbers = _share(list(column.counts), _is_number_or_flag) > 0.5
    ruled = max(column.counts.values()) > RULING_SHARE * column.counts.total()
    return column.name.lower() not in LABEL_NAMES, numbers, ruled, len(column.counts)


def _is_split(column: Column) -> bool:
    labels = {label.lower() for label in column.counts}
    if not labels:
        return False
    return labels <= SPLITS or (
        column.name.lower() in SPLIT_NAMES and len(labels) * ROWS_OF_LABEL <= column.counts.total()
    )


def _no_text(sample: Sample) -> DataError:
    shown = ", ".join(f"{c.name!r} ({_holds(c)})" for c in sample.columns[:8])
    more = " ..." if len(sample.columns) > 8 else ""
    return DataError(
        f"no column of {sample.name} reads as text; it has {shown or 'none'}{more}; a column of "
        "texts holds strings of several words, or is called 'text'"
    )


def _holds(column: Column) -> str:
    if column.labels is None:
        return "nested"
    if not column.filled:
        return "empty"
    first = str(column.filled[0])
    return f"{first[:20]!r}" + (" ..." if len(first) > 20 else "")


def _check_header(sample: Sample, text: Column) -> None:
    """Raise ``DataError`` for a table that another program would read as another one."""
    name = text.name
    if len(name) > _PROSE and len(name.split()) > 5:
        raise DataError(
            f"{sample.name} begins with a text ({name[:40]!r} ...) where the names of its columns "
            "should be; put a line such as 'text,label' above it"
        )
    if len(sample.columns) == 1:
        for sign, called in _OTHER_SEPARATORS.items():
            if sign in name:
                raise DataError(
                    f"{sample.name} has one column, {name!r}: it seems to be separated by "
                    f"{called}, and commas are read; save it with commas"
                )


def _share(values: Sequence[str], holds: object) -> float:
    assert callable(holds)
    return sum(bool(holds(value)) for value in values) / max(1, len(values))


def _is_number_or_date(value: str) -> bool:
    return _is_number(value) or bool(_DATE.match(value))


def _is_number_or_flag(value: str) -> bool:
    return _is_number(value) or value.lower() in ("true", "false", "yes", "no")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _has_words(value: str) -> bool:
    """Whether it reads as more than a name: two words, or a script that has no spaces."""
    return len(value.split()) > 1 or (len(value) > 5 and not value.isascii())
