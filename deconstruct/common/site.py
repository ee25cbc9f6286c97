"""Hook sites: the places in a transformer where activations are read and reconstructions put."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

Hook = Literal["resid_pre", "resid_post", "mlp_out", "attn_out", "mlp_in"]
HOOKS: tuple[str, ...] = get_args(Hook)


class Site(NamedTuple):
    """One hook of one layer, written ``"9.resid_post"``.

    ``resid_pre`` is the residual stream that enters block ``layer``, ``resid_post`` the one that
    leaves it, ``attn_out`` and ``mlp_out`` what the block's attention and MLP add to it (after
    the post-norm where the family has one, as Gemma 2 and 3 do: what is added is what is read).
    ``mlp_in`` is what the MLP reads: the stream after the norm before it, with that norm's weight.
    """

    layer: int
    hook: Hook

    def __str__(self) -> str:
        return f"{self.layer}.{self.hook}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``"<layer>.<hook>"``. Raises ``ValueError`` with the remedy if it is neither."""
        match = re.fullmatch(r"(\d+)\.(\w+)", text)
        if match is None or match[2] not in HOOKS:
            raise ValueError(
                f"{text!r} is no hook site; write '<layer>.<hook>', for example '9.resid_post', "
                f"with a hook out of {', '.join(HOOKS)}"
            )
        return cls(int(match[1]), match[2])  # type: ignore[arg-type]
