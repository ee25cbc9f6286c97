"""What a folder must hold to be a language model, and digests of what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from deconstruct.artifacts import sha256_of
from deconstruct.common.errors import ConfigError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)


def check_folder(folder: Path, name: str) -> None:
    """Raise ``ConfigError`` unless a folder holds all of a model; name: as the user wrote it."""
    absent = lacking(folder)
    if absent is None:
        return
    pickled = absent == "safetensors weights" and any(folder.glob("*.bin"))
    raise ConfigError(
        f"model.name = {name!r}: the folder holds no {absent}"
        + (", only pickled ones, which can run code when loaded" if pickled else "")
        + "; name a folder that save_pretrained of model and tokenizer wrote"
    )


def lacking(folder: Path) -> str | None:
    """What a folder lacks of a model, if anything."""
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    absent = sorted(shards - set(weights_of(folder)))
    if not (folder / "config.json").is_file():
        return "config.json"
    if not weights_of(folder):
        return "safetensors weights"
    if absent:
        return f"{absent[0]}, which {index.name} lists"
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return "tokenizer"
    return None


def weights_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def digest_of(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and contents of those of the files that are there."""
    listing = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
