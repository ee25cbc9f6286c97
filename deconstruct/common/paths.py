"""Paths that people give, as one form of each."""

from __future__ import annotations

from pathlib import Path

from deconstruct.common.errors import StorageError

REWRITTEN = {"?": "where DuckDB ends a file's name", "\\": "which DuckDB takes for a '/'"}


def absolute(path: Path | str) -> Path:
    """``path`` without ``~`` and ``..``, from the root of the file system.

    DuckDB takes ``..`` out of the names of files that it finds, and what is compared with them must
    have none either. Symbolic links stay, so that they may be pointed elsewhere, but where a
    ``..`` comes after one: it means the folder above the link's aim.
    """
    whole = Path(path).expanduser().absolute()
    whole = whole.resolve() if ".." in whole.parts else whole
    return Path("/", *whole.parts[1:])  # pathlib keeps the second of two leading slashes


def check_for_duckdb(path: Path, what: str) -> None:
    """Raise ``StorageError`` if DuckDB would look for another file than the one at ``path``, or
    could not be told of it.

    what: the path in words that tell a person which one it is.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{what} is not UTF-8; name another") from error
    for sign, why in REWRITTEN.items():
        if sign in str(path):
            raise StorageError(f"{what} has a {sign!r} in it, {why}; name another")
