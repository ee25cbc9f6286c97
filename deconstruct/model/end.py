"""A model's end: what it makes of its last block's output, found by watching it do so.

Families differ in what comes after the blocks: a norm under any name or none, a projection, a bias,
a scale, a bend. So no names are looked for: the modules that the model itself calls on its way from
the last block to its unembedding are the end, if together they give the logits that it gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deconstruct.common.errors import ConfigError
from deconstruct.model.hooks import blocks, some_tokens


@dataclass(frozen=True)
class End:
    """From the residual stream h [n, d_model] after the last block to logits [n, vocabulary]:

        logits = scale * (parts(h) @ weight.T + bias)

    bent at the last by ``final_logit_softcapping`` where a model has it, which keeps their order.

    weight: [vocabulary, width], as the model has it. parts: in float32.
    """

    parts: nn.Module
    weight: Tensor
    scale: float

    def added(self, directions: Tensor) -> Tensor:
        """What ``directions`` [n, d_model] give the unembedding beyond what no direction at all
        gives it (the norm's own bias): float32 [n, width].

        In float32 throughout: in bfloat16 a large bias would be there still, as rounding, and what
        a direction promotes would not be what its opposite suppresses.
        """
        rows = directions.float()
        found: Tensor = self.parts(rows) - self.parts(torch.zeros_like(rows[:1]))
        return found


@torch.inference_mode()
def end_of(model: nn.Module) -> End:
    """The model's end, compared with the model's own logits of sixteen tokens.

    Raises ``ConfigError``, with the name of the architecture, if they do not agree: then what comes
    after the blocks is no row of modules and one linear map.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    weight: Any = getattr(head, "weight", None)
    if not isinstance(head, nn.Module) or not isinstance(weight, Tensor):
        raise _unlike(model, "it has no unembedding")
    with _watched(model, head) as seen:
        logits = model(input_ids=some_tokens(model), use_cache=False).logits[0]
    if seen.stream is None or seen.read is None or seen.given is None:
        raise _unlike(model, "its unembedding does not follow its last block")
    parts = nn.Sequential(*seen.parts)
    try:
        reached = parts(seen.stream[0])
    except Exception as error:  # a module that takes more than the stream
        raise _unlike(model, "what follows its last block takes more than its output") from error
    eps = torch.finfo(weight.dtype).eps
    if not _close(reached, seen.read[0], eps):
        raise _unlike(model, "what follows its last block is more than the modules it calls")
    linear = nn.functional.linear(seen.read, weight, getattr(head, "bias", None))
    if not _close(linear[0], seen.given[0], eps):
        raise _unlike(model, "its unembedding is no linear map")
    scale = _scale(model, seen.given[0].float(), logits.float(), eps)
    return End(copy.deepcopy(parts).float(), weight, scale)


def _scale(model: nn.Module, given: Tensor, logits: Tensor, eps: float) -> float:
    """What the unembedding's output is multiplied with to be the logits; 1 of most families."""
    config: Any = model.config
    cap = getattr(config.get_text_config(), "final_logit_softcapping", None)

    def bent(values: Tensor) -> Tensor:
        return cap * torch.tanh(values / cap) if cap else values

    unbent = cap * torch.atanh((logits / cap).clamp(-0.99, 0.99)) if cap else logits
    fitted = (given * unbent).sum() / given.square().sum().clamp(min=1e-30)
    for scale in (1.0, float(fitted)):
        if _close(bent(scale * given), logits, eps):
            return scale
    raise _unlike(model, "its logits are no multiple of what its unembedding gives")


def _close(ours: Tensor, theirs: Tensor, eps: float) -> bool:
    """Equal but for rounding to ``eps``, on the scale of the largest."""
    if ours.shape != theirs.shape:
        return False
    size = theirs.float().abs().max() if theirs.numel() else 0.0
    return bool(((ours.float() - theirs.float()).abs() <= max(2 * eps, 1e-5) * size).all())


@dataclass
class _Seen:
    """stream: what leaves the last block. parts: modules called after it, in their order.
    read, given: the unembedding's input and output."""

    stream: Tensor | None = None
    parts: list[nn.Module] = field(default_factory=list)
    within: nn.Module | None = None
    read: Tensor | None = None
    given: Tensor | None = None


@contextmanager
def _watched(model: nn.Module, head: nn.Module) -> Iterator[_Seen]:
    """Note, in a forward pass within the block, what is called between last block and logits."""
    seen, stack = _Seen(), blocks(model)

    def leave_block(module: nn.Module, args: Any, output: Any) -> None:
        seen.stream = output[0] if isinstance(output, tuple | list) else output
        seen.parts = []

    def enter(module: nn.Module, args: Any) -> None:
        if module is head:
            seen.read = args[0] if args else None
        elif seen.stream is not None and seen.read is None and seen.within is None:
            seen.parts.append(module)
            seen.within = module

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if module is head:
            seen.given = output
        elif module is seen.within:
            seen.within = None

    inner = set(stack.modules())
    handles = [stack[-1].register_forward_hook(leave_block)]
    for module in model.modules():
        if module not in inner:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _unlike(model: nn.Module, what: str) -> ConfigError:
    return ConfigError(f"no logit lens for a {type(model).__name__}: {what}")
