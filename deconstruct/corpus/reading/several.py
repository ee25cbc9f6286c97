"""A source of several files: a list, patterns, a folder of shards; in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.paths import absolute
from deconstruct.corpus.folders import Listing, listing, refuse
from deconstruct.corpus.reading.forms import SUFFIXES
from deconstruct.corpus.reading.packed import form_of

log = logging.getLogger(__name__)

_DESCRIBES = ".json"
"""What lies beside shards of another form is about them, such as ``dataset_info.json``."""


def is_pattern(source: str) -> bool:
    """Whether a source is to be matched, as ``data/*.parquet``, and is no file of that name."""
    return glob.has_magic(source) and not absolute(source).exists()


def named_by(sources: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, in their order; those of one pattern, and of one
    folder, by their names. One that is named twice is there once.

    Raises ``ConfigError`` for a path or pattern that names none, ``DataError`` for a folder as
    `of_folder` does.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = absolute(source)
        if path.is_dir():
            files = of_folder(path, source, listing(path))
        elif path.is_file():
            files = [path]
        elif glob.has_magic(source):
            matched = (Path(one) for one in glob.glob(str(path), recursive=True))
            files = sorted(one for one in matched if one.is_file())
            if not files:
                raise ConfigError(f"corpus.source {source!r}: no file is called so")
        else:
            raise ConfigError(f"corpus.source {source!r}: there is no {str(path)!r}")
        found |= dict.fromkeys(files)
    return list(found)


def of_folder(folder: Path, source: str, found: Listing) -> list[Path]:
    """Those of a folder's files that are shards, all of one form, by their names.

    Raises ``DataError`` if there is none, and for shards of several forms.
    """
    files = [*found.files, *(path for path in found.left_out if path.is_file())]
    shards = sorted(f for f in files if form_of(f) in SUFFIXES and not f.name.startswith("."))
    if not shards:
        raise refuse(folder, source, found)
    forms = Counter(form_of(file) for file in shards)
    if len(forms) > 1:
        forms.pop(_DESCRIBES, None)
    if len(forms) > 1:
        held = ", ".join(f"{count} {form}" for form, count in sorted(forms.items()))
        raise DataError(
            f"corpus.source {source!r} holds files of several forms ({held}); name those of one by "
            f"a pattern, such as {str(Path(source) / '**' / ('*' + min(forms)))!r}"
        )
    chosen = [file for file in shards if form_of(file) in forms]
    if len(chosen) < len(shards):
        log.warning(
            "%s: left out beside %d %s files: %d .json files",
            folder.name, len(chosen), min(forms), len(shards) - len(chosen),
        )  # fmt: skip
    return chosen


def digest(files: Sequence[Path], *, again: bool = False) -> str:
    """SHA-256 of what some files hold, in their order, and of the forms that they are read as."""
    whole = hashlib.sha256()
    for file in files:
        packed, form = file.suffix.lower(), form_of(file)
        form += packed if packed != form else ""
        whole.update(f"{form}\0{sha256_of(file, again=again)}\n".encode())
    return whole.hexdigest()
