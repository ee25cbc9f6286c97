"""A run as a folder that another program reads, with its model card: whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.interop.subject import Subject, slug, subject_of
from deconstruct.store.export import free
from deconstruct.store.query import check_query, data_root, open_store

Folder = Literal[
    "saelens", "sparsify", "dictionary-learning", "neuronpedia", "circuit-tracer", "saebench"
]
FOLDERS: tuple[str, ...] = get_args(Folder)
CARD = "README.md"


@dataclass(frozen=True)
class Format:
    """A layout. module: of this package, with ``check(subject)``, which raises `ConfigError` for
    what the layout can't hold, and ``write(work, folder)``. texts: whether excerpts of the texts
    are part of it."""

    name: str
    module: str
    texts: bool

    def part(self, name: str) -> Callable[..., Any]:
        """A function of the module, imported now: some need torch."""
        found: Callable[..., Any] = getattr(
            import_module(f"deconstruct.interop.formats.{self.module}"), name
        )
        return found


FORMATS: Mapping[str, Format] = {
    name: Format(name, name.replace("-", "_"), name in ("neuronpedia", "circuit-tracer"))
    for name in FOLDERS
}


@dataclass(frozen=True)
class Taken:
    """A folder that was made. texts: whether it has excerpts of the texts."""

    run_id: str
    folder: Path
    texts: bool


def export(
    home: Path | str | None,
    run: str,
    target: Path | None,
    format_: str,
    *,
    repository: str | None = None,
    verify: bool | None = None,
) -> Taken:
    """Write a run into the folder ``target``, in the layout of ``format_`` (`FOLDERS`).

    target: not there yet, or an empty folder; None: in this folder, named after the run.
    repository: the hub's id of where it goes next, for the card. verify: as in `open_store`.

    Raises ``ConfigError`` for an unknown format, and for what the format can't hold,
    ``StorageError`` if the target is taken, or the run has no SAE, or a damaged one, ``QueryError``
    for an unknown run.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"format {format_!r} is unknown; name one of {', '.join(FORMATS)}")
    wanted, place = FORMATS[format_], data_root(home)
    with open_store(home, files=False, verify=False) as store:
        root = DataRoot(place)
        subject = subject_of(store, root, run)
        wanted.part("check")(subject)
        target = free(target or Path(default_name(subject, format_)), "folder")
        if wanted.texts:
            from deconstruct.interop.formats.contexts import READ

            check_query(store, home, READ, run_id=subject.run_id, verify=verify)
        from deconstruct.interop.card import card
        from deconstruct.interop.work import Work

        work = Work(subject, root, store, repository)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as draft:
            whole = Path(draft, "whole")
            whole.mkdir()
            made = wanted.part("write")(work, whole)
            page = card(subject, format_, made.loading, made.contents)
            (whole / CARD).write_text(page, encoding="utf-8")
            whole.replace(target)
    return Taken(subject.run_id, target, wanted.texts)


def subject_in(home: Path | str | None, run: str) -> Subject:
    """The run that ``run`` means; raises as `subject_of` does."""
    with open_store(home, files=False, verify=False) as store:
        return subject_of(store, DataRoot(data_root(home)), run)


def default_name(subject: Subject, format_: str) -> str:
    """What a folder or file is called where nobody says so."""
    name = f"{slug(subject.name)}-{subject.site}"
    return f"{name}.duckdb" if format_ == "duckdb" else f"{name}-{format_}"
