"""Names of hooks as TransformerLens and `transformers` have them, and the sites that they are."""

from __future__ import annotations

import pytest

from deconstruct.sae.files import tensor_lens_name
from deconstruct.sae.formats.sites import GAIN, RAW, place_of


@pytest.mark.parametrize(
    ("hook", "site", "but"),
    [
        ("blocks.12.hook_resid_post", "12.resid_post", ""),
        ("blocks.0.hook_resid_pre", "0.resid_pre", ""),
        ("blocks.3.hook_mlp_out", "3.mlp_out", ""),
        ("blocks.3.mlp.hook_in", "3.mlp_in", ""),
        ("blocks.3.ln2.hook_normalized", "3.mlp_in", GAIN),
        ("model.layers.9.output", "9.resid_post", ""),
        ("model.layers.9", "9.resid_post", ""),
        ("model.layers.9.pre_feedforward_layernorm.output", "9.mlp_in", ""),
        ("model.layers.9.post_feedforward_layernorm.output", "9.mlp_out", ""),
        ("layers.5.mlp", "5.mlp_out", RAW),
        ("layers.5.mlp.input", "5.mlp_in", ""),
        ("gpt_neox.layers.3", "3.resid_post", ""),
        ("transformer.h.3.attn", "3.attn_out", RAW),
    ],
)
def test_sites_of_hooks(hook: str, site: str, but: str) -> None:
    place = place_of(hook)
    assert place is not None
    assert (str(place.site), place.but) == (site, but)


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.3.attn.hook_z", "blocks.3.hook_resid_mid", "blocks.3.hook_mlp_in", "hook_embed",
        "model.layers.3.self_attn.o_proj.input", "blocks.x.hook_resid_post", "lm_head", "",
    ],
)  # fmt: skip
def test_hooks_at_none_of_our_sites(hook: str) -> None:
    assert place_of(hook) is None


@pytest.mark.parametrize("hook", ["resid_pre", "resid_post", "mlp_out", "attn_out", "mlp_in"])
def test_our_own_names_come_back(hook: str) -> None:
    place = place_of(tensor_lens_name(4, hook))
    assert place is not None
    assert (str(place.site), place.but) == (f"4.{hook}", "")
