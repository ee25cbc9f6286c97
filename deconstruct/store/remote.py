"""A store under a URL such as ``s3://bucket/data``, read through the same views.

The small catalogue file is copied here; tokens, firings and all else that grows stay where they
are, and queries fetch the ranges of Parquet files that they need, without any extension of DuckDB.
`deconstruct.artifacts.objects` says which URLs there are.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from deconstruct.artifacts.objects import cause, objects_at, reason, shown
from deconstruct.common.errors import StorageError
from deconstruct.common.temporary import own_folder
from deconstruct.store.ddl import literal
from deconstruct.store.rewrite import FILE

CHUNK = 1 << 22
SPARE = 1 << 24
"""Bytes of the disk that a copy leaves to others."""


def is_remote(home: Path | str) -> bool:
    """Whether ``home`` is a URL."""
    return isinstance(home, str) and "://" in home


def connect_remote(url: str, files: bool) -> tuple[duckdb.DuckDBPyConnection, str]:
    """A read-only connection to a copy of the catalogue, and the root its views shall read.

    files: as in `open_store`, which does the rest. Raises ``StorageError`` if the URL can't
    be read, or holds no store.
    """
    from deconstruct.store.reading.files import (
        LOCAL_ROOT,
        RemoteArtifacts,
        RemoteTables,
        confine,
        tune,
    )

    try:
        objects, path = objects_at(url)
        with tempfile.TemporaryDirectory(dir=own_folder()) as folder:
            copy = Path(folder) / FILE
            _copy(objects, f"{path}/{FILE}", copy)
            if files:
                connection = duckdb.connect(copy, read_only=True)  # outlives its name
            else:
                connection = duckdb.connect()
                connection.execute(f"ATTACH {literal(str(copy))} AS deconstruct (READ_ONLY)")
                connection.execute("USE deconstruct")
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(
            f"home {shown(url)!r} has no {FILE}; copy a data root there, artifacts first"
        ) from cause(url, error)
    except duckdb.Error as error:
        raise StorageError(
            f"home {shown(url)!r} has a {FILE} that can't be read: {str(error).splitlines()[0]}; "
            "copy it there again"
        ) from error
    except Exception as error:  # every backend of fsspec raises errors of its own
        raise StorageError(
            f"home {shown(url)!r} can't be read: {reason(url, error)}; check the URL, its "
            "endpoint and the credentials"
        ) from cause(url, error)
    scheme = url.split("://", maxsplit=1)[0]
    if files:
        connection.register_filesystem(RemoteArtifacts(objects, scheme, url))
        tune(connection)
        return connection, f"{scheme}://{path}"
    connection.register_filesystem(RemoteTables(objects, path, url))
    tune(connection)
    confine(connection, LOCAL_ROOT)
    return connection, LOCAL_ROOT


def _copy(objects: Any, source: str, target: Path) -> None:
    """Copy a file to this machine, but no more than its disk has room for: it is not known how
    much there is to come."""
    room = shutil.disk_usage(target.parent).free - SPARE
    with objects.open(source, "rb") as there, target.open("wb") as here:
        while chunk := there.read(CHUNK):
            room -= len(chunk)
            if room < 0:
                raise StorageError(
                    f"{FILE} is larger than what is free on the disk of {str(target.parent)!r}; "
                    "free some space, or name another disk's folder in TMPDIR"
                )
            here.write(chunk)
