"""Corpora of sources with further columns, in every form that a source may have."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel

Columns = Mapping[str, Sequence[Any]]


def texts(count: int, start: int = 0) -> list[str]:
    """Texts that differ in their first tokens."""
    return [f"{start + i} is what the market rose by" for i in range(count)]


def write(path: Path, columns: Columns) -> Path:
    """A source of the form that the name says; in a CSV file None is an empty field."""
    names, rows = list(columns), list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(columns)), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([names, *rows])
    else:
        lines = (json.dumps(dict(zip(names, row, strict=True))) for row in rows)
        path.write_text("\n".join(lines))
    return path


def tokenised(
    path: Path, model: ResolvedModel, base: Artifact | None = None, **fields: Any
) -> Artifact:
    """The corpus of a source, in a data root beside it."""
    config = CorpusConfig.model_validate({"source": str(path), **fields})
    return corpus.tokenise(
        DataRoot(path.parent / "data"),
        config,
        source=sources.resolve(config),
        model=model,
        base=base,
    )


def rows(artifact: Artifact, file: str) -> list[dict[str, Any]]:
    """The rows of one of its tables."""
    found: list[dict[str, Any]] = artifact.table(file).to_pylist()
    return found


def labels(artifact: Artifact, task: str) -> tuple[str, dict[int, list[str | None]]]:
    """The kind of a task, and the labels of each document that has any."""
    found: dict[int, list[str | None]] = {}
    for row in rows(artifact, "document_labels.parquet"):
        if row["task"] == task:
            found.setdefault(row["doc_id"], []).append(row["value"])
    (kind,) = (one["kind"] for one in artifact.facts["tasks"] if one["task"] == task)
    return kind, found
