"""Keys move where results do, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel


def test_labels_that_are_named_otherwise(tmp_path: Path) -> None:
    def version(labels: Any, **fields: Any) -> int:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), path)
        config = CorpusConfig(source=str(path), **fields)
        model = ResolvedModel("none", tmp_path, "0" * 64, "none")
        return corpus.recipe(config, source=sources.resolve(config), model=model).version

    assert version(pa.array([b"a"])) == version(pa.array([1.5], pa.float32())) == 3
    assert version(pa.array(["a"])) == version(pa.array([1.5])) == version(pa.array([1])) == 2
    assert version(pa.array([b"a"]), label_column=None) == 2
