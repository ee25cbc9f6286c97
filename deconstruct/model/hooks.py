"""Hook sites in Hugging Face decoders: read activations, stop early, put something in their place.

A block computes ``resid_post = resid_pre + attn_out + mlp_out`` (GPT-NeoX with parallel residuals
too; OPT-350M, which normalises after adding, is the exception). Families differ in names alone:
the tables below say where each one's blocks are and which module's output is added to the stream.
`check_parts` makes sure of it for a model at hand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from threading import local
from typing import Any

import torch
from torch import Tensor, nn

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site

BLOCKS = (
    "transformer.h",
    "gpt_neox.layers",
    "model.layers",
    "model.decoder.layers",
    "model.language_model.layers",
)
PARTS = (
    # Gemma 2 and 3, OLMo 2 and GLM 4 normalise what attention and MLP give before they add it.
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ("self_attn", "mlp"),
    ("attn", "mlp"),
    ("attention", "mlp"),
    ("self_attn", "fc2"),
)
"""Modules of a block whose outputs are added to the stream: the first pair that it has."""
READERS = ("mlp", "fc1")
"""Modules of a block that read the MLP's input: the first that it has."""
ADDED = ("resid_pre", "resid_post", "mlp_out", "attn_out")
"""Hooks of which the second is the sum of the others."""

log = logging.getLogger(__name__)

Replace = Callable[[Tensor], Tensor]


class _LastSiteReached(Exception):
    """Ends a forward pass after the last site that is wanted."""


Read = Callable[[Tensor], dict[Site, Tensor]]
"""input_ids, int64 [batch, length], without padding -> site -> [batch, length, d_in]."""


