"""Planted artifacts follow what the stages declare, also what is not declared yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.planted import artifact_of, filled

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.artifacts.table import Column, Table
from deconstruct.features.tables import FEATURES
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.store.schema import RELATIONS

DECLARED = [relation.table for relation in RELATIONS if relation.table is not None]
KINDS = ("BOOLEAN", "DOUBLE", "FLOAT", "UBIGINT", "UINTEGER", "VARCHAR", "UINTEGER[]", "VARCHAR[]")


@pytest.mark.parametrize("table", DECLARED, ids=lambda table: table.name)
def test_a_column_more_needs_no_edit(table: Table, tmp_path: Path) -> None:
    more = tuple(Column(f"new_{kind}", kind, "Declared tomorrow.") for kind in KINDS)
    tomorrow = replace(table, columns=(*table.columns, *more))
    rows = filled(tomorrow)
    made = artifact_of(DataRoot(tmp_path), Recipe("some", 1, {}, {}), {tomorrow: rows}, site="x")
    found = pq.read_table(made.file(table.file))
    assert found.equals(rows)
    assert (len(found), made.manifest.files[table.file].rows, made.facts) == (1, 1, {"site": "x"})
    if not table.wide:
        assert found.schema.equals(tomorrow.arrow)
        new = {column.name: found[column.name][0].as_py() for column in more}
        assert list(new.values()) == [False, 0.0, 0.0, 0, 0, "", [], []]


def test_what_is_given_stands_and_the_rest_is_plain() -> None:
    rows = filled(FEATURES, density=[0.5, 0.25], top_token="of").to_pylist()
    assert [row["latent"] for row in rows] == [0, 1]
    assert [row["density"] for row in rows] == [0.5, 0.25]
    assert {row["top_token"] for row in rows} == {"of"}
    assert {(row["n_fires"], row["dead"]) for row in rows} == {(0, False)}
    log = filled(TRAINING_LOG, step=[1, 2], fvu=[0.5, 0.3]).to_pylist()
    assert log == [{"step": 1, "fvu": 0.5}, {"step": 2, "fvu": 0.3}]
    with pytest.raises(ValueError, match="table features has no column densty"):
        filled(FEATURES, densty=0.5)
