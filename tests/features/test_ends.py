"""The logit lens over ends that are more than a norm and a linear map, against the models' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.features.logit_lens import TOP, feature_logits
from deconstruct.model.end import end_of
from deconstruct.model.hooks import blocks, replacing

WIDTH, WORDS = 32, 120
_LLAMA_LIKE = {
    "num_hidden_layers": 2, "hidden_size": WIDTH, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
_GPT_LIKE = {"n_layer": 2, "n_embd": WIDTH, "n_head": 4, "n_positions": 64}
ENDS: Mapping[str, Mapping[str, object]] = {
    "gpt2": _GPT_LIKE,  # a norm with a bias
    "gpt_neox": _LLAMA_LIKE,
    "phi": _LLAMA_LIKE,  # final_layernorm, and an unembedding with a bias
    "phi3": _LLAMA_LIKE | {"pad_token_id": 0},
    "persimmon": _LLAMA_LIKE,
    "stablelm": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "gptj": _GPT_LIKE | {"rotary_dim": 4},  # a bias
    "codegen": _GPT_LIKE | {"rotary_dim": 4},
    "cohere": _LLAMA_LIKE | {"logit_scale": 0.25},
    "granite": _LLAMA_LIKE | {"logits_scaling": 8.0},
    "gemma2": _LLAMA_LIKE | {"head_dim": 8, "final_logit_softcapping": 5.0},
    "xglm": {
        "num_layers": 2, "d_model": WIDTH, "ffn_dim": 48, "attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "openai-gpt": _GPT_LIKE,  # nothing between the last block and the unembedding
    "opt": _LLAMA_LIKE | {
        "word_embed_proj_dim": 16, "ffn_dim": 48, "do_layer_norm_before": False,
    },
}  # fmt: skip


def tiny(family: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    ids = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **(ids | dict(ENDS[family]) | changes))
    model: nn.Module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # weights as after training: no bias is zero, no factor one
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def says(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The model's own logits where its last block puts out ``rows`` [n, WIDTH], before bending."""
    site = Site(len(blocks(model)) - 1, "resid_post")
    with torch.no_grad(), replacing(model, site, lambda x: rows[None].to(x.dtype)):
        ids = torch.ones(1, len(rows), dtype=torch.int64)
        logits = model(input_ids=ids, use_cache=False).logits[0].double()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.atanh(logits / cap) if cap else logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ENDS)
def test_what_a_direction_adds_to_the_model_s_own_logits(family: str) -> None:
    model = tiny(family)
    W_dec = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    tokens = {i: f" t{i}" for i in range(3, WORDS, 2)}
    expected = says(model, W_dec) - says(model, torch.zeros(1, WIDTH))
    expected = expected[:, sorted(tokens)]
    expected -= expected.mean(1, keepdim=True)
    rows = feature_logits(model, W_dec, tokens).to_pylist()
    assert len(rows) == 6 * 2 * TOP
    for latent in range(6):
        mine = [r for r in rows if r["latent"] == latent and r["direction"] == "promoted"]
        order = torch.argsort(-expected[latent])[:TOP]
        assert [r["logit"] for r in mine] == pytest.approx(
            expected[latent, order].tolist(), rel=2e-3, abs=1e-4
        )
        assert [r["token_id"] for r in mine] == [sorted(tokens)[i] for i in order]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "mistral"])
def test_what_a_direction_promotes_its_opposite_suppresses(family: str, dtype: torch.dtype) -> None:
    """Also where the last norm has a bias far larger than what it makes of a direction."""
    changes = {"do_layer_norm_before": True, "word_embed_proj_dim": WIDTH}
    model = tiny(family, **changes if family == "opt" else {})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") and weight.shape == (WIDTH,):
                weight.add_(20 * torch.randn_like(weight))
    model = model.to(dtype)
    W_dec = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1))
    tokens = {i: f" t{i}" for i in range(3, WORDS)}

    def found(rows: torch.Tensor, direction: str) -> list[tuple[int, int, float]]:
        return [
            (row["latent"], row["token_id"], abs(row["logit"]))
            for row in feature_logits(model, rows, tokens).to_pylist()
            if row["direction"] == direction
        ]

    for one, other in (("promoted", "suppressed"), ("suppressed", "promoted")):
        ours, theirs = found(W_dec, one), found(-W_dec, other)
        assert [row[:2] for row in ours] == [row[:2] for row in theirs]
        assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=1e-4)


def _times(output: Any, factor: float) -> Any:
    output.logits = factor * output.logits
    return output


@pytest.mark.parametrize("family", ["gpt2", "cohere", "gemma2", "mistral"])
def test_the_end_is_found_in_bfloat16_too(family: str) -> None:
    exact = end_of(tiny(family))
    rounded = end_of(tiny(family).bfloat16())
    assert rounded.scale == pytest.approx(exact.scale, rel=1e-2)
    assert (exact.scale == 1) is (family != "cohere")


def test_an_end_that_is_something_else_is_refused_by_name() -> None:
    model = tiny("mistral")
    forward = model.model.forward

    def doubled(*args: object, **kwargs: object) -> object:
        found = forward(*args, **kwargs)
        found.last_hidden_state = 2 * found.last_hidden_state  # by no module
        return found

    model.model.forward = doubled
    with pytest.raises(ConfigError, match="no logit lens for a MistralForCausalLM: what follows"):
        feature_logits(model, torch.ones(2, WIDTH), {5: "a", 6: "b"})

    model = tiny("mistral").bfloat16()
    model.forward = lambda forward=model.forward, **kwargs: _times(forward(**kwargs), 0.95)
    assert end_of(model).scale == pytest.approx(0.95, rel=1e-2)

    model = tiny("mistral")
    model.lm_head.register_forward_hook(lambda module, args, output: output.square())
    with pytest.raises(ConfigError, match="MistralForCausalLM: its unembedding is no linear map"):
        end_of(model)
