"""A corpus that grows, and the stages over it in one data root."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from support.texts import write_texts

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, CorpusConfig, LatentsConfig, SaeConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.latents import stage as latents
from deconstruct.model.resolve import ResolvedModel

RECORDED = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512)
TRAINED = SaeConfig(d_sae=64, k=4, tokens=4096, batch_size=256)


@dataclass
class Home:
    """A data root and what is made in it of a corpus."""

    root: DataRoot
    model: ResolvedModel

    def read(self, path: Path, base: Artifact | None = None) -> Artifact:
        config = CorpusConfig(source=str(path), max_tokens=24)
        source = sources.resolve(config)
        return corpus.tokenise(self.root, config, source=source, model=self.model, base=base)

    def record(self, texts: Artifact) -> Artifact:
        (made,) = activations.extract(
            self.root, RECORDED, model=self.model, corpus=texts, device="cpu"
        ).values()
        return made

    def encode(self, dictionary: Artifact, recorded: Artifact, texts: Artifact) -> Artifact:
        return latents.encode(
            self.root,
            LatentsConfig(),
            sae=dictionary,
            activations=recorded,
            corpus=texts,
            device="cpu",
        )


def grow(texts: Path, folder: Path) -> Path:
    """The texts with 12 new ones among them, not at the end, and one that was there already."""
    rows = list(csv.reader(texts.open()))
    new = list(csv.reader(write_texts(folder / "new.csv", 12, seed=9).open()))[1:]
    path = folder / "grown.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([*rows[:50], *new, rows[7], *rows[50:]])
    return path
