"""The architectures by name, in the order in which people are told of them."""

from __future__ import annotations

from collections.abc import Mapping

from deconstruct.sae.architectures.base import Architecture
from deconstruct.sae.architectures.batchtopk import BatchTopK
from deconstruct.sae.architectures.gated import Gated
from deconstruct.sae.architectures.jumprelu import JumpReLU
from deconstruct.sae.architectures.matryoshka import Matryoshka
from deconstruct.sae.architectures.relu import ReLU
from deconstruct.sae.architectures.topk import TopK

ARCHITECTURES: Mapping[str, Architecture] = {
    one.name: one for one in (TopK(), BatchTopK(), Matryoshka(), JumpReLU(), Gated(), ReLU())
}
