"""The stage drift: how documents that came after an SAE was trained differ from those before.

The reference is what the SAE was trained on; of a corpus of an analysis, which trained nothing, it
is what that corpus began as. Reconstruction is compared on tokens that trained nothing: the
reference's held-out documents and the new documents of both splits, a bounded sample of each. FVU
is about the mean that the SAE was trained among on both sides, so that a shift of the mean counts
as error of the old model of the data. Of a transcoder, all this is about the site that
it writes. Intervals resample documents, each side on its own; they say how sure the difference is,
not what caused it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import ActivationReader
from deconstruct.activations.shards import Rows, ShardFile
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.ancestry import bases, recipe_of
from deconstruct.common.errors import DataError
from deconstruct.common.hardware import pick_device
from deconstruct.common.intervals import Bootstrap, Sums
from deconstruct.common.progress import track
from deconstruct.config import EvaluationConfig
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.drift.tables import DRIFT, LATENT_DRIFT
from deconstruct.evaluation.reconstruction import sampled
from deconstruct.sae import files
from deconstruct.sae.stage import trained_on

VERSION = 3
SAMPLE_TOKENS = 65_536
"""Tokens of either side whose reconstruction is compared."""
SMOOTHING = 0.5
"""Firings on the side of fewer tokens whose density is added to both sides' densities, so that a
latent which fires on one side alone has a ratio, and one that is silent on both has moved by 0."""
_METRICS: dict[str, Callable[[Sums], NDArray[np.float64]]] = {
    "fvu_train_mean": lambda s: s["error"] / s["variance"],
    "l0": lambda s: s["fires"] / s["tokens"],
    "cosine": lambda s: s["cosine"] / s["tokens"],
    "squared_norm": lambda s: s["squares_in"] / s["tokens"],
}


def reference_of(root: DataRoot, corpus: Artifact, sae: Artifact) -> Artifact | None:
    """The corpus that ``sae`` was trained on, if ``corpus`` has grown beyond it since; of an SAE
    that others trained, what ``corpus`` began as.

    None as well if it has no document beyond, as where labels alone were corrected.
    """
    if "base" not in corpus.manifest.inputs:
        return None
    trained = trained_on(root, sae)
    if trained is None:
        return beginning_of(root, corpus)
    known = next((base for base in bases(root, corpus) if base.key == trained.key), None)
    return None if known is None else _beyond(known, corpus)


def beginning_of(root: DataRoot, corpus: Artifact) -> Artifact | None:
    """What a corpus that no SAE was trained on began as, if it has grown since."""
    began = list(bases(root, corpus))[-1:]
    return _beyond(began[0], corpus) if began else None


def _beyond(known: Artifact, corpus: Artifact) -> Artifact | None:
    return None if known.facts["documents"] == corpus.facts["documents"] else known


def recipe(
    config: EvaluationConfig,
    *,
    reference: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
    output: Artifact | None = None,
) -> Recipe:
    """All that decides the comparison. output: activations of the site a transcoder writes."""
    inputs = keys_of(
        reference=reference, activations=activations, sae=sae, latents=latents, output=output
    )
    inputs["corpus"] = latents.manifest.inputs["corpus"]
    settings = {"bootstrap": config.bootstrap, "seed": config.seed}
    return Recipe("drift", VERSION, settings, inputs)


def compare(
    root: DataRoot,
    config: EvaluationConfig,
    *,
    reference: Artifact,
    activations: Artifact,
    sae: Artifact,
    latents: Artifact,
    output: Artifact | None = None,
    device: str = "auto",
) -> Artifact:
    """Compare the documents of ``reference`` with those that the corpus of ``latents`` has beyond.

    ``drift.parquet``: ``fvu_train_mean``, whose squares are about the mean of the train rows on
    both sides, where the evaluation's ``fvu`` is about that of the rows judged; L0 and the like,
    the labels' shares, and as distances the Jensen-Shannon divergence in bits of the latents' and
    of the labels' distributions.
    ``latent_drift.parquet``: each latent's density on either side, over all recorded tokens.
    output: over that corpus, of the site that a transcoder writes; None: an autoencoder. Raises
    ``DataError`` if no new document has a recorded token.
    """

    def write(draft: Draft) -> None:
        corpus = root.open("corpus", latents.manifest.inputs["corpus"])
        known = int(reference.facts["documents"])
        dictionary = files.load(sae.path).to(pick_device(device))
        rows = _fidelity_rows(config, dictionary, root, activations, output, sae, corpus, reference)
        densities, firings = _densities(latents, activations, corpus, known)
        labels = _labels(corpus, known)
        rows += labels[0]
        for metric, (before, after) in {"latents": firings, "labels": labels[1]}.items():
            n = (int(before.sum()), int(after.sum()))
            rows.append(_row("distance", metric, (0.0, jensen_shannon(before, after)), n))
        draft.write_table(DRIFT.file, DRIFT.of_rows(rows))
        draft.write_table(LATENT_DRIFT.file, densities)
        new = int(corpus.facts["documents"]) - known
        draft.facts |= {"documents": new, "reference_documents": known}
        found = {(row["subject"], row["metric"]): row for row in rows}
        for metric in _METRICS:
            values = found["reconstruction", metric]
            draft.facts |= {metric: values["current"], f"reference_{metric}": values["reference"]}
        draft.facts["latents_js"] = found["distance", "latents"]["current"]
        draft.facts["labels_js"] = found["distance", "labels"]["current"]

    upstream = {"reference": reference, "activations": activations, "sae": sae, "latents": latents}
    return root.make(recipe(config, **upstream, output=output), write)


STAGE = Stage("drift", recipe, compare)


def sentence(drift: Artifact, since: str = "training") -> str:
    """What the comparison found, for a log."""
    facts = drift.facts
    return (
        f"{facts['documents']:,} documents since {since}: fvu about the train mean "
        f"{facts['fvu_train_mean']:.3f} (reference {facts['reference_fvu_train_mean']:.3f}), "
        f"l0 {facts['l0']:.1f} ({facts['reference_l0']:.1f}), "
        f"latents' JS {facts['latents_js']:.3f} bits, labels' {facts['labels_js']:.3f}"
    )


def jensen_shannon(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Divergence of two distributions given by counts, [n] each, in bits: 0 equal, 1 disjoint.

    Lin, Divergence measures based on the Shannon entropy (1991). 0 where a side has no counts.
    """
    if a.sum() == 0 or b.sum() == 0:
        return 0.0
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def divergence(of: NDArray[np.float64]) -> float:
        there = of > 0
        return float((of[there] * np.log2(of[there] / middle[there])).sum())

    return (divergence(p) + divergence(q)) / 2


