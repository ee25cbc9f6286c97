"""Data sets of the hub: subsets in the cache, what `datasets` raises, files that change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import exceptions
from support.hub_cache import COMMIT, cache_subset

from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import hub, sources
from deconstruct.corpus.textfiles import Row

Make = Callable[..., Path]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Puts a subset of the data set someone/news into the cache as `datasets` leaves it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(subset: str, word: str, rows: int = 2) -> Path:
        columns = {"text": [f"{word} {i}" for i in range(rows)], "label": ["x"] * rows}
        return cache_subset(tmp_path, subset, {"train": datasets.Dataset.from_dict(columns)})

    return make


def read(**fields: Any) -> list[Row]:
    config = CorpusConfig.model_validate({"source": "hub:someone/news", **fields})
    return list(sources.read(sources.resolve(config), config)[1])


def test_one_of_several_subsets_must_be_named(cached: Make) -> None:
    cached("en", "word")
    assert read()[0].text == "word 0"
    cached("fr", "mot")
    with pytest.raises(ConfigError, match=r"cache has 2 subsets .*name one of 'en', 'fr'"):
        read()
    assert [read(subset=name)[0].text for name in ("en", "fr")] == ["word 0", "mot 0"]
    cached("default", "own")
    assert read()[0].text == "own 0"


def test_files_that_somebody_picked_are_no_subset(cached: Make) -> None:
    whole = cached("default", "whole")
    picked = cached("default-0123456789abcdef", "picked")
    info = picked / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"config_name": "default"}))
    assert read()[0].text == "whole 0"
    (whole / "dataset_info.json").unlink()
    with pytest.raises(Exception, match="not in the local cache"):
        read()


def test_cached_files_that_are_written_to_meanwhile(cached: Make) -> None:
    folder = cached("default", "a", rows=3000)
    config = CorpusConfig(source="hub:someone/news")
    _, rows = sources.read(sources.resolve(config), config)
    next(rows)
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"'someone/news' were written to while they were read"):
        list(rows)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (exceptions.DatasetNotFoundError("no such\nthing"), DataError, "no such thing"),
        (exceptions.NonMatchingSplitsSizesError([{"a": 1}]), DataError, r"\[\{'a': 1\}\]"),
        (exceptions.DataFilesNotFoundError(""), DataError, "DataFilesNotFoundError"),
        (exceptions.ManualDownloadError("by hand"), DataError, "by hand"),
        (RuntimeError("Dataset scripts are no longer supported"), DataError, "no longer support"),
        (ValueError("BuilderConfig 'x' not found.\nAvailable: ['a']"), ConfigError, "subset None"),
        (ValueError("Config name is missing.\nPick one"), ConfigError, "missing. Pick one"),
        (ValueError("Unsupported compression"), DataError, "does not load: Unsupported"),
        (ImportError("needs torchcodec"), DataError, "ImportError: needs torchcodec"),
        (KeyError("features"), DataError, "KeyError: 'features'"),
        (pa.ArrowInvalid("bad magic"), DataError, "bad magic"),
        (OSError(28, "No space left on device"), DataError, "No space left"),
    ],
)
def test_what_datasets_raises_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    config = CorpusConfig(source="hub:someone/news")
    with pytest.raises(kind, match=said) as raised:
        hub.read(config, COMMIT, None, ["text", "label"])
    assert "\n" not in str(raised.value)
    assert "someone/news" in str(raised.value)


def test_the_cause_of_a_failed_preparation_is_what_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            raise pa.ArrowInvalid("CSV parse error: Expected 2 columns, got 3" + "!" * 999)
        except pa.ArrowInvalid as cause:
            raise exceptions.DatasetGenerationError("An error occurred") from cause

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="Expected 2 columns, got 3") as raised:
        hub.read(CorpusConfig(source="hub:someone/news"), COMMIT, None, ["text", "label"])
    assert len(str(raised.value)) < 400
