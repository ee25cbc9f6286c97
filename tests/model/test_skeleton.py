"""Which architectures can be hooked is known from config.json, without weights, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.tiny_models import FAMILIES
from transformers import AutoConfig

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.model.kinds import named
from deconstruct.model.resolve import TESTED, ResolvedModel
from deconstruct.model.skeleton import check_hooks

STREAM = (Site(0, "resid_pre"), Site(1, "resid_post"))
PARTS = (Site(1, "attn_out"), Site(1, "mlp_out"))


def written(folder: Path, settings: Mapping[str, object]) -> ResolvedModel:
    """A folder of which only config.json is there."""
    (folder / "config.json").write_text(json.dumps(settings))
    return ResolvedModel("./mine", folder, "", "", "float32")


def of_family(folder: Path, family: str, **settings: object) -> ResolvedModel:
    AutoConfig.for_model(family, **settings).save_pretrained(folder)
    return ResolvedModel(f"./{family}", folder, "", "", "float32")


LAYERS = {"num_hidden_layers": 2}
GOOD = {
    "mistral": LAYERS, "mixtral": LAYERS, "phi": LAYERS, "phi3": LAYERS | {"pad_token_id": 0},
    "stablelm": LAYERS, "cohere": LAYERS, "persimmon": LAYERS, "starcoder2": LAYERS,
    "gptj": {"n_layer": 2}, "codegen": {"n_layer": 2}, "xglm": {"num_layers": 2},
    "openai-gpt": {"n_layer": 2},
}  # fmt: skip


@pytest.mark.parametrize("family", GOOD)
def test_untested_families_whose_blocks_are_as_ours(family: str, tmp_path: Path) -> None:
    assert family not in TESTED
    check_hooks(of_family(tmp_path, family, **GOOD[family]), [*STREAM, *PARTS])


def test_what_is_tested_is_what_is_not_tried() -> None:
    assert set(FAMILIES) == TESTED


STREAMS = r"passes on \[.*\], not one residual stream"
BAD = {
    "bert": ({}, "no blocks found in a BertLMHeadModel"),
    "roberta": ({}, "no blocks found in a RobertaForCausalLM"),
    "mamba": ({}, "no blocks found in a MambaForCausalLM"),
    "rwkv": ({}, "no blocks found in a RwkvForCausalLM"),
    "biogpt": ({}, "no blocks found in a BioGptForCausalLM"),
    "deepseek_v4": ({}, f"DeepseekV4DecoderLayer can't be hooked: it {STREAMS}"),
    "gemma3n_text": ({}, f"Gemma3nTextDecoderLayer can't be hooked: it {STREAMS}"),
    "t5": ({}, "a 't5' model is no causal language model"),
}


@pytest.mark.parametrize("family", BAD)
def test_families_that_can_not_be_hooked(family: str, tmp_path: Path) -> None:
    settings, message = BAD[family]
    with pytest.raises(ConfigError, match=message):
        check_hooks(of_family(tmp_path, family, **settings), STREAM)


def test_a_part_that_a_block_has_not(tmp_path: Path) -> None:
    bloom = of_family(tmp_path, "bloom", n_layer=2)
    check_hooks(bloom, STREAM)
    with pytest.raises(ConfigError, match=r"'1\.mlp_out' can't be hooked in a BloomBlock"):
        check_hooks(bloom, [Site(1, "mlp_out")])


def test_code_of_its_own_and_names_that_nobody_knows(tmp_path: Path) -> None:
    theirs = {"model_type": "theirs", "num_hidden_layers": 2}
    with pytest.raises(ConfigError, match=r"model_type 'theirs' is none that transformers 5\."):
        check_hooks(written(tmp_path, theirs), STREAM)
    code = theirs | {"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}}
    with pytest.raises(ConfigError, match="a 'theirs' model runs code of its own"):
        check_hooks(written(tmp_path, code), STREAM)
    odd = {"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": "wide"}
    with pytest.raises(ConfigError, match="can't build a 'mistral' model of its config"):
        check_hooks(written(tmp_path, odd), STREAM)


def test_kinds_are_those_that_transformers_has() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    assert named("CONFIG_MAPPING_NAMES") == set(configuration_auto.CONFIG_MAPPING_NAMES)
    table = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    assert named(table) == set(getattr(modeling_auto, table))
