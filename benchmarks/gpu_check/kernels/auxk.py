"""AuxK's gradients in float64, from the step's own bf16 operands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_check.kernels.made import Made
from deconstruct.sae.spec import aux_tokens


@dataclass(frozen=True)
class DeadGradients:
    """Of the loss that dead latents have, up to the step's 2 / batch.

    dead, touched: bool [d_sae]; touched: which of the dead AuxK keeps on some token. listed: the
    dead, by number. b_enc: [d_sae]. rows: of W_dec and W_enc, [len(listed), d_in].
    """

    dead: Tensor
    touched: Tensor
    listed: Tensor
    b_enc: Tensor
    rows: dict[str, Tensor]


def dead_gradients(made: Made) -> DeadGradients | None:
    """What AuxK adds to the step's gradients; None where nothing is dead."""
    spec, b = made.spec, made.buffers
    dead = made.before["since_fired"] >= spec.dead_after
    if not spec.k_aux or not bool(dead.any()):
        return None
    listed = dead.nonzero().squeeze(1)
    some = aux_tokens(spec.batch)
    x, e0 = b.centered[:some].double(), b.error[-1, :some].double()
    enc, dec = made.enc[listed].double(), made.dec[listed].double()
    z = (x @ enc.T + made.bias_half[listed].double()).bfloat16().double().relu()
    if spec.k_aux < len(listed):
        kept = z.topk(spec.k_aux, dim=1)
        z = torch.zeros_like(z).scatter(1, kept.indices, kept.values)
    e = (e0 + z @ dec) * (spec.aux_weight(len(listed)) * spec.batch / some)
    dz = (e @ dec.T) * (z > 0)
    b_enc = torch.zeros(spec.d_sae, dtype=torch.float64, device=z.device)
    b_enc[listed] = dz.sum(0)
    touched = torch.zeros_like(dead)
    touched[listed] = (z > 0).any(0)
    return DeadGradients(dead, touched, listed, b_enc, {"W_dec": z.T @ e, "W_enc": dz.T @ x})
