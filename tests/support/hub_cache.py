"""Subsets of hub data sets in the local cache, as `datasets` leaves them there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datasets
from datasets.packaged_modules.parquet.parquet import Parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_subset(folder: Path, subset: str, splits: Mapping[str, datasets.Dataset]) -> Path:
    """Put a subset of the data set someone/news into the cache ``folder/cache``; where it is."""
    files = {split: str(folder / f"{subset}-{split}.parquet") for split in splits}
    for split, rows in splits.items():
        rows.to_parquet(files[split])
    builder = Parquet(
        cache_dir=str(folder / "cache"),
        dataset_name="news",
        config_name=subset,
        hash=COMMIT,
        config_id=subset,
        data_files={split: [file] for split, file in files.items()},
    )
    builder.download_and_prepare()
    made = Path(builder.cache_dir)
    place = folder / "cache" / "someone___news" / made.relative_to(folder / "cache/news")
    place.parent.mkdir(parents=True)
    return made.rename(place)
