"""A run of a corpus with several columns of labels and with columns that are kept."""

from __future__ import annotations

import json
from pathlib import Path

from support.planted import artifact_of, filled
from support.store_artifacts import Planted, plant

from deconstruct.artifacts import Artifact, DataRoot, Recipe
from deconstruct.corpus.tables import DOCUMENT_LABELS, DOCUMENT_METADATA, DOCUMENTS, TOKENS
from deconstruct.probe.tables import PROBES, TABLES

TASKS = (("stars", "number"), ("topic", "class"), ("tags", "multilabel"), ("tone", "class"))
TONES = ("dry", "warm")


def tones(documents: int) -> list[str]:
    """The class of each document in the second column of classes."""
    return [TONES[doc // 2 % 2] for doc in range(documents)]


def label_rows(labels: list[str]) -> list[tuple[int, str, str, str | None]]:
    """doc_id, task, kind and value: the labels as topics, and what is drawn up for the rest."""
    rows: list[tuple[int, str, str, str | None]] = []
    for doc, label in enumerate(labels):
        tags = [name for name, every in (("x", 2), ("y", 3)) if doc % every == 0] or [None]
        rows += [(doc, "stars", "number", f"{doc / 2:g}"), (doc, "topic", "class", label)]
        rows += [(doc, "tags", "multilabel", tag) for tag in tags]
        rows.append((doc, "tone", "class", tones(len(labels))[doc]))
    return rows


def plant_tasks(home: Path, name: str = "tasks", seed: int = 2) -> Planted:
    """A planted run whose corpus has `TASKS` and keeps the columns author and year; its probes are
    those that it would have, and others for the second column of classes."""
    planted = plant(home, name, seed)
    root, corpus, probe = DataRoot(home), planted.artifacts["corpus"], planted.artifacts["probe"]
    doc, task, kind, value = zip(*label_rows(planted.labels), strict=True)
    kept = [
        json.dumps({"author": f"author {i % 3}", "year": 2000 + i})
        for i in range(len(planted.labels))
    ]
    contents = {
        **{table: corpus.table(table.file) for table in (DOCUMENTS, TOKENS)},
        DOCUMENT_LABELS: filled(DOCUMENT_LABELS, doc_id=doc, task=task, kind=kind, value=value),
        DOCUMENT_METADATA: filled(DOCUMENT_METADATA, metadata=kept),
    }
    facts = {
        **corpus.facts,
        "tasks": [{"task": one, "kind": what} for one, what in TASKS],
        "metadata": ["author", "year"],
    }
    config = {"label_columns": [one for one, _ in TASKS], "label_column": "stars"}
    recipe = Recipe("corpus", 1, config, corpus.manifest.inputs)
    planted.artifacts["corpus"] = artifact_of(root, recipe, contents, **facts)
    planted.artifacts["probe"] = _probes(root, probe)
    return planted


def _probes(root: DataRoot, probe: Artifact) -> Artifact:
    tables = {}
    for table in TABLES:
        rows = probe.table(table.file)
        columns = {name: rows[name].to_pylist() * 2 for name in rows.column_names}
        columns["task"] = ["topic"] * len(rows) + ["tone"] * len(rows)
        if table is PROBES:
            columns["value"] = [
                value / 2 if task == "tone" else value
                for value, task in zip(columns["value"], columns["task"], strict=True)
            ]
        whole = table.with_optional()
        tables[whole] = filled(whole, **columns)
    return artifact_of(root, Recipe("probe", 1, {"tasks": True}, {}), tables, **probe.facts)
