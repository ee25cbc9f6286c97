"""Tables: each is declared once, by the stage that writes it; its file and the store follow.

Types are in DuckDB's words, as a reader of the store meets them. A table lies in a Parquet file of
its stage's artifacts; the store copies it, or (``in_place``) looks into the files where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_ARROW = {
    "BOOLEAN": "bool_",
    "DOUBLE": "float64",
    "FLOAT": "float32",
    "UBIGINT": "uint64",
    "UINTEGER": "uint32",
    "UTINYINT": "uint8",
    "VARCHAR": "string",
}


@dataclass(frozen=True)
class Column:
    """A column: its name, DuckDB type and meaning. stored: its type in the file, if another.

    optional: whether files may be without it; `Table.arrow` leaves it out.
    """

    name: str
    type: str
    comment: str
    stored: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """Rows that a stage writes.

    key: columns that, with the run, are unique together; empty if one of them may be null. columns:
    of the file; the store's have ``run_id`` too. file: name of the Parquet file. in_place: the rows
    stay there, as there are as many as tokens. wide: the file has one column per metric, and the
    table one row per metric. optional: only some runs have the file. paired: rows are of two runs,
    and the store's have ``other_run`` too.
    """

    name: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    file: str
    in_place: bool = False
    wide: bool = False
    optional: bool = False
    paired: bool = False

    @cached_property
    def arrow(self) -> pa.Schema:
        """The schema that the stage writes by."""
        import pyarrow as pa

        always = (column for column in self.columns if not column.optional)
        return pa.schema([(c.name, _arrow(c.stored or c.type)) for c in always])

    def with_optional(self) -> Table:
        """The same table, whose file has all of its columns."""
        columns = tuple(replace(column, optional=False) for column in self.columns)
        return replace(self, columns=columns)

    def of(self, *columns: Any) -> pa.Table:
        """Rows from arrays or lists, one per column, in the order of the columns."""
        import pyarrow as pa

        both = zip(columns, self.arrow, strict=True)
        arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in both]
        return pa.Table.from_arrays(arrays, schema=self.arrow)

    def of_rows(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Rows from dicts; what one leaves out is null."""
        import pyarrow as pa

        return pa.Table.from_pylist(rows, self.arrow)

    def empty(self) -> pa.Table:
        """No rows."""
        return self.arrow.empty_table()


DOC_ID = Column("doc_id", "UINTEGER", "Document, numbered within the run's corpus.")
TOKEN_INDEX = Column(
    "token_index",
    "UBIGINT",
    "Token, numbered over the run's whole corpus: a document's tokens are consecutive.",
)
LATENT = Column("latent", "UINTEGER", "Number of the latent in its SAE: 0 to d_sae - 1.")


def _arrow(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind.endswith("[]"):
        return pa.list_(_arrow(kind.removesuffix("[]")))
    return getattr(pa, _ARROW[kind])()