def _fidelity_rows(
    config: EvaluationConfig,
    dictionary: Any,
    root: DataRoot,
    activations: Artifact,
    output: Artifact | None,
    sae: Artifact,
    corpus: Artifact,
    reference: Artifact,
) -> list[dict[str, Any]]:
    known = int(reference.facts["documents"])
    mean = ActivationReader(_referred(root, sae, reference, output or activations)).moments.mean
    read = [ShardFile(path) for path in activations.files("*-*.parquet")]
    shards = list(zip(read, _beside(read, output), strict=True))
    new = [pair for pair in shards if pair[0].column(0, "doc_id")[0] >= known]
    held_out = [p for p in shards if p not in new and p[0].path.name.startswith("test")]
    if not new:
        raise DataError("no document that came after the SAE was trained has a recorded token")
    documents, groups = int(corpus.facts["documents"]), group_ids(corpus)
    draw = np.random.default_rng(config.seed)
    with track("drift", 2 * SAMPLE_TOKENS, "tokens") as advance:
        sides = []
        for seed, source in enumerate((held_out, new), config.seed):
            blocks = _drawn(source, draw)
            seen, sums = sampled(blocks, dictionary, mean, documents, SAMPLE_TOKENS, advance)
            bootstrap = Bootstrap(len(seen), config.bootstrap, seed, groups[seen])
            counts = list(bootstrap.counts())
            drawn = {
                name: np.concatenate([c @ value for c in counts]) for name, value in sums.items()
            }
            sides.append((sums, drawn))
    rows = []
    (before, before_drawn), (after, after_drawn) = sides
    for metric, statistic in _METRICS.items():
        value = tuple(
            float(
                statistic(
                    {name: of_documents.sum(keepdims=True) for name, of_documents in side.items()}
                )[0]
            )
            for side in (before, after)
        )
        spread = statistic(after_drawn) - statistic(before_drawn)
        low, high = np.quantile(spread[np.isfinite(spread)], [0.025, 0.975])
        n = (int(before["tokens"].sum()), int(after["tokens"].sum()))
        rows.append(_row("reconstruction", metric, value, n, float(low), float(high)))
    return rows