def capture(model: nn.Module, input_ids: Tensor, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Activations at ``sites`` in one forward pass; see `reading`."""
    with reading(model, sites) as read:
        return read(input_ids)


@contextmanager
def reading(model: nn.Module, sites: Sequence[Site]) -> Iterator[Read]:
    """Within the block, forward passes that give the activations at ``sites``, in the model's
    dtype, and stop after the last of them. Several threads may make them at once.

    Raises ``ConfigError`` for an architecture that we can't hook.
    """
    passing = local()  # what this thread's pass has found so far

    def note(site: Site) -> Replace:
        def keep(activation: Tensor) -> Tensor:
            passing.found[site] = activation
            if len(passing.found) == len(sites):
                raise _LastSiteReached
            return activation

        return keep

    @torch.inference_mode()
    def read(input_ids: Tensor) -> dict[Site, Tensor]:
        passing.found = {}
        with suppress(_LastSiteReached):
            model(input_ids=input_ids, use_cache=False)
        return {site: passing.found[site] for site in sites}

    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(replacing(model, site, note(site)))
        yield read


@contextmanager
def replacing(model: nn.Module, site: Site, replace: Replace) -> Iterator[None]:
    """Within the block, every forward pass goes on with ``replace(activation)`` at ``site``.

    The activation is [batch, length, d_in]; ``replace`` returns one of its shape and dtype.
    """
    block = blocks(model)[site.layer]
    passing = local()
    replace = _of_streams(replace, block)

    def note_shape(stream: Tensor) -> Tensor:
        passing.shape = stream.shape
        return stream

    def in_shape(activation: Tensor) -> Tensor:
        """OPT's MLP works on batch and length as one axis."""
        return replace(activation.reshape(passing.shape)).reshape(activation.shape)

    before = replace if site.hook == "resid_pre" else note_shape
    handles = [block.register_forward_pre_hook(_before(before), with_kwargs=True)]
    if site.hook == "resid_post":
        handles.append(block.register_forward_hook(_after(replace)))
    elif site.hook == "mlp_in":
        read = reader(block, site)
        handles.append(read.register_forward_pre_hook(_before(in_shape), with_kwargs=True))
    elif site.hook != "resid_pre":
        handles.append(part(block, site).register_forward_hook(_after(in_shape)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Prefix(local):
    """What the blocks before a site gave in a thread's last whole pass; ``again``: give that."""

    again = False

    def __init__(self) -> None:
        self.outputs: dict[int, Any] = {}


@contextmanager
def repeating(model: nn.Module, site: Site) -> Iterator[Prefix]:
    """Within the block, passes over the same ids need not compute what comes before ``site`` anew.

    A thread sets ``again`` after a whole pass: its next ones begin where the site is, with the same
    bytes as if they were whole. Of a model for which some tokens say otherwise (its blocks share
    more than the stream), every pass is whole.
    """
    first = list(blocks(model)[: site.layer + (site.hook == "resid_post")])
    own = [vars(block).get("forward") for block in first]
    prefix, usable = Prefix(), True

    def kept(number: int, compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not (prefix.again and usable):
                prefix.outputs[number] = compute(*args, **kwargs)
            return prefix.outputs[number]

        return forward

    for number, block in enumerate(first):
        block.forward = kept(number, block.forward)
    try:
        usable = _repeats(model, prefix)
        yield prefix
    finally:
        for block, before in zip(first, own, strict=True):
            del block.forward
            if before is not None:
                block.forward = before


@torch.inference_mode()
def _repeats(model: nn.Module, prefix: Prefix) -> bool:
    """Whether passes that begin at the site are the whole one; the second, whether the first left
    what it was given as it was."""
    ids = some_tokens(model)
    try:
        whole = model(input_ids=ids, use_cache=False).logits
        prefix.again = True
        return all(
            torch.equal(whole, model(input_ids=ids, use_cache=False).logits) for _ in range(2)
        )
    except Exception as error:  # whatever a family's blocks miss, whole passes need not
        log.debug("passes of %s are made whole: %s", type(model).__name__, error)
        return False
    finally:
        prefix.again = False


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


def check_parts(model: nn.Module, sites: Iterable[Site]) -> None:
    """Raise ``ConfigError`` for ``attn_out`` or ``mlp_out`` where blocks do not add just that, and
    for ``mlp_in`` where what the MLP reads is not one activation of the stream's width a token.

    Some architectures scale it first (Granite), or add inside the module (Bloom): the check runs
    sixteen tokens (fewer if the model has fewer positions) up to the layer and compares
    ``resid_post`` with the sum.
    """
    for site in sites:
        block = blocks(model)[site.layer]
        if site.hook == "mlp_in":
            _check_read(model, site)
        adds_last = getattr(block, "do_layer_norm_before", True)  # OPT-350M normalises the sum
        if site.hook not in ("attn_out", "mlp_out") or not adds_last:
            continue
        ids = some_tokens(model)
        found = capture(model, ids, [Site.parse(f"{site.layer}.{hook}") for hook in ADDED])
        pre, post, mlp, attn = (activation.float() for activation in found.values())
        scale = pre.abs() + post.abs() + mlp.abs() + attn.abs()
        rounding = 4 * torch.finfo(next(iter(found.values())).dtype).eps * scale
        # The other way round, weights that are NaN would be told of as another architecture.
        if ((pre + attn + mlp - post).abs() > rounding).any():
            raise ConfigError(
                f"activations.sites: {str(site)!r} can't be read in a {type(block).__name__}: "
                "what its attention and MLP put out is not what it adds to the residual stream; "
                "resid_pre and resid_post work in every family"
            )


def _check_read(model: nn.Module, site: Site) -> None:
    pre = Site(site.layer, "resid_pre")
    found = capture(model, some_tokens(model), [pre, site])
    if found[site].shape != found[pre].shape:
        raise ConfigError(
            f"activations.sites: {str(site)!r} can't be read in a "
            f"{type(blocks(model)[site.layer]).__name__}: its MLP reads {list(found[site].shape)}, "
            f"where the stream is {list(found[pre].shape)}; resid_pre and resid_post work in every "
            "family"
        )


def some_tokens(model: nn.Module, length: int = 16) -> Tensor:
    """Ids to try a model with: int64 [1, length or as many as it has positions], on its device."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(text, "max_position_embeddings", None)
    limit = min(length, positions) if isinstance(positions, int) and positions > 0 else length
    rows = len(model.get_input_embeddings().weight)  # type: ignore[operator]
    device = next(model.parameters()).device
    return torch.arange(1, limit + 1, device=device)[None] % rows


def part(block: nn.Module, site: Site) -> nn.Module:
    """The module of a block whose output is what attention or MLP adds to the stream."""
    for names in PARTS:
        parts = [getattr(block, name, None) for name in names]
        if all(isinstance(part, nn.Module) for part in parts):
            return parts[site.hook == "mlp_out"]  # type: ignore[return-value]
    raise ConfigError(
        f"activations.sites: {str(site)!r} can't be hooked in a {type(block).__name__}, which has "
        f"none of {', '.join('+'.join(names) for names in PARTS)}; resid_pre and resid_post work "
        "in every family"
    )


def reader(block: nn.Module, site: Site) -> nn.Module:
    """The module of a block whose input is what its MLP reads."""
    for name in READERS:
        module = getattr(block, name, None)
        if isinstance(module, nn.Module):
            return module
    raise ConfigError(
        f"activations.sites: {str(site)!r} can't be hooked in a {type(block).__name__}, which has "
        f"none of {', '.join(READERS)}; resid_pre and resid_post work in every family"
    )


def _of_streams(replace: Replace, block: nn.Module) -> Replace:
    """``replace``, which is given one residual stream and nothing else."""

    def checked(stream: Tensor) -> Tensor:
        if not isinstance(stream, Tensor) or stream.dim() != 3:
            shape = list(stream.shape) if isinstance(stream, Tensor) else type(stream).__name__
            raise ConfigError(
                f"activations.sites: a {type(block).__name__} can't be hooked: it passes on "
                f"{shape}, not one residual stream of [batch, length, width]; choose a model of "
                "a family that README names"
            )
        return replace(stream)

    return checked


def _before(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (replace(args[0]), *args[1:]), kwargs
        if "hidden_states" not in kwargs:
            raise ConfigError(
                f"activations.sites: a {type(module).__name__} can't be hooked: it is given no "
                "hidden_states; choose a model of a family that README names"
            )
        return args, kwargs | {"hidden_states": replace(kwargs["hidden_states"])}

    return hook


def _after(replace: Replace) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        if isinstance(output, list):  # GPT-1
            return [replace(output[0]), *output[1:]]
        return replace(output)

    return hook
