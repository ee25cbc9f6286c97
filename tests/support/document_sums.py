"""Sums of documents as the stage evaluation writes them, with planted metrics."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from support.planted import filled

from deconstruct.evaluation.tables import DOCUMENT_METRICS
from deconstruct.reference.tables import DOCUMENT_LOSSES


def ratios_of(seed: int) -> dict[str, float]:
    """Metrics that are ratios of documents' sums."""
    return {
        "fvu_typical": 0.3 + seed / 100,
        "fvu": 0.2 + seed / 100,
        "l0": 3.5,
        "delta_loss": 0.4 + seed / 50,
        "kl": 0.5 + seed / 50,
        "top1_agreement": 0.7 - seed / 50,
    }


def document_metrics(held_out: list[int], lengths: np.ndarray, seed: int) -> pa.Table:
    """Sums of the held-out documents, whose ratios are those above.

    lengths: tokens of each document, the first one of them BOS.
    """
    draw = np.random.default_rng(seed)
    docs = np.array(held_out)
    tokens = lengths[docs].astype(float) - 1
    judged = np.where(np.arange(len(docs)) < 4, tokens - 1, np.nan)  # losses of the first four
    variance = {"": tokens * 20, "_typical": tokens * 10}
    ratios = ratios_of(seed)

    def share(metric: str, of: np.ndarray) -> np.ndarray:
        noisy = of * (1 + 0.1 * draw.random(len(of)))
        return noisy * (ratios[metric] * np.nansum(of) / np.nansum(noisy))

    known = np.isfinite(judged)
    losses = {
        "predictions": judged,
        "clean": 3 * judged,
        "spliced": 3 * judged + share("delta_loss", judged),
        "kl": share("kl", judged),
        "top1": share("top1_agreement", judged),
    }
    return filled(
        DOCUMENT_METRICS,
        text="own",
        doc_id=docs,
        tokens=tokens,
        tokens_typical=tokens,
        error=share("fvu", variance[""]),
        variance=variance[""],
        error_typical=share("fvu_typical", variance["_typical"]),
        variance_typical=variance["_typical"],
        fires=tokens * ratios["l0"],
        **{name: pa.array(values, mask=~known) for name, values in losses.items()},
    )


def document_losses(held_out: list[int], lengths: np.ndarray) -> pa.Table:
    """Losses without an SAE of the documents that have losses above."""
    docs = np.array(held_out)[:4]
    predictions = lengths[docs].astype(float) - 2
    nats = {"clean": 3.0, "zero": 12.0, "kl_zero": 9.0, "zero_bos_kept": 11.0, "mean": 8.0}
    floors = {"token_lookup": 5.0, "pca": 4.0, "unigram": 7.0}
    losses = {name: predictions * value for name, value in (nats | floors).items()}
    return filled(DOCUMENT_LOSSES, doc_id=docs, predictions=predictions, **losses)
