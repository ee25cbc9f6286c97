"""label_latents is what the macro latents_for_label answers, for every label of every column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.planted import remade
from support.store_artifacts import plant
from support.store_tasks import plant_tasks

from deconstruct.artifacts import Artifact
from deconstruct.map import labels
from deconstruct.map.labels import label_latents
from deconstruct.map.tables import LABEL_LATENTS
from deconstruct.store import open_store, publish

SAME = [
    column.name
    for column in LABEL_LATENTS.columns
    if column.name not in ("task", "label", "rank", "latent")
]


def grouped(corpus: Artifact) -> Artifact:
    """Every document hangs together with the one before it, or with none."""
    documents = corpus.table("documents.parquet")
    numbers = np.arange(len(documents))
    at = documents.schema.names.index("group_id") if "group_id" in documents.schema.names else None
    column = pa.array((numbers - numbers % 10 // 7).astype(np.uint32))
    documents = (
        documents.append_column("group_id", column) if at is None
        else documents.set_column(at, "group_id", column)
    )  # fmt: skip
    return remade(corpus, "documents.parquet", documents)


@pytest.mark.parametrize("cells", [1, 1 << 21])
@pytest.mark.parametrize("maker", [plant, plant_tasks])
def test_it_equals_the_macro(
    tmp_path: Path, maker: object, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "CELLS", cells)  # labels are summed one by one, or all at once
    planted = maker(tmp_path)  # type: ignore[operator]
    corpus = grouped(planted.artifacts["corpus"])
    publish(tmp_path, planted.record, planted.artifacts | {"corpus": corpus})
    found = label_latents(corpus, planted.artifacts["latents"]).to_pylist()
    first = "label" if maker is plant else None
    with open_store(tmp_path) as store:
        every = store.execute(
            "SELECT DISTINCT task, value FROM document_labels WHERE kind <> 'number' "
            "AND value IS NOT NULL"
        ).fetchall()
        assert {(row.get("task", first), row["label"]) for row in found} == set(every)
        for task, label in every:
            expected = store.execute(
                f"SELECT latent, {', '.join(SAME)} FROM latents_for_label('latest', ?, task := ?) "
                f"LIMIT {labels.TOP}",
                [label, task],
            ).fetchall()
            mine = [r for r in found if (r.get("task", first), r["label"]) == (task, label)]
            assert [row["rank"] for row in mine] == list(range(1, len(expected) + 1))
            assert [row["latent"] for row in mine] == [latent for latent, *_ in expected]
            for row, (_, *values) in zip(mine, expected, strict=True):
                assert [row[name] for name in SAME] == pytest.approx(values, abs=1e-9)


def test_of_many_labels_the_most_frequent_have_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "MOST_LABELS", 2)
    planted = plant(tmp_path, documents=31)
    found = label_latents(planted.artifacts["corpus"], planted.artifacts["latents"])
    assert set(found["label"].to_pylist()) == {*sorted(set(planted.labels))[:2]}


def test_without_labels_there_are_no_rows(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    documents = planted.artifacts["corpus"].table("documents.parquet")
    at = documents.schema.names.index("label")
    documents = documents.set_column(at, "label", pa.nulls(len(documents), pa.string()))
    corpus = remade(planted.artifacts["corpus"], "documents.parquet", documents)
    assert len(label_latents(corpus, planted.artifacts["latents"])) == 0
