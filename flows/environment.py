"""Prefect's settings for runs on this machine; to be applied before Prefect is imported.

Whatever the environment already says wins. Prefect's own state (its embedded database, the
results of tasks) lives under the data root unless ``PREFECT_HOME`` or ``PREFECT_API_URL`` name
another place, so that a data root is whole, and two of them are strangers.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib.util
import json
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.common.temporary import own_folder
from flows.server import database, secret
from flows.server.embedded import EmbeddedServer, healthy

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "deconstruct",
    "PREFECT_LOGGING_MARKUP": "false",  # what stages say has [...] in it, and is shown whole
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # what is said before a flow begins
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

LOCAL = ("127.0.0.1", "localhost")

CACHES = ".cache"

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # each event that a lost server missed
}
"""On a terminal the stages speak for themselves; Prefect's own lines still reach its server."""


READ_HERE = (".env", "prefect.toml", "pyproject.toml")
"""Files of the current folder in which Prefect looks for settings, which say what code it runs."""


def apply(home: Path, quiet: bool = False) -> None:
    """Set the environment of this process and of those it starts.

    Raises ``ConfigError`` if Prefect would read settings of the data root itself, or write where a
    link in it leads.
    """
    _no_settings_of(home)
    _no_links_in(prefect_home(home))
    for name, value in (DEFAULTS | (QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)
    _reach_this_machine()
    give_caches_a_place(home)
    os.environ["DECONSTRUCT_HOME"] = str(home)
    os.environ.setdefault("PREFECT_HOME", str(prefect_home(home)))
    if state() == prefect_home(home):
        _settings_of_prefect_itself()
    state().mkdir(parents=True, exist_ok=True)  # Prefect makes no parents
    prefect_home(home).mkdir(parents=True, exist_ok=True)
    asked, url = os.environ.get("PREFECT_API_URL"), served_url(home)
    if url is not None and asked in (None, url):
        speak_to(url, secret.read(secret_file(home)) or "")


def speak_to(url: str, auth: str) -> None:
    """Have Prefect's clients of this process, and of those it starts, use a server of ours."""
    os.environ["PREFECT_API_URL"] = url
    os.environ[secret.CARRIED] = auth


def _no_settings_of(home: Path) -> None:
    """A data root may be of somebody else, and is data: it has no say in what runs."""
    here = Path.cwd()
    if here == home or home in here.parents:
        found = next((name for name in READ_HERE if (here / name).exists()), None)
        if found is not None:
            raise ConfigError(
                f"{found!r} in the data root {str(home)!r} would be read as settings of Prefect; "
                "run this from another folder, or move the file away"
            )


def _no_links_in(state: Path) -> None:
    """What Prefect and we write into its folder stays in the data root."""
    inside = state.iterdir() if state.is_dir() and not state.is_symlink() else ()
    for path in (state, *inside):
        if path.is_symlink() or not (path.is_file() or path.is_dir() or not path.exists()):
            raise ConfigError(
                f"{str(path)!r} is a link or no file, and would be written to wherever it leads; "
                "move it away (PREFECT_HOME names another folder for Prefect's state)"
            )


def _settings_of_prefect_itself() -> None:
    """Have Prefect read no profiles and no logging settings, which name code, in a data root."""
    found = importlib.util.find_spec("prefect")
    if found is not None and found.submodule_search_locations:
        package = Path(found.submodule_search_locations[0])
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(package / "settings" / "profiles.toml"))
        if "PREFECT_LOGGING_SETTINGS_PATH" not in os.environ:
            logs = str(package / "logging" / "logging.yml")
            os.environ.setdefault("PREFECT_LOGGING_CONFIG_PATH", logs)


def start_server() -> EmbeddedServer | None:
    """Start a server for this command alone, unless the environment names one; after `apply`.

    It ends with the command, once Prefect has sent it the last events.
    """
    if "PREFECT_API_URL" in os.environ:
        return None
    server = EmbeddedServer.start(server_log(), os.environ)
    atexit.register(server.stop)  # before Prefect is imported, whose own come first then
    speak_to(server.url, server.auth)
    return server


def _reach_this_machine() -> None:
    """Have nobody send what is for this machine to a proxy; those that are named stay in use."""
    for name in ("no_proxy", "NO_PROXY"):
        known = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        missing = [host for host in LOCAL if host not in map(str.strip, known)]
        os.environ[name] = ",".join([*known, *missing])


def give_caches_a_place(home: Path) -> None:
    """Have libraries cache in a private temporary folder where this user has no home folder to
    write in, as in a container that is run with ``--user``: numba would end the run at its first
    kernel. Not in the data root, which may come from somebody else: caches hold code. Only what
    the hub gives, which is data, stays there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache")
    if not _can_be_made(caches):
        private = str(_private_caches())
        os.environ["XDG_CACHE_HOME"] = private
        for name in ("NUMBA_CACHE_DIR", "TRITON_HOME"):
            os.environ.setdefault(name, private)
        os.environ.setdefault("HF_HUB_CACHE", str(home / CACHES / "huggingface" / "hub"))
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # torch asks for the user's name
        os.environ.setdefault("USER", f"user-{os.getuid()}")


def _private_caches() -> Path:
    """A folder for all processes of this user that nobody else may write; if somebody else has
    taken its name, one of this process."""
    folder = Path(tempfile.gettempdir(), f".deconstruct-caches-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return own_folder()


def _can_be_made(folder: Path) -> bool:
    """Whether a folder can be written to, or be made first."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def prefect_home(home: Path) -> Path:
    """Where Prefect keeps its state for this data root."""
    return home / ".prefect"


def has_history() -> bool:
    """Whether this process' server may know of earlier runs; after `apply`."""
    elsewhere = ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
    return any(name in os.environ for name in elsewhere) or (state() / database.FILE).exists()


def state() -> Path:
    """Where Prefect keeps its state for this process; after `apply`."""
    return Path(os.environ["PREFECT_HOME"]).expanduser()


def server_log() -> Path:
    """What the servers of this process' ``PREFECT_HOME`` have to say; after `apply`."""
    return state() / "server.log"


def server_note(home: Path) -> Path:
    """The file in which ``deconstruct serve`` notes the address of its server."""
    return prefect_home(home) / "server.json"


def secret_file(home: Path) -> Path:
    """The file that keeps the secret of that server, see `flows.server.secret`."""
    return prefect_home(home) / secret.FILE


def note_server(home: Path, url: str) -> TextIO:
    """Note the address of the server; it is this data root's for as long as the file is open.

    Raises ``DeconstructError`` if another process has noted its own.
    """
    note = server_note(home).open("a+")
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        note.close()
        raise DeconstructError(f"{str(home)!r} is served already; end that one first") from error
    note.truncate(0)
    note.write(json.dumps({"api_url": url, "pid": os.getpid()}) + "\n")
    note.flush()
    return note


def served_url(home: Path) -> str | None:
    """API address of the server that ``deconstruct serve`` runs for this data root, if it lives.

    None where its note is of a process that has died: on its port may listen a stranger, whom
    nobody is to tell the secret. Nor is it for a user who may not read that.
    """
    try:
        with server_note(home).open() as note:
            if secret.read(secret_file(home)) is None or not _held(note):
                return None
            url = str(json.loads(note.read())["api_url"])
    except (OSError, ValueError, KeyError):
        return None
    here = urlsplit(url).hostname in LOCAL  # a data root may come from somebody else
    return url if here and healthy(url) else None


def _held(note: TextIO) -> bool:
    """Whether another process has it open, in `note_server`."""
    try:
        fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
