"""A first configuration for a data set of the hub, found in the local cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from support.hub_cache import cache_subset

from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import load
from deconstruct.corpus import sources
from deconstruct.suggest import suggest

Make = Callable[..., object]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Puts a subset of someone/news with these splits, and so many rows of each, into the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(subset: str, **splits: int) -> object:
        kinds = datasets.ClassLabel(names=["world", "sport", "film"])
        features = datasets.Features(
            {"story": datasets.Value("string"), "kind": kinds, "tags": [datasets.Value("string")]}
        )
        made = {
            split: datasets.Dataset.from_dict(
                {
                    "story": [f"the market rose {split} {row}" for row in range(rows)],
                    "kind": [row * 3 // rows for row in range(rows)],
                    "tags": [["a"]] * rows,
                },
                features=features,
            )
            for split, rows in splits.items()
        }
        return cache_subset(tmp_path, subset, made)

    return make


def test_rows_are_drawn_from_the_whole_split(
    cached: Make, tmp_path: Path, tiny_model: Path
) -> None:
    cached("default", test=300, train=9000)
    page = suggest("hub:someone/news", str(tiny_model))
    told = page.replace("\n# ", " ")
    assert 'there is "train" (9,000 rows), "test" (300 rows).' in told
    assert '3 values among 2,250 rows: "world" 33%, "sport" 33%, "film" 33%.' in told
    (tmp_path / "a.toml").write_text(page)
    config = load(tmp_path / "a.toml")
    assert (config.name, config.corpus.splits) == ("news", ("train",))
    assert (config.corpus.text_column, config.corpus.label_column) == ("story", "kind")
    documents, rows = sources.read(sources.resolve(config.corpus), config.corpus)
    assert documents == 9000
    assert next(rows).label == "world"


def test_a_data_set_without_train(cached: Make, tiny_model: Path) -> None:
    cached("default", validation=60)
    assert 'splits = ["validation"]' in suggest("hub:someone/news", str(tiny_model))


def test_one_of_several_subsets(cached: Make, tiny_model: Path) -> None:
    cached("en", train=60)
    cached("fr", train=90)
    with pytest.raises(ConfigError, match=r"corpus.subset: .* name one of 'en', 'fr'"):
        suggest("hub:someone/news", str(tiny_model))
    page = suggest("hub:someone/news", str(tiny_model), subset="fr")
    assert 'subset = "fr"' in page
    assert "Held out of 90 documents" in page


def test_an_empty_split(cached: Make, tiny_model: Path) -> None:
    cached("default", train=0, test=60)
    with pytest.raises(DataError, match="corresponds to no data"):
        suggest("hub:someone/news", str(tiny_model))
