"""What a tenth more documents cost, against the first run: extraction and latents, embedded model.

    .venv/bin/python -m benchmarks.growth [--documents 2225] [--d-sae 8192]

The articles of the embedded corpus are laid out in a folder but for one in eleven; activations and
latents are computed; then the rest are added and both stages run again on the grown corpus. Times
are wall times of the stages alone, loading of the model included; the SAE is trained briefly, as
its quality does not matter here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deconstruct.activations import stage as activations
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import (
    ActivationsConfig,
    CorpusConfig,
    LatentsConfig,
    ModelConfig,
    SaeConfig,
)
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.latents import stage as latents
from deconstruct.model.resolve import resolve
from deconstruct.sae import stage as sae

R = TypeVar("R")


def timed(what: str, work: Callable[[], R]) -> tuple[R, float]:
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print(f"{what:<32} {seconds:7.2f} s", flush=True)
    return result, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=2225)
    parser.add_argument("--d-sae", type=int, default=8192)
    options = parser.parse_args()
    articles = sources.resolve(CorpusConfig()).path
    assert articles is not None
    files = sorted(articles.glob("*/*.txt"))[:: max(1, 2225 // options.documents)]
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts"
        late = []
        for number, file in enumerate(files):
            target = texts / file.parent.name / file.name
            if number % 11 == 0:
                late.append((file, target))
                continue
            copy_as_utf8(file, target)
        root = DataRoot(Path(folder) / "home")
        model = resolve(root, ModelConfig())
        config = CorpusConfig(source=str(texts))
        recorded = ActivationsConfig()
        trained = SaeConfig(d_sae=options.d_sae, tokens=40_960)

        def read(base: Artifact | None) -> Artifact:
            return corpus.tokenise(
                root, config, source=sources.resolve(config), model=model, base=base
            )

        def extract(of: Artifact) -> Artifact:
            return next(iter(activations.extract(root, recorded, model=model, corpus=of).values()))

        def encode(dictionary: Artifact, activity: Artifact, of: Artifact) -> Artifact:
            return latents.encode(
                root, LatentsConfig(), sae=dictionary, activations=activity, corpus=of
            )

        base, _ = timed("corpus", lambda: read(None))
        activity, extraction = timed("extraction", lambda: extract(base))
        dictionary = sae.train(root, trained, activations=activity)
        _, encoding = timed("latents", lambda: encode(dictionary, activity, base))
        for file, target in late:
            copy_as_utf8(file, target)
        grown, _ = timed("corpus, grown", lambda: read(base))
        more, extraction_2 = timed("extraction, grown", lambda: extract(grown))
        _, encoding_2 = timed("latents, grown", lambda: encode(dictionary, more, grown))
        new, known = len(late), len(files) - len(late)
        ratio = (extraction_2 + encoding_2) / (extraction + encoding)
        print(
            f"{new} documents beside {known} ({new / known:.3f}) cost {ratio:.3f} of the first run"
        )


def copy_as_utf8(file: Path, target: Path) -> None:
    """One of the articles is in Windows-1252; a folder of one's own is read as UTF-8."""
    content = file.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, newline="")


if __name__ == "__main__":
    main()
