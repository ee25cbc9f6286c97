"""What trains an SAE: one step after another on static parameters, whatever the device.

Every engine works in *scaled* coordinates, z = (x - mean) / scale with E|z|^2 = 1, so that its
loss is the fraction of variance unexplained and a learning rate means the same at every site.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from deconstruct.sae.spec import StepSpec


class UnfitError(Exception):
    """An engine that refuses nothing turns out not to run here; the message is why, a sentence."""


class Engine(ABC):
    """Parameters, optimiser, the step over them, and the counts that all engines keep."""

    title: ClassVar[str]
    """What people are told it is."""

    def __init__(self, spec: StepSpec, state: dict[str, Tensor]) -> None:
        """state: all that a resumed run needs to go on with the same bytes, live tensors by name;
        `counts` and the engine's own."""
        self.spec = spec
        self._state = state

    @classmethod
    @abstractmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """Why it does not make this step, as a sentence; None where it does.

        dtype: of products; "auto", "bfloat16" or "float32". ranks: processes that train together.
        """

    @classmethod
    @abstractmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """An engine ready for its first step, where it refuses nothing.

        weights: as `weights` gives them. rates: learning rates, [steps]. Raises ``UnfitError``.
        """

    @abstractmethod
    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates, on the CPU or on the engine's
        device.

        target: float32 [batch, d_out], what a transcoder makes of it; None: z itself.
        """

    def first_step(self, z: Tensor, target: Tensor | None = None) -> None:
        """`step`, as the first that a process makes for a run: where an engine is checked by it.
        Raises ``UnfitError`` after a step that was wrong: the engine is then of no use."""
        self.step(z, target)

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Float32 copies on the CPU: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and
        those that only some architectures have (`deconstruct.sae.autoencoder`)."""

    @property
    def losses(self) -> Tensor:
        """Mean |e|^2 of each step that was made, [steps], 0 for those to come; reading it may wait
        for the device."""
        return self._state["losses"]

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
        dead = self._state["since_fired"] >= self.spec.dead_after
        return self._l0(), float(dead.float().mean())

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ``KeyError`` where a tensor is missing."""
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self._refresh()

    @abstractmethod
    def _l0(self) -> float:
        """Mean L0 of the last step's tokens."""

    @abstractmethod
    def _refresh(self) -> None:
        """Make anew what follows from the state: copies in other dtypes, counts of the host."""


def counts(spec: StepSpec, steps: int, device: str = "cpu") -> dict[str, Tensor]:
    """What the state of every engine holds beside parameters and moments, zeros."""
    return {
        "step": torch.zeros(1, dtype=torch.int64),
        "since_fired": torch.zeros(spec.d_sae, dtype=torch.int64, device=device),
        "losses": torch.zeros(steps, device=device),
    }


def is_dense(state: Mapping[str, Tensor]) -> bool:
    """Whether a `state_dict` is the dense step's, in which W_enc is [d_in, d_sae]. The sparse step
    of a CPU has a latent a row, and keeps an "edge"."""
    return "control.factor" in state and "edge" not in state


def turned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An engine's state with W_enc and its moments transposed: from one that has a latent a row
    to the dense step's, and back."""
    return {n: t.mT if n.startswith("W_enc") else t for n, t in state.items()}


def rows_by_latent(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Float32 copies with W_enc transposed, [d_sae, d_in], so that a latent is a row everywhere."""
    chosen = {name: weights[name].detach().float() for name in names}
    return {
        name: (weight.T if name == "W_enc" else weight).contiguous().clone()
        for name, weight in chosen.items()
    }


def as_given(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The inverse of `rows_by_latent`: copies on the CPU."""
    found = {name: state[name].to("cpu", copy=True) for name in names}
    found["W_enc"] = found["W_enc"].T.contiguous()
    return found
