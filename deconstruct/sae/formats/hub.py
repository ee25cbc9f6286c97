"""Dictionaries of the Hugging Face hub: ``hub:owner/name/folder@revision``.

Only the files that a format takes are fetched, at one commit; without the hub, whatever its local
cache holds of the repository serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from deconstruct.common.errors import ConfigError, SourceUnreachable
from deconstruct.common.paths import absolute
from deconstruct.corpus.hub import PREFIX
from deconstruct.model.hub import reachable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Place(NamedTuple):
    """A repository, a revision of it (None: its main branch's newest) and a path in it, which may
    be ""."""

    repository: str
    path: str
    revision: str | None


def check_place(said: str) -> None:
    """Raise ``ConfigError`` if ``sae.pretrained`` is neither a folder or file that is there nor of
    the form of a place on the hub. Loads nothing."""
    if said.startswith(PREFIX):
        parse(said)
    elif not absolute(said).exists():
        raise ConfigError(
            f"sae.pretrained = {said!r}: there is no such folder or file; name one, or a place on "
            "the hub as hub:owner/name/folder@revision"
        )


def parse(said: str) -> Place:
    """``hub:owner/name[/path][@revision]``. Raises ``ConfigError`` if it is none, or its path leads
    anywhere else."""
    inner, at, revision = said.removeprefix(PREFIX).partition("@")
    parts = inner.rstrip("/").split("/")
    ok = len(parts) >= 2 and all(_NAME.fullmatch(part) for part in parts[:2])
    if not ok or (at and not revision):
        raise ConfigError(
            f"sae.pretrained = {said!r} is no place on the hub; write "
            "hub:owner/name/folder@revision"
        )
    return Place("/".join(parts[:2]), _inside(said, "/".join(parts[2:])), revision or None)


def parse_uri(said: str, uri: str) -> Place:
    """``hf://owner/name/file?revision=...``, as circuit-tracer's configurations have it."""
    found = urlsplit(uri)
    name, _, path = found.path.lstrip("/").partition("/")
    place = parse(f"{PREFIX}{found.netloc}/{name}/{path}")
    _inside(said, place.path)
    return place._replace(revision=parse_qs(found.query).get("revision", [None])[0])


def _inside(said: str, path: str) -> str:
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in path:
        raise ConfigError(
            f"sae.pretrained = {said!r}: the path {path!r} leads out of its repository; name a "
            "folder or file in it, without '..'"
        )
    return path


class Repository:
    """One revision of a repository, as far as it is needed."""

    def __init__(self, said: str, place: Place) -> None:
        """Raises ``SourceUnreachable`` if it is neither within reach nor in the local cache."""
        self.said, self.place = said, place
        self._online = reachable()
        self.commit, self.names = self._listed()

    def _listed(self) -> tuple[str, frozenset[str]]:
        """The commit, and the names of all files."""
        from httpx import TransportError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

        if not self._online:
            return self._cached()
        try:
            info = HfApi().model_info(self.place.repository, revision=self.place.revision)
        except GatedRepoError as error:
            raise self._gated() from error
        except TransportError as error:
            raise self._out_of_reach("does not hold it") from error
        except (HfHubHTTPError, ValueError) as error:
            raise self._refused(error) from error
        names = frozenset(one.rfilename for one in info.siblings or [])
        return str(info.sha), names

    def _cached(self) -> tuple[str, frozenset[str]]:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    self.place.repository, revision=self.place.revision, local_files_only=True
                )
            )
        except (LocalEntryNotFoundError, ValueError) as error:
            raise self._out_of_reach("does not hold it") from error
        names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        return folder.name, frozenset(names)

    def fetch(self, names: Iterable[str]) -> Path:
        """Fetch files that are in the repository; the folder of all of them.

        Raises ``SourceUnreachable`` if the hub does not serve one, ``ConfigError`` if one leads out
        of the cache.
        """
        from httpx import TransportError
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

        folder = None
        for name in names:
            try:
                path = Path(
                    hf_hub_download(
                        self.place.repository, _inside(self.said, name), revision=self.commit,
                        local_files_only=not self._online,
                    )
                )  # fmt: skip
            except (LocalEntryNotFoundError, TransportError) as error:
                raise self._out_of_reach(f"lacks {name}") from error
            except GatedRepoError as error:
                raise self._gated() from error
            except (HfHubHTTPError, ValueError) as error:
                raise self._refused(error) from error
            folder = path.parents[len(PurePosixPath(name).parts) - 1]
            # <cache>/models--owner--name/snapshots/<commit>; files there are links to its blobs
            if not path.resolve().is_relative_to(folder.parents[1].resolve()):
                raise ConfigError(
                    f"sae.pretrained = {self.said!r}: {name} is a link that leads out of the hub's "
                    "cache; clear the cache and fetch it again"
                )
        if folder is None:
            raise self._out_of_reach("lacks its files")
        return folder

    def _gated(self) -> SourceUnreachable:
        return SourceUnreachable(
            f"sae.pretrained = {self.said!r} is gated; accept its licence on the hub and run "
            "`hf auth login`"
        )

    def _refused(self, error: Exception) -> SourceUnreachable:
        return SourceUnreachable(
            f"sae.pretrained = {self.said!r}, revision {self.place.revision or 'main'!r}: the hub "
            f"does not serve it ({str(error).splitlines()[0]}); check the name, or name a local "
            "folder"
        )

    def _out_of_reach(self, what: str) -> SourceUnreachable:
        return SourceUnreachable(
            f"sae.pretrained = {self.said!r}: the Hugging Face hub is out of reach and its local "
            f"cache {what}; name a local folder"
        )
