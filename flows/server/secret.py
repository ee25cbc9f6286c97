"""The secret that our servers ask of whoever speaks with their API.

It is Prefect's own: a server has it as ``PREFECT_SERVER_API_AUTH_STRING``, clients send what
``PREFECT_API_AUTH_STRING`` says, the UI's pages ask for it once. The server of one command has a
new one. That of ``deconstruct serve`` is kept in a file for its user alone, so that a browser which
has it once gets in again. It is on no command line, and in no log.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from tempfile import NamedTemporaryFile

ASKED = "PREFECT_SERVER_API_AUTH_STRING"
"""The variable in which a server finds what it is to ask for."""

CARRIED = "PREFECT_API_AUTH_STRING"
"""The variable in which commands and workers find what they are to send."""

FILE = "secret"
SHORTEST = 16


def make() -> str:
    """A new one, in the form ``name:password`` that Prefect sends."""
    return f"deconstruct:{secrets.token_urlsafe(32)}"


def read(path: Path) -> str | None:
    """What a file of `keep` says; None if there is none that this user may read."""
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def keep(path: Path, wanted: str | None) -> str:
    """The secret of a file: ``wanted``, else the one that is there, else a new one.

    One that others may read, or that another user wrote, is made anew.
    """
    known = read(path)
    if known is not None and (len(known) < SHORTEST or not _own(path)):
        known = None
    secret = wanted or known or make()
    if secret != known:
        with NamedTemporaryFile("w", dir=path.parent, prefix=".secret-", delete=False) as draft:
            draft.write(secret + "\n")  # for this user alone: so temporary files are made
        os.replace(draft.name, path)
    return secret


def _own(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o077
