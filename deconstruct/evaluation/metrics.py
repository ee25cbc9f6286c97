"""What is measured: each metric as a ratio of sums over documents, with its unit and definition.

Definitions, as peers' differ. FVU: sum of squared errors over sum of squares about the
per-dimension mean of the tokens judged, in float64. SAELens 6's explained variance is 1 - FVU;
dictionary_learning's takes the variance of the error, which is blind to a constant one, and
averages ratios of batches. Of typical tokens: the same about the typical tokens' own mean, without
those that are over a multiple of the median as far from the train mean as train rows are: a few
massive activations hold most of the variance of a residual stream, and are easily rendered.

Scores, as SAELens has them (SAEBench and dictionary_learning ablate alike): zeros at *every*
position are what a loss is recovered from. ``loss_recovered_bos_kept`` zeroes recorded positions
alone, which leaves a model worse than guessing, and so is nearer to 1. Zero ablation is
catastrophic in any case and makes any SAE look good: the difference in nats, the divergence and
floors that know little stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconstruct.common.intervals import Bootstrap, Estimate, Statistic, Sums
from deconstruct.config import EvaluationConfig
from deconstruct.evaluation.tables import OWN

RARE = 10
"""Held-out tokens; a latent that fires on fewer is rare."""
Z = 1.959963984540054
"""Of a 95% interval."""

Metrics = Mapping[str, tuple[Statistic, str, str]]
"""Name -> statistic of sums, unit, definition."""


def _fvu(sums: Sums) -> NDArray[np.float64]:
    return sums["error"] / sums["variance"]


def _mean(name: str) -> Statistic:
    return lambda s: s[name] / s["predictions"]


def _recovered(ablated: str) -> Statistic:
    return lambda s: (s[ablated] - s["spliced"]) / (s[ablated] - s["clean"])


RECONSTRUCTION: Metrics = {
    "fvu_typical": (
        lambda s: s["error_typical"] / s["variance_typical"],
        "share",
        "fvu of the typical tokens, about their own mean: without those over "
        "evaluation.outlier_multiple times the train rows' median squared distance from their mean",
    ),
    "fvu": (
        _fvu,
        "share",
        "squared error over squares about the mean of the held-out recorded tokens",
    ),
    "outlier_share": (
        lambda s: 1 - s["tokens_typical"] / s["tokens"],
        "share",
        "tokens that fvu_typical leaves out",
    ),
    "outlier_variance_share": (
        lambda s: s["variance_outliers"] / s["variance"],
        "share",
        "of the variance that fvu is over, theirs",
    ),
    "explained_variance": (lambda s: 1 - _fvu(s), "share", "1 - fvu"),
    "mse": (lambda s: s["error"] / s["elements"], "squared activation", "mean over elements"),
    "cosine": (lambda s: s["cosine"] / s["tokens"], "cosine", "of activation and reconstruction"),
    "relative_reconstruction_bias": (
        lambda s: s["squares_out"] / s["inner"],
        "ratio",
        "E|x'|^2 / E[x.x'], 1 is unbiased, below 1 shrinks (arXiv 2404.16014)",
    ),
    "l0": (lambda s: s["fires"] / s["tokens"], "latents", "latents that fire on a token"),
}

SPLICED: Metrics = {
    "loss_clean": (_mean("clean"), "nats", "next-token loss"),
    "loss_spliced": (
        _mean("spliced"),
        "nats",
        "with the reconstruction in place; leading positions that training left out stay clean",
    ),
    "delta_loss": (
        lambda s: (s["spliced"] - s["clean"]) / s["predictions"],
        "nats",
        "spliced - clean",
    ),
    "kl": (_mean("kl"), "nats", "KL(clean || spliced)"),
    "top1_agreement": (
        _mean("top1"),
        "share",
        "predictions whose likeliest token the reconstruction leaves as it was",
    ),
}

AGAINST: Metrics = {
    "loss_zero": (_mean("zero"), "nats", "with zeros in place, at every position"),
    "loss_zero_bos_kept": (
        _mean("zero_bos_kept"),
        "nats",
        "with zeros in place; leading positions that training left out stay clean",
    ),
    "loss_mean": (_mean("mean"), "nats", "with the train mean in place"),
    "loss_token_lookup": (
        _mean("token_lookup"),
        "nats",
        "with the mean of the token's train rows in place: no context",
    ),
    "loss_pca": (
        _mean("pca"),
        "nats",
        "with the first 128 principal components of the train rows in place",
    ),
    "loss_unigram": (_mean("unigram"), "nats", "of the tokens' shares of the train rows alone"),
    "ce_loss_score": (
        _recovered("zero"),
        "share",
        "(zero - spliced) / (zero - clean), zeros at every position, as SAELens has it",
    ),
    "kl_score": (
        lambda s: (s["kl_zero"] - s["kl"]) / s["kl_zero"],
        "share",
        "(KL of zero - KL of spliced) / KL of zero, zeros at every position, as SAELens has it",
    ),
    "loss_recovered_bos_kept": (
        _recovered("zero_bos_kept"),
        "share",
        "against zeros that leave the leading positions clean, which no peer does",
    ),
    "loss_recovered_mean": (_recovered("mean"), "share", "against mean ablation"),
    "loss_recovered_token_lookup": (
        _recovered("token_lookup"),
        "share",
        "against the token lookup: of what the token alone does not say",
    ),
}
"""What needs the losses without an SAE."""

WITH_FIRST: Metrics = {
    "fvu_with_first": (
        _fvu,
        "share",
        "fvu with the leading positions and special tokens that training left out, of the "
        "documents whose losses are judged; where the first token's activations are massive they "
        "hold most of the variance, and this tells of little else",
    )
}


def rows(
    metrics: Metrics,
    sums: Sums,
    config: EvaluationConfig,
    n: int,
    text: str = OWN,
    groups: NDArray[np.int64] | None = None,
) -> list[dict[str, Any]]:
    """Rows of ``sae_metrics``. sums: name -> [documents]; n: what they are taken over. groups:
    [documents], what intervals draw."""
    documents = len(next(iter(sums.values())))
    bootstrap = Bootstrap(documents, config.bootstrap, config.seed, groups)
    found = bootstrap.estimates(sums, {name: told[0] for name, told in metrics.items()})
    return [row(name, found[name], n, *told[1:], text) for name, told in metrics.items()]


def median_row(
    ratios: NDArray[np.float64], places: NDArray[np.int64], text: str = OWN
) -> dict[str, Any]:
    """``nmse_median``. ratios: [tokens], places: which document, or group of them, each is of."""
    there = np.isfinite(ratios)
    note = "median over tokens of |x - x'|^2 / |x - m|^2, m the train rows' mean"
    found = median(ratios[there], places[there])
    return row("nmse_median", found, int(there.sum()), "share", note, text)


def median(values: NDArray[np.float64], places: NDArray[np.int64]) -> Estimate:
    """The median of [n] values, with a 95% interval over the documents that they are of.

    By Woodruff (1952): the share of values up to the median is a ratio of sums over documents, and
    the quantiles at the ends of its interval are those of the median's. NaN without any value.
    """
    if len(values) == 0:
        return Estimate(float("nan"))
    middle = float(np.median(values))
    below = (values < middle) + 0.5 * (values == middle)
    by_document = np.bincount(places, below - below.mean())
    documents = len(np.unique(places))
    if documents < 2:
        return Estimate(middle)
    error = np.sqrt(documents / (documents - 1) * np.square(by_document).sum()) / len(values)
    ends = np.clip([0.5 - Z * error, 0.5 + Z * error], 0, 1)
    low, high = np.quantile(values, ends)
    return Estimate(middle, float(low), float(high))


def firing_rows(firings: NDArray[np.int64], text: str = OWN) -> list[dict[str, Any]]:
    """``silent_share`` and ``rare_share``. firings: [d_sae], judged tokens that each fires on."""
    n, whose = len(firings), "held-out tokens" if text == OWN else "tokens of this text"
    shares = {
        "silent_share": (0, f"latents that fire on none of the {whose}; dead_share is over all"),
        "rare_share": (RARE - 1, f"latents that fire on fewer than {RARE} of the {whose}, or none"),
    }
    return [
        row(name, Estimate(float((firings <= most).mean())), n, "share", note, text)
        for name, (most, note) in shares.items()
    ]


def row(
    metric: str, found: Estimate, n: int, unit: str, note: str, text: str = OWN
) -> dict[str, Any]:
    """One of ``sae_metrics``."""
    return {
        "text": text, "metric": metric, "value": found.value, "ci_low": found.low,
        "ci_high": found.high, "n": n, "unit": unit, "note": note,
    }  # fmt: skip
