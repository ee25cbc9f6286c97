"""Loads a language model that was found, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_dtype
from deconstruct.model.resolve import ResolvedModel


def load(model: ResolvedModel, device: str) -> torch.nn.Module:
    """Load the causal language model for inference, in its dtype: evaluation mode, no gradients.

    Attention runs in `torch`'s fused kernel where the architecture allows it. Raises
    ``ConfigError`` if the folder is no such model, or lacks some of its weights.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            loaded, report = AutoModelForCausalLM.from_pretrained(
                model.folder,
                dtype=pick_dtype(model.dtype, device),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"model.name = {model.name!r} does not load as a causal language model: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # `transformers` would go on with random ones
        raise ConfigError(
            f"model.name = {model.name!r}: its safetensors lack {len(missing)} of the weights that "
            f"its config.json asks for, {missing[0]} among them; take a folder that "
            "save_pretrained wrote"
        )
    language_model: torch.nn.Module = loaded
    return language_model.to(device).eval().requires_grad_(False)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the bars that `transformers` draws for moments of loading; ours tell of stages."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(model: ResolvedModel) -> Any:
    """Load the model's tokenizer, a ``transformers`` fast tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        model.folder, local_files_only=True, trust_remote_code=False
    )
