"""Changing a latent: exactly what was planted, and nothing where it is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_models import LAYERS, WIDTH, save_tiny

from deconstruct.causes.experiment import alike
from deconstruct.causes.steering import Steering, Trial
from deconstruct.common.site import Site
from deconstruct.model.hooks import capture, replacing
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.texts import Text
from deconstruct.sae.autoencoder import SparseAutoencoder

LAST = Site(LAYERS - 1, "resid_post")
EARLY = Site(1, "resid_post")


def relu(seed: int = 0, edge: float = 0.0) -> SparseAutoencoder:
    """Eight latents of random directions; the last never fires."""
    draw = torch.Generator().manual_seed(seed)
    b_enc = torch.full((8,), -edge)
    b_enc[7] = -1e6
    weights = {
        "W_enc": torch.randn(WIDTH, 8, generator=draw),
        "b_enc": b_enc,
        "W_dec": torch.randn(8, WIDTH, generator=draw),
        "b_dec": torch.randn(WIDTH, generator=draw),
    }
    return SparseAutoencoder("relu", weights, None)


def text(seed: int = 0, length: int = 20) -> Text:
    ids = np.random.default_rng(seed).integers(3, 290, length)
    recorded = np.ones(length, bool)
    recorded[:2] = False
    return Text(seed, ids.astype(np.int64), recorded)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    folder = save_tiny("gpt2", tmp_path_factory.mktemp("steered") / "gpt2")
    return load(ResolvedModel("gpt2", Path(folder), "", "", "float32"), "cpu")


def effects(steering: Steering, trials: list[Trial], factor: float) -> list:
    return steering.effects(trials, factor, lambda n=1, **_: None)


def test_a_planted_linear_head_moves_its_logit_alone(gpt2: torch.nn.Module) -> None:
    """Without a norm, and with a latent that writes what one token's row alone reads."""
    rows, norm = gpt2.lm_head.weight.shape[0], gpt2.transformer.ln_f
    head, gpt2.transformer.ln_f = gpt2.lm_head, torch.nn.Identity()
    gpt2.lm_head = torch.nn.Linear(WIDTH, rows, bias=False).requires_grad_(False)
    gpt2.lm_head.weight.zero_()
    gpt2.lm_head.weight[77, 5] = 1.5
    gpt2.lm_head.weight[78, 6] = 1.0
    sae = relu()
    sae.W_dec[3] = 0
    sae.W_dec[3, 5] = 2.0  # w . U of token 77 is 3
    try:
        one = text()
        x = capture(gpt2, torch.from_numpy(one.ids)[None], [LAST])[LAST][0]
        a = sae.encode(x)[:, 3].numpy()
        here = (a > 0) & one.recorded
        here[-1] = False
        assert here.sum() > 3
        for factor in (0.0, 2.5):
            [found] = effects(Steering(gpt2, LAST, sae), [Trial(3, [one], logits=True)], factor)
            assert found.firings == here.sum()
            assert found.texts == 1
            expected = (factor - 1) * a[here].mean() * 3
            assert found.logits[77] == pytest.approx(expected, abs=1e-5)
            assert (np.delete(found.logits, 77) == 0).all()
            assert found.kl > 0
            assert (found.kl_later == 0) == (found.later > 0)  # no later block carries it on
    finally:
        gpt2.lm_head, gpt2.transformer.ln_f = head, norm


def test_a_silent_latent_changes_nothing_to_the_last_bit(gpt2: torch.nn.Module) -> None:
    [found] = effects(Steering(gpt2, EARLY, relu()), [Trial(7, [text()], logits=True)], 0.0)
    assert (found.texts, found.firings, found.later) == (0, 0, 0)
    assert (found.logits == 0).all()
    assert np.isnan(found.kl)
    [same] = effects(Steering(gpt2, EARLY, relu()), [Trial(2, [text()], logits=True)], 1.0)
    assert same.firings > 0
    assert (same.kl, same.loss, same.kl_later) == (0, 0, 0)
    assert (same.logits == 0).all()


@pytest.mark.parametrize("source", [None, Site(0, "resid_post")])
def test_figures_are_those_of_a_pass_made_by_hand(
    gpt2: torch.nn.Module, source: Site | None
) -> None:
    sae, latent, factor = relu(edge=0.3), 2, 3.0
    texts = [text(1, 20), text(2, 31)]
    steering = Steering(gpt2, EARLY, sae, source)
    [found] = effects(steering, [Trial(latent, texts, logits=True)], factor)
    kl, loss, later, moved = [], [], [], []
    for one in texts:
        ids = torch.from_numpy(one.ids)[None]
        where = source or EARLY
        a = sae.encode(capture(gpt2, ids, [where])[where][0])[:, latent]
        a[~torch.from_numpy(one.recorded)] = 0
        shift = (factor - 1) * a[:, None] * sae.W_dec[latent]
        with replacing(gpt2, EARLY, lambda x, shift=shift: x + shift):
            changed = gpt2(input_ids=ids).logits[0, :-1]
        clean = gpt2(input_ids=ids).logits[0, :-1]
        p, q = clean.log_softmax(-1), changed.log_softmax(-1)
        each = (p.exp() * (p - q)).sum(-1)
        fires = (a > 0)[:-1]
        after = (fires.cumsum(0) > 0) & ~fires
        kl += each[fires].tolist()
        later += each[after].tolist()
        loss += (p - q)[torch.arange(len(p)), ids[0, 1:]][fires].tolist()
        moved.append((changed - clean)[fires])
    assert found.kl == pytest.approx(np.mean(kl), rel=1e-4)
    assert found.loss == pytest.approx(np.mean(loss), rel=1e-4, abs=1e-7)
    assert found.kl_later == pytest.approx(np.mean(later), rel=1e-3)
    assert (found.firings, found.later) == (len(kl), len(later))
    assert found.logits == pytest.approx(torch.cat(moved).mean(0).numpy(), abs=1e-5)


def test_controls_are_nearest_in_density_and_norm() -> None:
    density = np.array([0.01, 0.011, 0.5, 0.009, 0.0, 0.012, 0.01])
    usable = density > 0
    usable[5] = False
    norm = np.ones(7)
    assert alike(density, norm, usable, 0, 3) == [6, 1, 3]
    norm[6] = 5.0
    assert alike(density, norm, usable, 0, 2) == [1, 3]
    assert sorted(alike(density, norm, usable, 0, 99)) == [1, 2, 3, 6]
