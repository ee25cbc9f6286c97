"""The stage matching, of two SAEs: which of their latents are the same, and how sure that is.

Latents that fire nowhere in a run's corpus are left out on either side: their decoder rows are
near where they began, so that a pair of them says nothing of what was learned. The null is the
same assignment of random unit rows of the living latents' numbers and width. Decoder rows are not
spread evenly over the sphere, so that part of what lies above the null is their common shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.activations.shards import ShardFile
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.common.errors import DataError
from deconstruct.common.progress import track
from deconstruct.common.threads import one_blas_thread
from deconstruct.matching.assignment import (
    NONE,
    NULL_PAIRS,
    OVER,
    Assigned,
    assign,
    calibrated,
    check_sizes,
    random_rows,
)
from deconstruct.matching.correlation import correlations
from deconstruct.matching.tables import LATENT_MATCHES, MATCHING_METRICS

VERSION = 1


def recipe(
    seed: int = 0, *, sae: Artifact, latents: Artifact, other_sae: Artifact, other_latents: Artifact
) -> Recipe:
    """All that decides the pairs. seed: of the random rows that the null is made of."""
    inputs = keys_of(sae=sae, latents=latents, other_sae=other_sae, other_latents=other_latents)
    return Recipe("matching", VERSION, {"seed": seed, "null_pairs": NULL_PAIRS}, inputs)


def match(
    root: DataRoot,
    seed: int = 0,
    *,
    sae: Artifact,
    latents: Artifact,
    other_sae: Artifact,
    other_latents: Artifact,
) -> Artifact:
    """Pair the latents of an SAE with those of another: ``latent_matches`` of the first one's.

    latents, other_latents: what `deconstruct.latents.stage.encode` made of either. Facts are the
    rows of ``matching_metrics``; ``latents`` and ``other_latents``, the living ones; ``pairs``; and
    ``tokens``, those that correlations are over. Raises ``DataError`` if one SAE is given twice, if
    the decoders differ in width, if one has no living latent, or too many for the memory.
    """
    both = {"sae": sae, "latents": latents, "other_sae": other_sae, "other_latents": other_latents}
    wanted = recipe(seed, **both)
    if latents.key == other_latents.key:
        raise DataError(
            f"both sides are the latents {latents.key[:12]} of one SAE on one corpus; name runs of "
            "two SAEs"
        )
    there = root.find(wanted)
    if there is not None:
        return there
    sides = _living(latents), _living(other_latents)
    check_sizes(sides[0].rows, sides[1].rows)

    def write(draft: Draft) -> None:
        with one_blas_thread(), track("matching", 2, "assignments") as advance:
            found = assign(sides[0].rows, sides[1].rows)
            advance()
            null = list(random_rows(sides[0].rows.shape, len(sides[1].rows), seed))
            advance()
        partner = _partners(found, *sides)
        tokens = _shared_tokens(root, latents, other_latents)
        correlation = np.full(sides[0].size, np.nan)
        if tokens is not None:
            correlation = correlations(latents, other_latents, partner, tokens)
        draft.write_table(LATENT_MATCHES.file, _matches(found, sides[0], partner, correlation))
        metrics = _metrics(found, null, correlation)
        draft.write_table(MATCHING_METRICS.file, MATCHING_METRICS.of_rows(metrics))
        draft.facts |= {row["metric"]: row["value"] for row in metrics}
        draft.facts |= {
            "latents": len(sides[0].numbers),
            "other_latents": len(sides[1].numbers),
            "pairs": int((found.partner != NONE).sum()),
            "tokens": 0 if tokens is None else len(tokens),
        }

    return root.make(wanted, write)


STAGE = Stage("matching", recipe, match)


def sentence(matching: Artifact) -> str:
    """What was found, for people."""
    facts = matching.facts
    return (
        f"mean max cosine {facts['mean_max_cosine']:.2f} (random "
        f"{facts['mean_max_cosine_null']:.2f}), {facts[f'share_over_{OVER}']:.1%} of latents over "
        f"{OVER}, calibrated PW-MCC {facts['pw_mcc_calibrated']:.2f}"
    )


@dataclass(frozen=True)
class _Living:
    """The latents that fire. size: of the dictionary; numbers: [n] theirs; rows: [n, d] of the
    decoder."""

    size: int
    numbers: NDArray[np.int64]
    rows: NDArray[np.float32]


def _living(latents: Artifact) -> _Living:
    """Those that fire and have a direction. Raises ``DataError`` if there is none."""
    column = latents.table("directions.parquet", ["decoder"])["decoder"].combine_chunks()
    decoder: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
    fires = latents.table("features.parquet", ["n_fires"])["n_fires"].to_numpy()
    numbers = np.flatnonzero((fires > 0) & decoder.any(1))
    if not len(numbers):
        raise DataError(f"no latent of {latents.path} ever fires; name a run whose latents do")
    return _Living(len(decoder), numbers, decoder[numbers])


def _partners(found: Assigned, own: _Living, other: _Living) -> NDArray[np.int64]:
    """Partners of all latents by their numbers, [d_sae], `NONE` where there is none."""
    partner = np.full(own.size, NONE, np.int64)
    paired = found.partner != NONE
    partner[own.numbers[paired]] = other.numbers[found.partner[paired]]
    return partner


def _shared_tokens(root: DataRoot, latents: Artifact, other: Artifact) -> NDArray[np.uint64] | None:
    """The held-out tokens that both sides recorded, ascending; None if they read other texts."""
    corpora = [one.manifest.inputs.get("corpus") for one in (latents, other)]
    if corpora[0] is None or corpora[0] != corpora[1]:
        return None
    keys = [one.manifest.inputs["activations"] for one in (latents, other)]
    own, other_own = (_held_out(root.open("activations", key)) for key in keys)
    return np.asarray(np.intersect1d(own, other_own, assume_unique=True))


def _held_out(activations: Artifact) -> NDArray[np.uint64]:
    shards = [ShardFile(path) for path in activations.files("test-*.parquet")]
    columns = [s.column(i, "token_index") for s in shards for i in range(len(s.group_rows))]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *columns]))


def _matches(
    found: Assigned,
    own: _Living,
    partner: NDArray[np.int64],
    correlation: NDArray[np.float64],
) -> pa.Table:
    cosine, most = np.full((2, own.size), np.nan)
    cosine[own.numbers], most[own.numbers] = found.cosine, found.max_cosine
    columns = [pa.array(values, from_pandas=True) for values in (cosine, correlation, most)]
    others = pa.array(partner.clip(0), pa.uint32(), mask=partner == NONE)
    return LATENT_MATCHES.of(np.arange(own.size), others, *columns)


def _metrics(
    found: Assigned, null: list[Assigned], correlation: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Rows of ``matching_metrics``."""
    pairs = int((found.partner != NONE).sum())
    rows = []
    for metric, (name, n) in {
        "pw_mcc": ("pw_mcc", pairs),
        "mean_max_cosine": ("mean_max_cosine", len(found.partner)),
        f"share_over_{OVER}": ("share_over", pairs),
    }.items():
        value = getattr(found, name)
        chance = float(np.mean([getattr(one, name) for one in null]))
        values = {"": value, "_null": chance, "_calibrated": calibrated(value, chance)}
        rows += [{"metric": metric + of, "value": v, "n": n} for of, v in values.items()]
    known = correlation[np.isfinite(correlation)]
    mean = float(known.mean()) if len(known) else None
    return [*rows, {"metric": "mean_correlation", "value": mean, "n": len(known)}]
