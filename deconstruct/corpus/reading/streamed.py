"""The beginning of a hub data set: its files one after another, each fetched when it is reached.

They stay in the hub's local cache, so that a run which was killed, or another one, fetches none
twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from deconstruct.common.errors import DataError, SourceUnreachable
from deconstruct.config import CorpusConfig
from deconstruct.corpus import hub


class Shards(NamedTuple):
    """The files of the configured splits, by their paths in the data set, in order. schema: of its
    columns, with names of classes, where the data set's card has one."""

    paths: list[str]
    schema: pa.Schema | None


def shards(config: CorpusConfig, commit: str) -> Shards:
    """Which files the configured splits are in. Raises ``ConfigError`` for an unknown subset or
    split, ``DataError`` for a data set that is not made of files of its own."""
    from datasets import load_dataset_builder

    name = config.place.removeprefix(hub.PREFIX)
    with hub.quiet(), hub.as_sentences(name, config):
        builder = load_dataset_builder(name, config.subset, revision=commit)
    files = builder.config.data_files or {}
    for split in config.splits:
        if split not in files:
            raise hub.no_split(name, split, files)
    paths = []
    for url in (url for split in config.splits for url in files[split]):
        own, found, path = str(url).partition(f"@{commit}/")
        if not found or not own.startswith("hf://"):
            raise DataError(
                f"data set {name!r} is not made of files of its own ({str(url)[:100]}), so it "
                "can't be read from its beginning; leave out corpus.limit_from"
            )
        paths.append(path)
    features = builder.info.features
    return Shards(paths, None if features is None else features.arrow_schema)


def fetched(config: CorpusConfig, commit: str, paths: list[str]) -> Iterator[Path]:
    """Each file's place on this machine, fetched if it is not there yet. Raises ``ConfigError`` or
    ``SourceUnreachable`` for one that the hub does not hand out."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = config.place.removeprefix(hub.PREFIX)
    for path in paths:
        try:
            with hub.quiet():
                place = hf_hub_download(name, path, repo_type="dataset", revision=commit)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise SourceUnreachable(
                f"corpus.source {config.place!r}: the hub does not hand out {path!r} "
                f"({type(error).__name__}); run again: files that are here are not fetched anew"
            ) from error
        yield Path(place)
