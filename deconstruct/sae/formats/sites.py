"""Names of hooks as others write them, and the sites of ours that they are.

TransformerLens counts hooks of its own model; the rest name modules of `transformers` and say
whether their input or output is meant.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from deconstruct.common.site import Site

GAIN, RAW = "gain", "raw"


class Place(NamedTuple):
    """A site of ours. but: in what the hook differs from it in some families: `GAIN`, an RMSNorm's
    output before it is multiplied with its weight; `RAW`, a module's output before a post-norm;
    "": in nothing."""

    site: Site
    but: str = ""


_LENS = {
    "hook_resid_pre": ("resid_pre", ""),
    "hook_resid_post": ("resid_post", ""),
    "hook_attn_out": ("attn_out", ""),
    "hook_mlp_out": ("mlp_out", ""),
    "mlp.hook_out": ("mlp_out", RAW),
    "mlp.hook_in": ("mlp_in", ""),
    "ln2.hook_normalized": ("mlp_in", GAIN),
}
_MODULES = {
    "": ("resid_post", ""),
    "output": ("resid_post", ""),
    "input": ("resid_pre", ""),
    "mlp": ("mlp_out", RAW),
    "mlp.output": ("mlp_out", RAW),
    "mlp.input": ("mlp_in", ""),
    "pre_feedforward_layernorm": ("mlp_in", ""),
    "pre_feedforward_layernorm.output": ("mlp_in", ""),
    "post_feedforward_layernorm": ("mlp_out", ""),
    "post_feedforward_layernorm.output": ("mlp_out", ""),
    "self_attn": ("attn_out", RAW),
    "self_attn.output": ("attn_out", RAW),
    "attn": ("attn_out", RAW),
    "attn.output": ("attn_out", RAW),
    "attention": ("attn_out", RAW),
    "attention.output": ("attn_out", RAW),
}
_BLOCK = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h)\.(\d+)(?:\.([a-z_.]+))?")


def place_of(hook: str) -> Place | None:
    """Where a hook of this name is; None if it is at no site of ours."""
    lens = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    block = None if lens else _BLOCK.fullmatch(hook)
    found = lens or block
    if found is None:
        return None
    known = (_LENS if lens else _MODULES).get(found[2] or "")
    if known is None:
        return None
    return Place(Site.parse(f"{int(found[1])}.{known[0]}"), known[1])


def module_input(hook: str) -> str:
    """The name of what enters the module that ``hook`` names: ``layers.3.mlp.input``."""
    return f"{hook}.input"
