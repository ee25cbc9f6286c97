"""Which tokens decoder rows speak for, against the model's own output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import FAMILIES, LAYERS, save_tiny

from deconstruct.artifacts import DataRoot
from deconstruct.common.site import Site
from deconstruct.config import ModelConfig
from deconstruct.features.logit_lens import TOP, feature_logits
from deconstruct.model.hooks import replacing
from deconstruct.model.loading import load
from deconstruct.model.resolve import resolve


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model_whose_last_block_puts_out_the_decoder_row(
    tmp_path: Path, family: str
) -> None:
    folder = save_tiny(family, tmp_path / family)
    resolved = resolve(DataRoot(tmp_path / "home"), ModelConfig(name=str(folder), dtype="float32"))
    model = load(resolved, "cpu")
    W_dec = torch.randn(9, resolved.d_model, generator=torch.Generator().manual_seed(0))
    W_dec[4] = 0
    tokens = {i: f" t{i}" for i in range(3, 60, 2)}
    table = feature_logits(model, W_dec, tokens).to_pylist()

    site = Site(LAYERS - 1, "resid_post")
    with torch.no_grad(), replacing(model, site, lambda x: W_dec[None].to(x.dtype)):
        whole = model(input_ids=torch.ones(1, 9, dtype=torch.int64)).logits[0].double()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:  # Gemma 2 bends its logits at the very end; ours are those before
        whole = cap * torch.atanh(whole / cap)
    logits = whole[:, sorted(tokens)]
    logits -= logits.mean(1, keepdim=True)
    assert len(table) == 8 * 2 * TOP
    assert [row["latent"] for row in table] == sorted(row["latent"] for row in table)
    for latent in (0, 3, 8):
        for direction, sign in (("promoted", -1), ("suppressed", 1)):
            rows = [r for r in table if (r["latent"], r["direction"]) == (latent, direction)]
            order = torch.argsort(sign * logits[latent])[:TOP]
            assert [row["token_id"] for row in rows] == [sorted(tokens)[i] for i in order]
            assert [row["token"] for row in rows] == [tokens[row["token_id"]] for row in rows]
            assert [row["rank"] for row in rows] == list(range(1, TOP + 1))
            assert [row["logit"] for row in rows] == pytest.approx(
                logits[latent, order].tolist(), rel=1e-3, abs=1e-5
            )


def test_few_tokens_and_no_direction_at_all(tiny_model: Path, root: DataRoot) -> None:
    model = load(resolve(root, ModelConfig(name=str(tiny_model), dtype="float32")), "cpu")
    W_dec = torch.ones(2, 32)
    assert len(feature_logits(model, W_dec, {5: "a", 6: "b"})) == 2 * 2 * 2
    assert len(feature_logits(model, 0 * W_dec, {5: "a", 6: "b"})) == 0
