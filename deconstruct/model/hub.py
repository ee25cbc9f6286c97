"""Models of the Hugging Face hub, and whether the hub is within reach."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path

from deconstruct.common.errors import SourceUnreachable
from deconstruct.model.folder import lacking

TIMEOUT_SECONDS = 3.0


def reachable(timeout: float = TIMEOUT_SECONDS) -> bool:
    """Whether the hub answers within ``timeout`` seconds; False at once if set offline.

    Asked before `datasets` is, which retries for 20 seconds and more before it gives up.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=timeout).close()
        except urllib.error.HTTPError:
            pass  # an answer, if an unfriendly one
        except (OSError, ValueError):
            return
        answered.append(True)

    # In a thread, as looking a host's name up heeds no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout + 0.5)
    return bool(answered)


WEIGHTS = "*.safetensors"
HUB_FILES = ["*.json", WEIGHTS, "*.txt", "*.model", "*.jinja"]
"""What is fetched of a hub model: weights as safetensors alone, never pickled ones."""


def snapshot(name: str, revision: str | None, *, weights: bool = True) -> tuple[Path, str]:
    """Local folder and commit hash of a hub model, fetched if need be; its weights if asked for.

    Offline, whatever the hub's local cache holds of it serves. Raises ``SourceUnreachable`` with
    the remedy if it is not there, does not exist, or asks for a licence to be accepted.
    """
    from httpx import TransportError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    online = reachable()
    wanted = [pattern for pattern in HUB_FILES if weights or pattern != WEIGHTS]
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=wanted, local_files_only=not online
            )
        )
    except (LocalEntryNotFoundError, TransportError) as error:
        raise SourceUnreachable(_out_of_reach(name, "does not hold this model")) from error
    except GatedRepoError as error:
        raise SourceUnreachable(
            f"model.name = {name!r} is gated; accept its licence on the hub and run `hf auth login`"
        ) from error
    except (HfHubHTTPError, ValueError) as error:
        raise SourceUnreachable(
            f"model.name = {name!r}, revision {revision or 'main'!r}: the hub does not serve it "
            f"({str(error).splitlines()[0]}); check the id, or name a local folder"
        ) from error
    if not online and lacking(folder):
        raise SourceUnreachable(_out_of_reach(name, f"lacks the {lacking(folder)} of this model"))
    return folder, folder.name


def _out_of_reach(name: str, what: str) -> str:
    return (
        f"model.name = {name!r}: the Hugging Face hub is out of reach and its local cache {what}; "
        "name a local folder, or run configs/embedded.toml, which needs no hub"
    )
