"""A sweep: many SAEs over the same activations, from one configuration.

The table ``[sweep]`` lists values; every combination of them is a member. Fields that mean nothing
to a member's architecture (``k`` to relu, ``penalty`` to topk) are left out of it, so that no
member is there twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from deconstruct.common.errors import ConfigError
from deconstruct.config.base import Settings
from deconstruct.config.run import RunConfig
from deconstruct.config.sae import Architecture, SaeConfig, unused_by
from deconstruct.config.toml import load_as

MOST_MEMBERS = 10_000


class SweepConfig(Settings):
    """What is varied; a list that is empty leaves the field as ``[sae]`` has it.

    Sites are those of ``activations.sites``: each gets all members.
    """

    architecture: tuple[Architecture, ...] = Field((), description="Kinds of SAE.")
    k: tuple[int, ...] = Field((), description="Latents a token: topk, batchtopk, matryoshka.")
    penalty: tuple[float, ...] = Field((), description="relu, gated, jumprelu.")
    target_l0: tuple[float, ...] = Field((), description="relu, gated, jumprelu.")
    d_sae: tuple[int, ...] = Field((), description="Numbers of latents.")
    learning_rate: tuple[float, ...] = Field((), description="Peak rates.")
    seed: tuple[int, ...] = Field((), description="Seeds of weights and batches.")


class SweepRun(RunConfig):
    """A run's configuration and what is varied in it."""

    sweep: SweepConfig = SweepConfig()

    @model_validator(mode="after")
    def _members_fit(self) -> SweepRun:
        if self.sae.pretrained is not None:
            raise ValueError(
                f"sae.pretrained = {self.sae.pretrained!r} is not trained, and a sweep varies "
                "training; leave it out"
            )
        self.members()
        return self

    def members(self) -> list[SaeConfig]:
        """The settings of every member, in the order of the lists, none twice.

        Raises ``ValueError`` for a combination that can't be.
        """
        base = self.sae.model_dump()
        found: dict[str, SaeConfig] = {}
        for architecture in self.sweep.architecture or (self.sae.architecture,):
            unused = unused_by(architecture)
            used = {f: v for f, v in base.items() if f not in unused}
            axes = {
                field: values
                for field, values in self.sweep.model_dump(exclude={"architecture"}).items()
                if values and field not in unused
            }
            count = math.prod(map(len, axes.values()))
            if count > MOST_MEMBERS:
                raise ValueError(f"{count} members are more than {MOST_MEMBERS}; vary less at once")
            for chosen in product(*axes.values()):
                values: dict[str, Any] = used | {"architecture": architecture}
                values |= dict(zip(axes, chosen, strict=True))
                try:
                    member = SaeConfig.model_validate(values)
                except ValidationError as error:
                    fault = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(
                        f"a member {dict(zip(axes, chosen, strict=True))} of "
                        f"architecture {architecture}: {fault}"
                    ) from error
                found.setdefault(member.model_dump_json(), member)
        return list(found.values())

    def run_of(self, member: SaeConfig) -> RunConfig:
        """The configuration of one member as a run of its own."""
        values = self.model_dump(exclude={"sweep", "sae"}) | {"sae": member.model_dump()}
        return RunConfig.model_validate(values)


def load_sweep(path: Path | str | None = None, overrides: Iterable[str] = ()) -> SweepRun:
    """Read a TOML file with a table ``[sweep]``; see `deconstruct.config.load`."""
    found = load_as(SweepRun, path, overrides)
    if "sweep" not in found.model_fields_set:
        raise ConfigError(
            f"config {str(path)!r} has no table [sweep]; write there what is varied, for example "
            "k = [16, 32], or take 'deconstruct run'"
        )
    return found
