"""Hook sites in Hugging Face decoders: read activations, stop early, put something in their place.

A block computes ``resid_post = resid_pre + attn_out + mlp_out`` (GPT-NeoX with parallel residuals
too; OPT-350M, which normalises after adding, is the exception). Families differ in names alone:
the table below says where each one's blocks are and which module's output is added to the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from deconstruct.errors import ConfigError
from deconstruct.site import Site

BLOCKS = ("transformer.h", "gpt_neox.layers", "model.layers", "model.decoder.layers")
# In this order: Gemma 2 and 3 normalise what attention and MLP give before they add it.
ATTN_OUT = ("attn", "attention", "self_attn")
MLP_OUT = ("mlp", "fc2")

Replace = Callable[[Tensor], Tensor]


class _LastSiteReached(Exception):
    """Ends a forward pass after the last site that is wanted."""


@torch.inference_mode()
def capture(model: nn.Module, input_ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Activations at ``sites`` in one forward pass that stops after the last of them.

    input_ids: int64 [batch, length], without padding. Returns site -> [batch, length, d_in] in
    the model's dtype. Raises ``ConfigError`` for an architecture that we can't hook.
    """
    found: dict[Site, Tensor] = {}

    def note(site: Site) -> Replace:
        def keep(activation: Tensor) -> Tensor:
            found[site] = activation
            if len(found) == len(sites):
                raise _LastSiteReached
            return activation

        return keep

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(replacing(model, site, note(site)))
        with suppress(_LastSiteReached):
            model(input_ids=input_ids, use_cache=False)
    return {site: found[site] for site in sites}


@contextmanager
def replacing(model: nn.Module, site: Site, replace: Replace) -> Iterator[None]:
    """Within the block, every forward pass goes on with ``replace(activation)`` at ``site``.

    The activation is [batch, length, d_in]; ``replace`` returns one of its shape and dtype.
    """
    block = blocks(model)[site.layer]
    shape: list[int] = []

    def note_shape(stream: Tensor) -> Tensor:
        shape[:] = stream.shape
        return stream

    def in_shape(activation: Tensor) -> Tensor:
        """OPT's MLP works on batch and length as one axis."""
        return replace(activation.reshape(shape)).reshape(activation.shape)

    before = replace if site.hook == "resid_pre" else note_shape
    handles = [block.register_forward_pre_hook(_before(before), with_kwargs=True)]
    if site.hook == "resid_post":
        handles.append(block.register_forward_hook(_after(replace)))
    elif site.hook != "resid_pre":
        handles.append(_part(block, site).register_forward_hook(_after(in_shape)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks(model: nn.Module) -> nn.ModuleList:
    """The model's transformer blocks, in order."""
    for path in BLOCKS:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ConfigError(
        f"model: no blocks found in a {type(model).__name__}; we look for {', '.join(BLOCKS)}"
    )


def _part(block: nn.Module, site: Site) -> nn.Module:
    """The module of a block whose output is what attention or MLP adds to the stream."""
    attention = site.hook == "attn_out"
    names: tuple[str, ...] = ATTN_OUT if attention else MLP_OUT
    if hasattr(block, "pre_feedforward_layernorm"):
        names = ("post_attention_layernorm",) if attention else ("post_feedforward_layernorm",)
    for name in names:
        part = getattr(block, name, None)
        if isinstance(part, nn.Module):
            return part
    raise ConfigError(
        f"activations.sites: {str(site)!r} can't be hooked in a {type(block).__name__}, which has "
        f"none of {', '.join(names)}; resid_pre and resid_post work in every family"
    )


def _before(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (replace(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": replace(kwargs["hidden_states"])}

    return hook


def _after(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        return replace(output)

    return hook
