"""URLs as file systems: which there are, what of them may be said, and where no link is followed.

``s3``, ``gs``, ``abfs`` and ``hdfs`` go through `pyarrow`, which needs no further package (S3
servers other than Amazon's: ``s3://bucket/data?endpoint_override=localhost:9000&scheme=http``, or
the variable ``AWS_ENDPOINT_URL``; credentials as the AWS tools know them); all other schemes
through the package that `fsspec` names for them.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_plus

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

BY_ARROW = ("s3", "gs", "abfs", "abfss", "hdfs")
OPEN = ("endpoint_override", "scheme", "region", "anonymous", "allow_bucket_creation", "user")
"""What a URL's query may say aloud; whatever else is there may be a key or a signature."""
SHORTEST = 4
"""Characters of what is hidden: fewer are no secret, and occur in any sentence."""
_CREDENTIALS = re.compile(r"(?<=://)(?=[^/?#]*[:@]).*@", re.DOTALL)
"""Up to the last @: what people have not percent-encoded (``/``, ``@``, ``?``) is hidden too."""
_QUERY = re.compile(r"(?<=[?&])([^=&#]*)=([^&#]*)")
_LINK, _NO_FILE = "a link, which is not followed", "no file"


def shown(url: str) -> str:
    """The URL without the keys and signatures that may be in it, for messages."""
    named = _QUERY.sub(lambda m: m[0] if m[1] in OPEN else f"{m[1]}=***", url)
    return _CREDENTIALS.sub("***@", named)


def reason(url: str, error: BaseException) -> str:
    """The first line of what a backend says of a URL, less what `shown` hides."""
    return _without(url, (str(error) or type(error).__name__).splitlines()[0])


def cause(url: str, error: BaseException) -> BaseException | None:
    """The error, for a traceback; None if that would say what `shown` hides."""
    return error if _without(url, str(error)) == str(error) else None


def _without(url: str, text: str) -> str:
    said = text.replace(url, shown(url))
    for hidden in sorted(set(_hidden(url)), key=len, reverse=True):
        if len(hidden) >= SHORTEST:
            said = said.replace(hidden, "***")
    return said


def _hidden(url: str) -> Iterator[str]:
    found = [value for name, value in _QUERY.findall(url) if name not in OPEN]
    for credentials in _CREDENTIALS.findall(url):
        found += [credentials[:-1], *re.split("[:@]", credentials, maxsplit=1)[1:]]
    for text in found:
        yield from (text, text.rstrip("@"), unquote_plus(text).rstrip("@"))


def objects_at(url: str) -> tuple[Any, str]:
    """The `fsspec` file system of a URL, and the path in it. May raise what its backend raises."""
    scheme = url.split("://", maxsplit=1)[0]
    if scheme not in BY_ARROW:
        filesystem, path = url_to_fs(url)
        path = path.rstrip("/")
        return (Folder(path) if type(filesystem) is LocalFileSystem else filesystem), path
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    class Objects(ArrowFSWrapper):  # type: ignore[misc]
        protocol = scheme
        cachable = False  # two S3 servers are two file systems

    arrow, path = fs.FileSystem.from_uri(url)
    return Objects(arrow), path.rstrip("/")


class NoFile(OSError):
    """A link, a folder or a pipe where a file should be; the message goes on from "it is"."""


class Folder(LocalFileSystem):  # type: ignore[misc]
    """A folder of this machine that others write into as well, as into a team's share.

    What leads out of it is neither read, written nor removed: from an artifact's folder downwards
    no link is followed, and what is no regular file is not opened. A stage may be a link, as in a
    data root. (Who changes folders into links in the very moment of a look is not kept out.)
    """

    cachable = False

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = Path(root)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> IO[bytes]:
        place = self._inside(path)
        if mode == "wb":
            place.unlink(missing_ok=True)  # of a link, or a second name of a file, this one alone
            return open(place, "xb")
        nofollow = os.O_NOFOLLOW if self._deep(place) else 0
        try:
            handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | nofollow)
        except FileNotFoundError:
            raise
        except OSError as error:
            if place.is_symlink() or not place.is_file():
                raise NoFile(_LINK if place.is_symlink() else _NO_FILE) from error
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise NoFile(_NO_FILE)
        return open(handle, "rb")

    def put_file(self, here: str, there: str, *_: Any, **__: Any) -> None:
        """Copy a file to a place, whole or not at all; what has the place goes."""
        place = self._inside(there)
        draft = place.with_name(f".{secrets.token_hex(8)}.unfinished")
        try:
            shutil.copyfile(here, draft)
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            os.replace(draft, place)
        finally:
            draft.unlink(missing_ok=True)

    def makedirs(self, path: str, exist_ok: bool = True) -> None:
        """Make a folder; what stands in its way below a stage goes, of a link the link alone."""
        place = self._place(path)
        for folder in (*reversed(place.parents), place):
            blocked = folder.is_symlink() or (folder.exists() and not folder.is_dir())
            if self._deep(folder) and blocked:
                folder.unlink()
        place.mkdir(parents=True, exist_ok=exist_ok)

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        """Files below a folder; none below a link that is not followed."""
        place = self._place(path)
        if self._deep(place) and place.is_symlink():
            return {} if options.get("detail") else []
        return super().find(path, *arguments, **options)

    def exists(self, path: str, **_: Any) -> bool:
        return os.path.lexists(self._place(path))

    def rm_file(self, path: str) -> None:
        self._inside(path).unlink()

    def _place(self, path: str) -> Path:
        return Path(self._strip_protocol(path))

    def _inside(self, path: str) -> Path:
        """The place, if no link below a stage leads to it."""
        place = self._place(path)
        if any(self._deep(parent) and parent.is_symlink() for parent in place.parents):
            raise NoFile(_LINK)
        return place

    def _deep(self, place: Path) -> bool:
        """Whether it is an artifact's folder, or in one."""
        return place.is_relative_to(self._root) and len(place.relative_to(self._root).parts) > 1
