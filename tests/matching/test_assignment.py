"""Rows of dictionaries paired one to one: what was planted is found, and chance is chance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from deconstruct.common.errors import DataError
from deconstruct.matching import assignment
from deconstruct.matching.assignment import NONE, assign, calibrated, random_rows


def normal(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


def test_a_permuted_copy_is_found_whole_and_to_the_last_bit() -> None:
    rows = normal(300, 40, 0) * np.linspace(0.1, 9, 300, dtype=np.float32)[:, None]
    order = np.random.default_rng(1).permutation(300)
    found = assign(rows, rows[order])
    assert (order[found.partner] == np.arange(300)).all()
    assert (found.cosine == 1).all()
    assert (found.pw_mcc, found.share_over) == (1, 1)
    assert found.max_cosine == pytest.approx(1, abs=1e-12)
    assert found.max_cosine.max() <= 1


def test_sixty_four_planted_directions_are_recovered() -> None:
    """Two noisy copies of them, in another order, one among rows of no meaning."""
    planted = normal(64, 256, 0)
    order = np.random.default_rng(1).permutation(64)
    own = planted + 0.2 * normal(64, 256, 2)
    other = np.concatenate([(planted + 0.2 * normal(64, 256, 3))[order], normal(64, 256, 4)])
    found = assign(own, other)
    assert (order[found.partner] == np.arange(64)).all()
    assert found.pw_mcc > 0.95
    null = np.mean([one.pw_mcc for one in random_rows(own.shape, len(other), 0)])
    assert null < 0.2
    assert calibrated(found.pw_mcc, null) > 0.94


@pytest.mark.parametrize("shape", [(512, 512), (300, 700)])
def test_random_dictionaries_are_calibrated_to_zero(shape: tuple[int, int]) -> None:
    own, other = normal(shape[0], 64, 7), normal(shape[1], 64, 8)
    null = list(random_rows(own.shape, len(other), 0))
    found = assign(own, other)
    for name in ("pw_mcc", "mean_max_cosine", "share_over"):
        chance = float(np.mean([getattr(one, name) for one in null]))
        assert abs(calibrated(getattr(found, name), chance)) < 0.02
    assert np.mean([one.mean_max_cosine for one in null]) > 0.3  # which is why there is a null


@pytest.mark.parametrize("sizes", [(6, 6), (4, 7), (7, 4)])
def test_pairs_are_one_to_one_and_the_best_of_all(sizes: tuple[int, int]) -> None:
    own, other = normal(sizes[0], 5, 1), normal(sizes[1], 5, 2)
    found = assign(own, other)
    paired = found.partner != NONE
    assert paired.sum() == min(sizes)
    assert len(set(found.partner[paired])) == min(sizes)
    assert (np.isnan(found.cosine) == ~paired).all()
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (own, other)]
    cosine = unit[0] @ unit[1].T
    assert found.max_cosine == pytest.approx(cosine.max(1), abs=1e-6)
    assert found.cosine[paired] == pytest.approx(cosine[paired, found.partner[paired]], abs=1e-6)
    small = cosine if sizes[0] <= sizes[1] else cosine.T
    best = max(
        sum(small[i, j] for i, j in enumerate(order))
        for order in permutations(range(small.shape[1]), small.shape[0])
    )
    assert np.nansum(found.cosine) == pytest.approx(best, abs=1e-5)


def test_the_sign_of_a_cosine_counts() -> None:
    rows = normal(50, 400, 0)
    assert assign(rows, -rows).pw_mcc < 0.2


def test_rows_that_do_not_fit_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="of 5 numbers and of 6 have no cosine"):
        assign(normal(3, 5, 0), normal(3, 6, 0))
    monkeypatch.setattr(assignment, "MOST_COSINES", 100)
    with pytest.raises(DataError, match="11 and 10 living latents"):
        assign(normal(11, 5, 0), normal(10, 5, 0))


def test_the_null_is_the_same_each_time_and_has_pairs_enough() -> None:
    draws = [[one.pw_mcc for one in random_rows((600, 20), 700, 3)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(draws[0]) == 14
    assert len(set(draws[0])) == 14
    assert len(list(random_rows((20, 5), 20, 0))) == assignment.MOST_DRAWS
