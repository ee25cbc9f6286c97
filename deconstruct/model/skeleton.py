"""A model without its weights: what of it can be hooked is known before they are loaded.

`transformers` builds an architecture on the ``meta`` device from config.json alone, in a second or
two and without memory, and runs it there as far as shapes go.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import Site
from deconstruct.model.hooks import blocks, part, reader, replacing
from deconstruct.model.kinds import check_kind
from deconstruct.model.loading import first_line, quiet_transformers
from deconstruct.model.resolve import TESTED, ResolvedModel

_TOKENS = 4


def check_hooks(model: ResolvedModel, sites: Sequence[Site]) -> None:
    """Raise ``ConfigError`` for a model, by the name of its architecture, whose blocks can't be
    hooked at ``sites``; without loading weights.

    What running on ``meta`` can't tell (some layers ask for values) is told when the model runs.
    """
    model.check_sites(sites)
    if model.family in TESTED:
        return
    check_kind(model)
    bare = skeleton(model)
    found = blocks(bare)
    for site in sites:
        if site.layer >= len(found):
            raise ConfigError(
                f"activations.sites: {str(site)!r} is out of range, a {type(bare).__name__} has "
                f"{len(found)} blocks in a row"
            )
        if site.hook in ("attn_out", "mlp_out"):
            part(found[site.layer], site)
        elif site.hook == "mlp_in":
            reader(found[site.layer], site)
    _check_streams(bare, found, sites)


@lru_cache(maxsize=1)  # a command looks before its server starts, and the flow again
def skeleton(model: ResolvedModel) -> nn.Module:
    """The causal language model on the ``meta`` device, in bfloat16 and evaluation mode.

    Raises ``ConfigError`` if `transformers` has none of this kind without code of the model's own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers import __version__ as version

    try:
        with quiet_transformers(), _silent(), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                model.folder, local_files_only=True, trust_remote_code=False
            )
            built: nn.Module = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, trust_remote_code=False
            )
    except Exception as error:  # each family has its own kinds
        raise ConfigError(
            f"model.name = {model.name!r}: transformers {version} can't build a {model.family!r} "
            f"model of its config.json ({first_line(error)}); choose a model of a family that "
            "README names"
        ) from error
    return built.eval()


def _check_streams(bare: nn.Module, found: nn.ModuleList, sites: Sequence[Site]) -> None:
    """Run the model on shapes alone: hooks refuse what is no stream, and each block runs once."""
    ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    # Given a mask of four axes, most families ask for no values to make one; OPT takes no such.
    mask = torch.zeros(1, 1, _TOKENS, _TOKENS, dtype=torch.bfloat16, device="meta")
    for more in ({}, {"attention_mask": mask}):
        with ExitStack() as stack:
            runs = stack.enter_context(_counted(found))
            for site in sites:
                stack.enter_context(replacing(bare, site, _same))
            try:
                with torch.inference_mode():
                    bare(input_ids=ids, use_cache=False, **more)
            except ConfigError:
                raise
            except Exception:  # asked for a value: there is none
                continue
        again = [layer for layer, times in runs.items() if times > 1]
        if again:
            raise ConfigError(
                f"activations.sites: a {type(bare).__name__} runs its block {again[0]} more than "
                "once, so that its sites have several activations per token; choose a model of a "
                "family that README names"
            )
        return


@contextmanager
def _counted(found: nn.ModuleList) -> Iterator[Counter[int]]:
    """How often each block has run within the block, by layer."""
    runs: Counter[int] = Counter()
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: runs.update([layer]))
        for layer, block in enumerate(found)
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _same(activation: Tensor) -> Tensor:
    return activation


@contextmanager
def _silent() -> Iterator[None]:
    """Without what `transformers` logs of architectures that it builds."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
