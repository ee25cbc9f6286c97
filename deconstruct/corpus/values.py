"""What a source's cells say, as text: one function for labels of any type."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa


def label_name(value: Any, names: list[str] | None = None) -> str | None:
    """A label as text; None where there is none (null, NaN, an empty string, class -1).

    Whole floats lose their ``.0``, as integers with nulls among them come as floats from pandas;
    others are written as short as their own width allows. Bytes are read as UTF-8. What no UTF-8
    can hold, such as half a surrogate, is written out, so that different labels stay different.
    names: of an integer class column.
    """
    if value is None or (isinstance(value, float | np.floating | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, float | np.floating) and value.is_integer():
        value = int(value)
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8") or None


def labels_in(column: pa.Array, names: list[str] | None = None) -> list[str | None]:
    """The labels in an Arrow column of scalars."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values = column.to_pylist()
    if _is_short_float(column.type):  # Python's own floats would show what they can't hold
        values = list(column.to_numpy(zero_copy_only=False))
    return [label_name(value, names) for value in values]


def cells_in(column: pa.Array, names: list[str] | None = None) -> list[Any]:
    """The cells of an Arrow column of any type, as `textfiles.Row.more` has them.

    names: of an integer class column, or of a column with a list of such classes a row.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_short_float(column.type):
        found = column.to_numpy(zero_copy_only=False)
        gone = column.is_null().to_pylist()
        return [None if null else cell for cell, null in zip(found, gone, strict=True)]
    cells = column.to_pylist()
    return cells if names is None else [_named(cell, names) for cell in cells]


def _named(cell: Any, names: list[str]) -> Any:
    if isinstance(cell, list):
        return [_named(one, names) for one in cell]
    return label_name(cell, names)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, dictionary or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_chat(kind: pa.DataType) -> bool:
    """Whether a column of this type holds chats: lists of objects with a role and a content."""
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind)):
        return False
    one = kind.value_type
    return types.is_struct(one) and {"role", "content"} <= {field.name for field in one}


def class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names of an integer class column, or of one with a list of classes a row, where `datasets`
    left them in the file's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None or column is None:
        return None
    try:
        feature = json.loads(raw)["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names = feature["names"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def encodable(text: str) -> str:
    """JSON can hold lone surrogates, which no UTF-8 can; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_short_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float32(kind) or pa.types.is_float16(kind))
