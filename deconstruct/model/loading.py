"""Loads a language model that was found, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_dtype
from deconstruct.model.redrawn import redraw
from deconstruct.model.resolve import ResolvedModel


def load(model: ResolvedModel, device: str) -> torch.nn.Module:
    """Load the causal language model for inference, in its dtype: evaluation mode, no gradients.
    Its weights are drawn anew where its name asks for it (`deconstruct.model.redrawn`).

    Attention runs in `torch`'s fused kernel where the architecture allows it. Raises
    ``ConfigError`` if the folder is no such model, lacks some of its weights, or has changed
    since it was digested.
    """
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
    except Exception as error:  # of `transformers` and the files, each family its own kinds
        raise ConfigError(
            f"model.name = {model.name!r} does not load as a causal language model: "
            f"{first_line(error)}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # `transformers` would go on with random ones
        raise ConfigError(
            f"model.name = {model.name!r}: its safetensors lack {len(missing)} of the weights that "
            f"its config.json asks for, {missing[0]} among them; take a folder that "
            "save_pretrained wrote"
        )
    model.check_unchanged()
    language_model: torch.nn.Module = loaded
    if model.redrawn is not None:
        redraw(language_model, model.redrawn)
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
    """Load the model's tokenizer, a ``transformers`` fast tokenizer.

    Raises ``ConfigError`` if the folder's tokenizer does not load without code of its own, or has
    changed since it was digested.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ConfigError(
            f"model.name = {model.name!r}: its tokenizer does not load ({first_line(error)}); "
            "save it as a fast one, with its tokenizer.json"
        ) from error
    model.check_unchanged()
    return tokenizer


def first_line(error: Exception) -> str:
    """What an error says first, with its kind where that alone would tell nothing."""
    said = str(error).strip().splitlines()
    kind = type(error).__name__
    if not said:
        return kind
    bare = isinstance(error, KeyError | TypeError | AttributeError)
    return f"{kind}: {said[0]}" if bare else said[0]
