"""A store under a URL such as ``s3://bucket/data``, read through the same views.

The small catalogue file is copied here; tokens, firings and all else that grows stay where they
are, and queries fetch the ranges of Parquet files that they need, without any extension of DuckDB.
`deconstruct.artifacts.remote` says which URLs there are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from deconstruct.artifacts.remote import objects_at, shown
from deconstruct.common.errors import StorageError
from deconstruct.common.temporary import own_folder
from deconstruct.store.ddl import literal
from deconstruct.store.rewrite import FILE


def is_remote(home: Path | str) -> bool:
    """Whether ``home`` is a URL."""
    return isinstance(home, str) and "://" in home


def connect_remote(url: str, files: bool) -> tuple[duckdb.DuckDBPyConnection, str]:
    """A read-only connection to a copy of the catalogue, and the root its views shall read.

    files: as in `open_store`, which does the rest. Raises ``StorageError`` if the URL can't
    be read, or holds no store.
    """
    from deconstruct.store.reading.files import RemoteArtifacts, confine, tune

    try:
        objects, path = objects_at(url)
        with tempfile.TemporaryDirectory(dir=own_folder()) as folder:
            copy = Path(folder) / FILE
            objects.get_file(f"{path}/{FILE}", str(copy))
            if files:
                connection = duckdb.connect(copy, read_only=True)  # outlives its name
            else:
                connection = duckdb.connect()
                connection.execute(f"ATTACH {literal(str(copy))} AS deconstruct (READ_ONLY)")
                connection.execute("USE deconstruct")
    except FileNotFoundError as error:
        raise StorageError(
            f"home {shown(url)!r} has no {FILE}; copy a data root there, artifacts first"
        ) from error
    except (OSError, ValueError, ImportError) as error:  # Arrow's errors are among them
        raise StorageError(
            f"home {shown(url)!r} can't be read: {str(error).splitlines()[0]}; check the URL, its "
            "endpoint and the credentials"
        ) from error
    scheme = url.split("://", maxsplit=1)[0]
    root = f"{scheme}://{path}"
    connection.register_filesystem(RemoteArtifacts(objects, scheme))
    tune(connection)
    if not files:
        confine(connection, root)
    return connection, root
