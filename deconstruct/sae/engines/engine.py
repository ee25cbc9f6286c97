"""What trains an SAE: one step after another on static parameters, whatever the device.

Every engine works in *scaled* coordinates, z = (x - mean) / scale with E|z|^2 = 1, so that its
loss is the fraction of variance unexplained and a learning rate means the same at every site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Engine(Protocol):
    """Parameters, optimiser and the step over them."""

    losses: Tensor
    """[steps]: loss of each step that was made; reading it may wait for the device."""

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates.

        target: float32 [batch, d_out], what a transcoder makes of it; None: z itself.
        """

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and those
        that only some architectures have (`deconstruct.sae.autoencoder`)."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on with the same bytes."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
