"""The errors that Deconstruct raises on purpose: each message is a sentence for the person who
runs it, naming the field or file, the value found, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class DeconstructError(Exception):
    """Something the user can put right. The CLI prints the message alone, without a traceback."""


class ConfigError(DeconstructError):
    """A configuration that can't be run; the message names field, value and remedy."""


class DataError(DeconstructError):
    """Input text, labels or activations that a stage can't work with."""


class SourceUnreachable(DeconstructError):
    """A model or data set that is neither on this machine nor within reach."""


class StorageError(DeconstructError):
    """The data root can't be written, is full, or misses an artifact that a stage needs."""


_REMEDIES = {
    errno.EACCES: "give this user the right to, or name another place",
    errno.EPERM: "give this user the right to, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EISDIR: "a file belongs there: move the folder away",
    errno.ENOTDIR: "a folder belongs there: move the file away",
    errno.EEXIST: "something else belongs there: move it away",
    errno.ENOTEMPTY: "something else belongs there: move it away",
    errno.ELOOP: "no link is followed there: move it away",
    errno.ENXIO: "a file belongs there: move it away",
}
"""What a person does about a fault of the file system that no second try changes."""


def of_files(error: OSError) -> StorageError | None:
    """A fault of the file system that a person must mend, as a sentence; None: it is another."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    where = repr(str(error.filename)) if error.filename is not None else "a file"
    return StorageError(f"{where} can't be read or written ({error.strerror}); {remedy}")


@contextmanager
def files_said() -> Iterator[None]:
    """Raise ``StorageError`` in the place of an ``OSError`` that a person must mend."""
    try:
        yield
    except OSError as error:
        sentence = of_files(error)
        if sentence is None:
            raise
        raise sentence from error
