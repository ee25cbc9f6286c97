"""A store under a URL such as ``s3://bucket/data``, read through the same views.

The small catalogue file is copied here; tokens, firings and all else that grows stay where they
are, and queries fetch the ranges of Parquet files that they need. `pyarrow` reads the object store
(credentials as the AWS tools know them), so no extension of DuckDB is needed. Other S3 servers
than Amazon's: ``s3://bucket/data?endpoint_override=localhost:9000&scheme=http``, or the variable
``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from deconstruct.errors import StorageError
from deconstruct.store.rewrite import FILE


def is_remote(home: Path | str) -> bool:
    """Whether ``home`` is a URL."""
    return isinstance(home, str) and "://" in home


def shown(url: str) -> str:
    """The URL without the keys that may be in it, for messages."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def connect_remote(url: str) -> tuple[duckdb.DuckDBPyConnection, str]:
    """A read-only connection to a copy of the catalogue, and the root its views shall read.

    Raises ``StorageError`` if the URL can't be read, or holds no store.
    """
    import pyarrow as pa
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    class Objects(ArrowFSWrapper):  # type: ignore[misc]
        protocol = url.split("://", maxsplit=1)[0]

    try:
        filesystem, path = fs.FileSystem.from_uri(url)
        path = path.rstrip("/")
        with tempfile.TemporaryDirectory(prefix="deconstruct-") as folder:
            copy = Path(folder) / FILE
            fs.copy_files(
                f"{path}/{FILE}", str(copy), filesystem, fs.LocalFileSystem(), chunk_size=1 << 22
            )
            connection = duckdb.connect(copy, read_only=True)  # outlives its name
    except FileNotFoundError as error:
        raise StorageError(
            f"home {shown(url)!r} has no {FILE}; copy a data root there, artifacts first"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"home {shown(url)!r} can't be read: {str(error).splitlines()[0]}; check the URL, its "
            "endpoint and the credentials"
        ) from error
    objects: Any = Objects(filesystem)
    connection.register_filesystem(objects)
    return connection, f"{Objects.protocol}://{path}"
