"""What one training step computes, and how that follows from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from deconstruct.config import BY_NUMBER, SPARSITY_PENALTIES, SaeConfig, unused_by
from deconstruct.sae.schedule import dead_after, step_count

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")

SHARED = ("b_dec", "W_skip")
"""Parameters that belong to no latent: every token's gradient reaches them."""

ALL = "all"
STILL = {"none": frozenset[str](), "decoder": frozenset({"W_dec"}), "encoder": frozenset({"W_enc"})}
"""What ``sae.frozen`` leaves at its random start, of parameters that engines train. Biases,
thresholds, gates and a transcoder's linear path are trained in any case: they make the directions
usable, and are none. With `ALL` nothing is trained (`deconstruct.sae.engines.still`)."""


@dataclass(frozen=True)
class StepSpec:
    """What one training step computes. Sizes in tokens and latents; see `SaeConfig`.

    d_out: width of what a transcoder reconstructs; 0: an autoencoder. prefixes: ends of the
    nested dictionaries of a Matryoshka SAE. penalty_warmup: steps of its linear rise.
    """

    architecture: str
    batch: int
    d_in: int
    d_sae: int
    k: int
    penalty: float
    clip_norm: float
    k_aux: int
    aux_coefficient: float
    dead_after: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    d_out: int = 0
    skip: bool = False
    prefixes: tuple[int, ...] = ()
    sparsity: str = "l0"
    bandwidth: float = 0.05
    target_l0: float | None = None
    penalty_warmup: int = 0
    optimizer: str = "sparse_adam"
    frozen: str = "none"

    @property
    def still(self) -> frozenset[str]:
        """Names of the parameters that stay as they are, where others are trained."""
        return STILL[self.frozen]

    @property
    def transcoder(self) -> bool:
        """Whether another site than the input is reconstructed."""
        return self.d_out > 0

    @property
    def by_number(self) -> bool:
        """Whether the architecture fixes how many latents fire; else a penalty makes them few."""
        return self.architecture in BY_NUMBER

    def aux_weight(self, n_dead: int) -> float:
        """Of AuxK's loss: in proportion less where fewer latents are dead than it takes."""
        return self.aux_coefficient * min(1.0, n_dead / self.k_aux)


def pace_of(spec: StepSpec, name: str) -> float:
    """A parameter's steps as a share of the learning rate, by the optimiser sparse_adam.

    Biases move all pre-activations of a token, or of a latent, at once, and Adam's step is as large
    for a coordinate that hardly matters. At full pace b_dec wanders by a twentieth of a token's
    norm in a step, and takes latents out of the data's reach (benchmarks/README.md). b_enc is as
    slow where the number of latents is fixed; elsewhere it is what makes them sparse.
    """
    if spec.optimizer == "adam":
        return 1.0
    if name == "b_dec":
        return 0.04
    return 0.1 if name == "b_enc" and spec.by_number else 1.0


AUX_PART = 4
"""AuxK looks at one token in so many. It costs as much per token as the step's own sparse products,
and has a mean over tokens to follow, which a quarter of a batch tells as well."""


def aux_tokens(tokens: int) -> int:
    """How many of a step's tokens AuxK looks at: the first, since batches come in random order."""
    return -(-tokens // AUX_PART)


def step_spec(config: SaeConfig, d_in: int, d_out: int = 0) -> StepSpec:
    """Sizes and weights of a step, with the defaults that depend on the run filled in.

    d_out: of the site that a transcoder reconstructs; 0: an autoencoder.
    """
    nested = "prefixes" not in unused_by(config.architecture)
    below = config.prefixes or tuple(sorted({config.d_sae >> n for n in (4, 3, 2, 1)} - {0}))
    return StepSpec(
        architecture=config.architecture,
        batch=config.batch_size,
        d_in=d_in,
        d_sae=config.d_sae,
        k=config.k,
        penalty=SPARSITY_PENALTIES.get(config.architecture, 0)
        if config.penalty is None
        else config.penalty,
        clip_norm=config.clip_norm,
        k_aux=min(config.d_sae, config.k if config.aux_k is None else config.aux_k),
        aux_coefficient=config.aux_coefficient,
        dead_after=dead_after(config),
        d_out=d_out,
        skip=config.skip_connection,
        prefixes=(*below, config.d_sae) if nested else (),
        sparsity=config.sparsity,
        bandwidth=config.bandwidth,
        target_l0=config.wanted_l0,
        penalty_warmup=round(config.penalty_warmup_share * step_count(config)),
        optimizer=config.optimizer,
        frozen=config.frozen,
    )
