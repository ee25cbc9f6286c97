"""What a format is given to write, and what it tells of what it wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from deconstruct.artifacts import DataRoot
from deconstruct.interop.subject import Subject

if TYPE_CHECKING:
    from deconstruct.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Made:
    """loading: Markdown, how the folder is read by whom it is for. contents: of it, a line each."""

    loading: str
    contents: Sequence[str]


@dataclass(frozen=True)
class Work:
    """A run to be taken out.

    store: a connection to its store, kept to that. repository: the hub's id of where the folder
    goes; None: it stays here. verify: as in `deconstruct.store.open_store`.
    """

    subject: Subject
    root: DataRoot
    store: duckdb.DuckDBPyConnection
    repository: str | None = None

    @cached_property
    def folder(self) -> Path:
        """Of the SAE's artifact, verified."""
        return self.subject.artifact(self.root, "sae").path

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The SAE itself."""
        from deconstruct.sae.files import load

        return load(self.folder)


def python(work: Work, importing: str, *lines: str) -> str:
    """Markdown: ``lines`` of Python, in which ``folder`` is what was written."""
    if work.repository is None:
        imports, folder = [importing], '"path/to/this/folder"'
    else:
        imports = ["from huggingface_hub import snapshot_download", importing]
        folder = f'snapshot_download("{work.repository}")'
    return "\n".join(["```python", *imports, "", f"folder = {folder}", *lines, "```"])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A small JSON file, of ASCII alone."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="ascii")
