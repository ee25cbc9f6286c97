"""First-letter absorption: planted, absent, and word by word as the formula has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconstruct.causes.absorption import absorbed, main_latents
from deconstruct.causes.first_letter import judged
from deconstruct.causes.words import Words
from deconstruct.sae.autoencoder import SparseAutoencoder

WIDTH, ABSORBED = 16, 8
LETTERS = "abcd"
PARTS = ("fit", "chosen_on", "test")


def by_hand(
    a: np.ndarray, decoder: np.ndarray, u: np.ndarray, P: float, main: list[int]
) -> tuple[float, bool]:
    """One word, as `deconstruct.causes.absorption` tells it."""
    u = u / np.linalg.norm(u)
    p = [a[i] * (decoder[i] @ u) for i in range(len(a))]
    cos = [decoder[i] @ u / np.linalg.norm(decoder[i]) for i in range(len(a))]
    M = sum(p[i] for i in main)
    others = sorted(p[i] for i in range(len(a)) if i not in main and cos[i] >= 0.1 and p[i] > 0)
    A = sum(others[-3:])
    top = int(np.argmax(p))
    full = all(a[i] < 1e-8 for i in main) and P >= 0 and cos[top] >= 0.025 and p[top] / P >= 0.4
    if M >= P or A / P < 0.4:
        return 0.0, full
    if M <= 0:
        return 1.0, full
    taken = min(A, P - M)
    return taken / (taken + M), full


def test_the_formula_word_by_word() -> None:
    draw = np.random.default_rng(0)
    decoder, u = draw.normal(size=(12, 6)), draw.normal(size=6)
    a = np.where(draw.random((400, 12)) < 0.3, draw.exponential(1.0, (400, 12)), 0)
    P = draw.normal(2.0, 2.0, 400)
    main = [0, 4]
    found = absorbed(a, decoder, u, P, main)
    expected = [by_hand(row, decoder, u, p, main) for row, p in zip(a, P, strict=True)]
    assert found.fraction == pytest.approx([one for one, _ in expected], abs=1e-12)
    assert found.full.tolist() == [bool(one) for _, one in expected]
    assert 0 < (found.fraction > 0).mean() < 1
    assert len({0.0, 1.0} & set(found.fraction)) == 2
    assert ((found.fraction > 0) & (found.fraction < 1)).any()
    assert found.full.any()


def test_a_planted_absorbing_latent_has_all_of_it_and_without_one_there_is_none() -> None:
    u = np.eye(4)[0]
    decoder = np.array([[1, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0]], float)
    carried = np.array([[2.0, 0, 1.0]] * 5)  # the main latent has the letter
    taken_in = np.array([[0, 4.0, 1.0]] * 5)  # the word's latent has it
    P = np.full(5, 2.0)
    none, all_ = (absorbed(a, decoder, u, P, [0]) for a in (carried, taken_in))
    assert (none.fraction == 0).all()
    assert not none.full.any()
    assert (all_.fraction == 1).all()
    assert all_.full.all()
    lost = absorbed(np.array([[0, 0, 1.0]]), decoder, u, P[:1], [0])  # nobody has it
    assert (lost.fraction[0], lost.full[0]) == (0, False)
    longer = absorbed(carried / 3, 3 * decoder, 7 * u, P, [0])
    assert (longer.fraction == none.fraction).all()


def test_main_latents_are_as_many_as_are_worth_it() -> None:
    draw = np.random.default_rng(0)
    is_letter = np.arange(400) % 4 == 0
    halves = draw.random(400) < 0.5
    a = (draw.random((400, 6)) < 0.05).astype(float)
    a[:, 1] = is_letter
    assert main_latents((a, is_letter), (a, is_letter)) == [1]
    a[:, 1], a[:, 3] = is_letter & halves, is_letter & ~halves
    assert sorted(main_latents((a, is_letter), (a, is_letter))) == [1, 3]


def planted(absorbs: bool) -> SparseAutoencoder:
    """A latent a letter, and one of another kind of word; where it absorbs, that one takes "a" in
    and silences the letter's own."""
    W_enc, W_dec = torch.zeros(WIDTH, 5), torch.zeros(5, WIDTH)
    for place in range(4):
        W_enc[place, place] = W_dec[place, place] = 1
    W_dec[4, ABSORBED] = 1
    W_enc[ABSORBED, 4] = 1
    if absorbs:
        W_enc[ABSORBED, 0] = -5
        W_dec[4, 0] = 1.5
    weights = {
        "W_enc": W_enc, "b_enc": torch.full((5,), -0.5), "W_dec": W_dec,
        "b_dec": torch.zeros(WIDTH),
    }  # fmt: skip
    return SparseAutoencoder("relu", weights, None)


def words(count: int, seed: int) -> Words:
    """Every fifth word is of the kind that a latent of its own stands for."""
    draw = np.random.default_rng(seed)
    letters = np.array([LETTERS[place % 4] for place in range(count)])
    x = 0.05 * draw.normal(size=(count, WIDTH))
    x[np.arange(count), np.arange(count) % 4] += 3
    x[::5, ABSORBED] += 3
    return Words([f"{letter}x" for letter in letters], letters, x.astype(np.float32))


@pytest.mark.parametrize("absorbs", [True, False])
def test_the_letters_of_planted_words(absorbs: bool) -> None:
    parts = {"fit": words(400, 0), "chosen_on": words(200, 1), "test": words(200, 2)}
    found = judged(parts, planted(absorbs))
    assert "".join(one.letter for one in found) == LETTERS
    assert all(one.probe_f1 > 0.95 for one in found)
    first, *others = found
    assert first.main == (0,)
    assert first.recall == pytest.approx(0.8 if absorbs else 1, abs=0.03)
    assert first.fraction == pytest.approx(0.2 if absorbs else 0, abs=0.03)
    assert first.full == pytest.approx(0.2 if absorbs else 0, abs=0.03)
    for one in others:
        assert (one.fraction, one.full, one.recall) == (0, 0, 1)
        assert one.main_f1 > 0.95


def test_letters_that_no_probe_reads_are_not_judged() -> None:
    draw = np.random.default_rng(0)
    noise = {
        part: Words(of.words, of.letters, draw.normal(size=of.x.shape).astype(np.float32))
        for part, of in zip(PARTS, (words(200, 0), words(200, 1), words(200, 2)), strict=True)
    }
    assert judged(noise, planted(True)) == ()
