"""A run on the Hugging Face hub: taken out into a folder, which is uploaded as it is."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deconstruct.common.errors import ConfigError, SourceUnreachable, StorageError
from deconstruct.common.temporary import own_folder
from deconstruct.corpus.hub import PREFIX
from deconstruct.interop.export import Taken, export
from deconstruct.model.hub import reachable

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class Pushed:
    """What is on the hub now. url: of the repository. commit: the one that was made. private:
    whether others can't see it. files: paths and bytes of what was uploaded."""

    taken: Taken
    url: str
    commit: str
    private: bool
    files: dict[str, int]


def repository_of(place: str) -> str:
    """``owner/name`` of ``hub:owner/name``. Raises ``ConfigError`` for anything else."""
    repository = place.removeprefix(PREFIX)
    if repository == place or not _REPOSITORY.fullmatch(repository):
        raise ConfigError(
            f"{place!r} is no place on the hub; write 'hub:<owner>/<name>', for example "
            "'hub:me/my-sae'"
        )
    return repository


def push(
    home: Path | str | None,
    run: str,
    place: str,
    format_: str,
    *,
    private: bool = False,
    verify: bool | None = None,
) -> Pushed:
    """Take a run out (`export`) and upload the folder to ``place``, ``hub:owner/name``.

    The repository is made if it is not there; what it has beyond these files stays. private: nobody
    else is to see it; a repository that others can see already is refused then. The token is the
    user's own (``HF_TOKEN``, or ``hf auth login``); without one nothing is sent.

    Raises what `export` raises, ``ConfigError`` without a token, or with one that the hub does not
    take, and ``SourceUnreachable`` if the hub is out of reach: both before any other work.
    """
    from huggingface_hub import HfApi, get_token

    repository, token = repository_of(place), get_token()
    if not token:
        raise ConfigError(
            f"there is no token of yours for {place}; make one with the right to write on the hub, "
            "then run 'hf auth login' or set HF_TOKEN"
        )
    if not reachable():
        raise SourceUnreachable(
            f"{place}: the Hugging Face hub is out of reach, so nothing was uploaded; "
            "'deconstruct export' makes the same folder here"
        )
    api = HfApi(token=token)
    with _said(place):
        api.whoami()
    with tempfile.TemporaryDirectory(dir=own_folder()) as draft:
        target = Path(draft, "folder")
        taken = export(home, run, target, format_, repository=repository, verify=verify)
        files = {
            path.relative_to(target).as_posix(): path.stat().st_size
            for path in sorted(target.rglob("*"))
            if path.is_file()
        }
        with _said(place):
            api.create_repo(repository, private=private or None, exist_ok=True)
            hidden = bool(api.repo_info(repository).private)
            if private and not hidden:
                raise StorageError(
                    f"{place} is there already, and others can see it, so nothing was uploaded; "
                    "make it private on the hub, name another, or leave --private out"
                )
            done = api.upload_folder(
                repo_id=repository,
                folder_path=target,
                commit_message=f"Run {taken.run_id} of Deconstruct, in the layout of {format_}",
            )
    return Pushed(taken, f"{api.endpoint}/{repository}", str(done.oid), hidden, files)


@contextmanager
def _said(place: str) -> Iterator[None]:
    """What the hub refuses, as a sentence."""
    from httpx import TransportError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
        status = int(getattr(error.response, "status_code", 0))
        remedy = {
            401: "log in anew with 'hf auth login', or set another HF_TOKEN",
            403: "use a token with the right to write there, or name another owner",
        }.get(status, "try again later, or name another place")
        raise ConfigError(f"{place}: the hub refused ({why}); {remedy}") from error
    except TransportError as error:
        raise SourceUnreachable(
            f"{place}: the hub stopped answering ({error}); run it again: what arrived is not sent "
            "twice"
        ) from error
