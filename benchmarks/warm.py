"""Retraining on a corpus that has grown by a tenth: from the seed, or warm from the standing SAE.

    python -m benchmarks.warm HOME [--seeds 0 1 2] [--shares 1 0.25 0.1] [--last]

The articles of the embedded corpus but for one in ten (with --last: but for the last tenth, which
are all of one class) make the first corpus, whose SAE is trained as a first run trains it; all of
them make the grown one. Then SAEs are trained on the grown one's activations, cold and warm, on
shares of the first run's tokens. Each is judged on the held-out tokens of the grown corpus (FVU),
those of the new documents apart, and by the share of latents that fire on no token of it. Texts,
activations and SAEs are kept in HOME, for the next call.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.growth import copy_as_utf8
from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig, SaeConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.evaluation.reconstruction import fidelity
from deconstruct.model.resolve import resolve
from deconstruct.sae import files as formats
from deconstruct.sae import stage as sae

TOKENS = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.25, 0.1])
    parser.add_argument("--rates", type=float, nargs="+", help="peak rates of warm runs")
    parser.add_argument("--last", action="store_true", help="the last tenth is new")
    parser.add_argument("--architecture", default="topk")
    options = parser.parse_args()
    root = DataRoot(options.home)
    before, after = grown(root, options.last)
    first, recorded = (record(root, texts) for texts in (before, after))
    known = int(before.facts["documents"])
    print(f"{known} documents, then {int(after.facts['documents'])}", flush=True)
    table: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for seed in options.seeds:
        trained = SaeConfig(architecture=options.architecture, tokens=TOKENS, seed=seed)
        standing = sae.train(root, trained, activations=first)
        judged(table, "standing, 1", standing, recorded, after, known)
        for share in options.shares:
            tokens = int(share * TOKENS)
            cold = trained.model_copy(update={"tokens": tokens})
            made = sae.train(root, cold, activations=recorded)
            judged(table, f"cold, {share:g}", made, recorded, after, known)
            for rate in options.rates or [None]:
                changes = {"warm_tokens": tokens, "learning_rate": rate}
                warm = trained.model_copy(update=changes)
                made = sae.train(root, warm, activations=recorded, start=standing)
                name = f"warm, {share:g}" + (f", rate {rate:g}" if rate else "")
                judged(table, name, made, recorded, after, known)
    print("training, share of tokens         held-out FVU  of new ones  never fire  (spread)")
    for name, rows in table.items():
        print(f"{name:<32}" + summary(rows))


def grown(root: DataRoot, last: bool) -> tuple[Artifact, Artifact]:
    """The corpus of nine tenths, and the one that grew from it."""
    articles = sources.resolve(CorpusConfig()).path
    assert articles is not None
    files = sorted(articles.glob("*/*.txt"))
    late = set(files[-(len(files) // 10) :] if last else files[::10])
    texts = root.path / ("texts-last" if last else "texts")
    model = resolve(root, ModelConfig())

    def read(base: Artifact | None) -> Artifact:
        config = CorpusConfig(source=str(texts))
        return corpus.tokenise(root, config, source=sources.resolve(config), model=model, base=base)

    shutil.rmtree(texts, ignore_errors=True)
    for file in files:
        if file not in late:
            copy_as_utf8(file, texts / file.parent.name / file.name)
    base = read(None)
    for file in late:
        copy_as_utf8(file, texts / file.parent.name / file.name)
    return base, read(base)


def record(root: DataRoot, texts: Artifact) -> Artifact:
    made = activations.extract(
        root, ActivationsConfig(), model=resolve(root, ModelConfig()), corpus=texts
    )
    return next(iter(made.values()))


def judged(
    table: dict[str, list[tuple[float, ...]]],
    name: str,
    made: Artifact,
    recorded: Artifact,
    texts: Artifact,
    known: int,
) -> None:
    """Add held-out FVU, that on new documents, the share that never fires, and seconds."""
    dictionary = formats.load(made.path)
    test = ActivationReader(recorded, "test")
    sums = fidelity(test, dictionary, int(texts.facts["documents"]), "cpu").documents
    ids = torch.cat([torch.from_numpy(b.doc_id.astype("int64")) for b in test.rows_in_order()])
    new = torch.unique(ids).numpy() >= known
    fired = torch.zeros(dictionary.d_sae, dtype=torch.bool)
    for split in ("train", "test"):
        for block in ActivationReader(recorded, split).rows_in_order():
            fired[dictionary.encode_sparse(block.activation).latents.long()] = True
    row = (
        float(sums["error"].sum() / sums["variance"].sum()),
        float(sums["error"][new].sum() / sums["variance"][new].sum()),
        1 - float(fired.float().mean()),
    )
    table[name].append(row)
    print(f"{name:<32}" + summary([row]) + f"  {made.manifest.seconds:.0f} s", flush=True)


def summary(rows: Iterable[tuple[float, ...]]) -> str:
    columns = list(zip(*rows, strict=True))
    means = "  ".join(f"{statistics.mean(column):12.4f}" for column in columns)
    spread = max(columns[0]) - min(columns[0])
    return f"{means}  ({spread:.4f})"


if __name__ == "__main__":
    main()
