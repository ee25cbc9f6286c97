"""Outliers: what a few massive activations do to a metric, and to the one that leaves them out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.reader import Block
from deconstruct.activations.shards import Rows
from deconstruct.config import EvaluationConfig
from deconstruct.evaluation.metrics import (
    RECONSTRUCTION,
    firing_rows,
    median,
    median_row,
    rows,
)
from deconstruct.evaluation.others import Held
from deconstruct.evaluation.reconstruction import Fidelity, Typical, fidelity
from deconstruct.sae.autoencoder import SparseAutoencoder

WIDTH, DOCUMENTS, LENGTH = 32, 1000, 20


def half_blind() -> SparseAutoencoder:
    """x = relu(x) - relu(-x) on the first axis, 0.7 x on the others; a latent that never fires."""
    scale = torch.full((WIDTH,), 0.7)
    scale[0] = 1
    eye = torch.eye(WIDTH)
    weights = {
        "W_enc": torch.cat([eye, -eye, torch.zeros(WIDTH, 1)], 1),
        "b_enc": torch.zeros(2 * WIDTH + 1),
        "W_dec": torch.cat([eye * scale, -eye * scale, torch.zeros(1, WIDTH)]),
        "b_dec": torch.zeros(WIDTH),
    }
    return SparseAutoencoder("relu", weights, None)


def drawn(seed: int, planted: bool) -> Tensor:
    """Rows of unit variance; planted: one of a thousand lies 400 along the first axis."""
    x = torch.randn(DOCUMENTS * LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))
    x += torch.linspace(-3, 3, WIDTH)
    if planted:
        x[::1000, 0] += 400
    return x


def judged(x: Tensor, train: Tensor) -> Fidelity:
    """x as documents of 20 tokens, in blocks; the bound is ten medians of the train rows."""
    n = len(x)
    doc_id = np.repeat(np.arange(DOCUMENTS, dtype=np.uint32), LENGTH)
    source = Rows(np.arange(n, dtype=np.uint64), doc_id, doc_id, doc_id)
    parts = [slice(first, first + 4096) for first in range(0, n, 4096)]
    fields = (source.token_index, source.doc_id, source.position, source.token_id)
    blocks = [Block(Rows(*(field[part] for field in fields)), x[part]) for part in parts]
    mean = train.double().mean(0)
    distance = (train.double() - mean).square().sum(1)
    typical = Typical(mean.numpy(), 10 * float(distance.median()))
    return fidelity(Held(blocks), half_blind(), DOCUMENTS, "cpu", typical=typical)


def values(found: Fidelity) -> dict[str, float]:
    config = EvaluationConfig(bootstrap=50)
    told = rows(RECONSTRUCTION, found.documents, config, len(found.ratios))
    told += [median_row(found.ratios, found.places), *firing_rows(found.firings)]
    return {row["metric"]: row["value"] for row in told}


def test_one_outlier_in_a_thousand_moves_fvu_fivefold_and_that_of_typical_tokens_not() -> None:
    before = values(judged(drawn(0, planted=False), drawn(1, planted=False)))
    after = values(judged(drawn(0, planted=True), drawn(1, planted=True)))
    assert before["outlier_share"] == 0
    assert before["fvu_typical"] == pytest.approx(before["fvu"])
    assert before["fvu"] / after["fvu"] > 5
    assert after["fvu_typical"] == pytest.approx(before["fvu_typical"], rel=0.01)
    assert after["nmse_median"] == pytest.approx(before["nmse_median"], rel=0.01)
    assert after["outlier_share"] == pytest.approx(0.001)
    assert after["outlier_variance_share"] > 0.8


def test_they_are_what_their_definitions_say() -> None:
    x, train = drawn(2, planted=True).double(), drawn(3, planted=True).double()
    found = judged(x.float(), train.float())
    out = half_blind()(x.float()).double()
    m = train.mean(0)
    bound = 10 * (train - m).square().sum(1).median()
    near = (x - m).square().sum(1) <= bound
    error, squares = (x - out).square().sum(1), (x - x.mean(0)).square().sum(1)
    own = (x[near] - x[near].mean(0)).square().sum()
    expected = {
        "fvu": error.sum() / squares.sum(),
        "fvu_typical": error[near].sum() / own,
        "outlier_share": (~near).double().mean(),
        "outlier_variance_share": squares[~near].sum() / squares.sum(),
        "nmse_median": np.median(error / (x - m).square().sum(1)),
        "silent_share": 1 / (2 * WIDTH + 1),
    }
    told = values(found)
    for name, value in expected.items():
        assert told[name] == pytest.approx(float(value), rel=1e-5), name
    assert (found.documents["tokens_typical"].sum(), len(found.doc_id)) == (near.sum(), DOCUMENTS)
    ratios: NDArray[np.float64] = (error / (x - m).square().sum(1)).numpy()
    np.testing.assert_allclose(found.ratios, ratios, rtol=1e-4)


def test_fvu_sees_a_constant_error_that_a_variance_of_errors_does_not() -> None:
    """dictionary_learning takes the variance of x - x', which is zero here."""
    sae = half_blind()
    exact = sae.weights() | {"W_dec": sae.W_dec.sign(), "b_dec": torch.full((WIDTH,), 0.5)}
    moved = SparseAutoencoder("relu", exact, None)
    x = drawn(4, planted=False)
    source = Rows(*(np.zeros(len(x), kind) for kind in (np.uint64, np.uint32, *2 * [np.uint32])))
    found = fidelity(Held([Block(source, x)]), moved, 1, "cpu").documents
    assert (x - moved(x)).var(0).sum() == pytest.approx(0, abs=1e-6)
    of_error = WIDTH * 0.25 / float((x.double() - x.double().mean(0)).square().sum(1).mean())
    assert found["error"].sum() / found["variance"].sum() == pytest.approx(of_error, rel=1e-4)


def test_rare_latents_fire_on_fewer_than_ten_tokens() -> None:
    told = {r["metric"]: r["value"] for r in firing_rows(np.array([0, 1, 9, 10, 500]))}
    assert told == {"silent_share": 0.2, "rare_share": 0.6}


def test_the_interval_of_a_median_holds_the_truth_where_tokens_hang_together() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        lengths = draw.integers(5, 60, 80)
        places = np.repeat(np.arange(80), lengths)
        own = np.exp(draw.normal(0, 0.5, 80))[places] * np.exp(draw.normal(0, 1, len(places)))
        found = median(own, places)
        assert found.value == np.median(own)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert 0.92 < held / 400 < 0.98
    assert np.isnan(median(np.zeros(0), np.zeros(0, np.int64)).value)
    assert median(np.ones(3), np.zeros(3, np.int64)).low is None  # one document
