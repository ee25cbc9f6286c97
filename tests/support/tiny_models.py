"""Small randomly initialised checkpoints of the families we support, saved to local folders.

They are real `transformers` models with a real fast tokenizer, made in code: no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

LAYERS = 4
WIDTH = 32

_SIZES = {
    "gpt2": {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": 4, "n_positions": 256},
    "gpt_neox": {
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
    "opt": {
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "dropout": 0.0,
    },
}
_LLAMA_LIKE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
FAMILIES = (
    "gpt2",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "olmo2",
    "glm4",
    "opt",
)

_TEXT = [
    "the market rose as the bank cut its rates and shares went up in london",
    "the team won the match after a late goal and the coach praised the players",
    "ministers said the election would be held in may and the party agreed",
    "the film took the prize and the actor thanked the audience in the hall",
    "new software lets phones read the web faster, engineers said on Tuesday",
] * 4


def tiny_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens; with ``bos`` it begins every text with ``<s>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save_tiny(
    family: str,
    folder: Path,
    seed: int = 0,
    layers: int = LAYERS,
    changes: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """Save a 4-layer, 32-wide model of ``family`` and its tokenizer; returns ``folder``.

    changes: to the model's configuration, such as ``{"use_parallel_residual": False}``.
    """
    torch.manual_seed(seed)
    sizes: dict[str, object] = dict(_SIZES.get(family, _LLAMA_LIKE))
    sizes["n_layer" if family == "gpt2" else "num_hidden_layers"] = layers
    sizes |= changes
    tokenizer = tiny_tokenizer(bos=family.startswith(("gemma", "llama", "opt")))
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **(ids | sizes))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # the usual 0.02 leaves attention and MLPs next to silent
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name and "wte" not in name:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gpt2_small(folder: Path, seed: int = 0) -> Path:
    """GPT-2 at its full size of 124 million parameters, with random weights."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