def _beside(read: list[ShardFile], output: Artifact | None) -> list[ShardFile]:
    """The shards of what is reconstructed: of equal names, so that they hold the same rows."""
    if output is None:
        return read
    return [ShardFile(output.file(shard.path.name)) for shard in read]


def _drawn(
    shards: list[tuple[ShardFile, ShardFile]], draw: np.random.Generator
) -> Iterator[tuple[Rows, Tensor, Tensor]]:
    """Row groups of some shards in an order drawn: rows, what is read, what is reconstructed."""
    groups = [(pair, group) for pair in shards for group in range(len(pair[0].group_rows))]
    for place in draw.permutation(len(groups)):
        (source, onto), group = groups[place]
        rows, activation = source.block(group)
        yield rows, activation, activation if onto is source else onto.block(group)[1]


def _referred(root: DataRoot, sae: Artifact, reference: Artifact, recorded: Artifact) -> Artifact:
    """The activations that FVU is about the mean of: those that ``sae`` was trained to give; where
    there are none of it, those of the reference."""
    inputs = sae.manifest.inputs
    key = inputs.get("output", inputs.get("activations"))
    if key is None:
        made = recipe_of(recorded)
        key = replace(made, inputs={**made.inputs, "corpus": reference.key}).key
    return root.open("activations", key)


def _densities(
    latents: Artifact, activations: Artifact, corpus: Artifact, known: int
) -> tuple[pa.Table, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Each latent's density before and after, and its firings."""
    d_sae = latents.manifest.files["features.parquet"].rows or 0
    lengths = np.concatenate(
        [t["n_tokens"].to_numpy() for t in corpus.rows("documents.parquet", ["n_tokens"])]
    )
    boundary = int(lengths[:known].sum())
    fires = np.zeros((2, d_sae))
    for table in latents.rows("latents_by_token.parquet", ["token_index", "latent"]):
        after = table["token_index"].to_numpy() >= boundary
        latent = table["latent"].to_numpy()
        fires[0] += np.bincount(latent[~after], minlength=d_sae)
        fires[1] += np.bincount(latent[after], minlength=d_sae)
    tokens = np.zeros(2)
    for path in activations.files("*-*.parquet"):
        shard = ShardFile(path)
        tokens[int(shard.column(0, "doc_id")[0] >= known)] += sum(shard.group_rows)
    densities = fires / tokens[:, None]
    table = LATENT_DRIFT.of(np.arange(d_sae), *densities, log2_ratio(densities, tokens))
    return table, (fires[0], fires[1])


def log2_ratio(densities: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far latents' densities moved, [n], in bits; 0 for those which are silent on both sides.

    densities: [2, n], before and since. tokens: [2], of the sides. The same density is added to
    both, so that what the sides differ in alone, their size, moves no latent.
    """
    smooth = densities + SMOOTHING / tokens.min()
    return np.asarray(np.log2(smooth[1]) - np.log2(smooth[0]))


def _labels(
    corpus: Artifact, known: int
) -> tuple[list[dict[str, Any]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Shares of the labels before and after, among the documents that have one; and counts."""
    names = [str(label) for label in corpus.facts["labels"]]
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((2, len(names)))
    for doc_id, label in _labelled(corpus):
        counts[int(doc_id >= known), place[label]] += 1
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = [
        _row("label share", name, tuple(shares[:, number].tolist()), tuple(map(int, totals)))
        for number, name in enumerate(names)
    ]
    return rows, (counts[0], counts[1])


def _labelled(corpus: Artifact) -> Iterator[tuple[int, str]]:
    for table in corpus.rows("documents.parquet", ["doc_id", "label"]):
        for doc_id, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if label is not None:
                yield doc_id, label


def _row(
    subject: str,
    metric: str,
    values: tuple[float, ...],
    n: tuple[int, ...],
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    """values, n: of the reference and of the documents since."""
    return {
        "subject": subject, "metric": metric, "reference": values[0], "current": values[1],
        "difference": values[1] - values[0], "ci_low": low, "ci_high": high,
        "n_reference": n[0], "n_current": n[1],
    }  # fmt: skip
