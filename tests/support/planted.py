"""The maker of planted artifacts: what a stage would leave, with contents that are known.

Tables are filled by the stages' own declarations: a maker names the columns that matter to it, and
every other one gets a plain value of its type. A column more in a stage's ``tables.py`` needs no
change here. Benchmarks import this file too, so it imports nothing but the library.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.artifacts.table import Table

Contents = Mapping[Table, pa.Table]


def filled(table: Table, **columns: Any) -> pa.Table:
    """Rows of ``table``: arrays or lists, one per column; another value stands for all the rows.

    Columns that are left out are false, 0, an empty string or an empty list; one that alone is the
    table's key numbers the rows. A wide table takes metrics as columns. Raises ``ValueError`` for a
    column that the table has not.
    """
    schema = _schema(table, columns)
    if unknown := columns.keys() - set(schema.names):
        raise ValueError(f"table {table.name} has no column {', '.join(sorted(unknown))}")
    rows = next((len(own) for own in columns.values() if _one_a_row(own)), 1)
    return pa.table([_column(table, field, columns, rows) for field in schema], schema=schema)


def fill(draft: Draft, contents: Contents, **facts: Any) -> None:
    """Write the tables as their stage does, each to its file."""
    for table, rows in contents.items():
        draft.write_table(table.file, rows)
    if not contents:  # an artifact has one file at least
        draft.write_json("facts.json", facts)
    draft.facts |= facts


def artifact_of(root: DataRoot, recipe: Recipe, contents: Contents, **facts: Any) -> Artifact:
    """The artifact of ``recipe`` with these tables and facts, unless it is there already."""
    return root.make(recipe, lambda draft: fill(draft, contents, **facts))


def remade(artifact: Artifact, name: str, rows: pa.Table) -> Artifact:
    """The artifact as a stage would have made it that wrote other rows into one of its files."""
    tables = {one: artifact.table(one) for one in artifact.manifest.files} | {name: rows}
    shutil.rmtree(artifact.path)

    def write(draft: Draft) -> None:
        for one, table in tables.items():
            draft.write_table(one, table)
        draft.facts |= artifact.facts

    return DataRoot(artifact.path.parent.parent).make(artifact.manifest.recipe, write)


def _schema(table: Table, names: Mapping[str, Any]) -> pa.Schema:
    if not table.wide:
        return table.arrow
    first = table.arrow.field(0)
    return pa.schema([first, *(pa.field(n, pa.float64()) for n in names if n != first.name)])


def _column(table: Table, field: pa.Field, columns: Mapping[str, Any], rows: int) -> pa.Array:
    if field.name not in columns:
        if table.key == (field.name,) and pa.types.is_integer(field.type):
            return pa.array(np.arange(rows), field.type)
        return pa.repeat(_plain(field.type), rows)
    own = columns[field.name]
    if not _one_a_row(own):
        return pa.repeat(pa.scalar(own, field.type), rows)
    return own if isinstance(own, pa.Array) else pa.array(own, field.type)


def _one_a_row(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _plain(kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_list(kind):
        return pa.scalar([], kind)
    if pa.types.is_string(kind):
        return pa.scalar("", kind)
    return pa.scalar(False if pa.types.is_boolean(kind) else 0, kind)
