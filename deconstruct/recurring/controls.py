"""The controls of a run: the same run with one thing taken away, each under a name of its own.

What a figure of a run is worth shows beside the same figure of SAEs of other seeds, of one with a
part left at random, of a language model that was never trained, and of labels that belong to other
documents. A control of run NAME is called ``NAME/controls/...``: never ``latest``, and nothing that
a growing run goes on from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig
from deconstruct.config.redrawn import RANDOM
from deconstruct.config.run import CONTROLS_OF, GatesConfig

MOST_SEEDS = 100
LONGEST = 100
"""Characters of a run's name."""


class Control(NamedTuple):
    """One control: its own name, and the configuration of its run."""

    name: str
    config: RunConfig


def controls_of(config: RunConfig, seeds: int) -> list[Control]:
    """The controls of a run of ``config``: SAEs of the seeds after its own, ``seeds`` with it, then
    one of each other kind, but for a frozen encoder: that takes two minutes more, and tells less
    than a frozen decoder.

    Raises ``ConfigError`` for a configuration that is a control itself, or trains no SAE.
    """
    _check(config, seeds)
    first, model = config.sae.seed, config.model.name
    changes: dict[str, dict[str, dict[str, Any]]] = {
        **{f"seed-{n}": {"sae": {"seed": n}} for n in range(first + 1, first + seeds)},
        "frozen-decoder": {"sae": {"frozen": "decoder"}},
        "random-sae": {"sae": {"frozen": "all"}},
        "shuffled": {"probe": {"shuffle_labels": True}},
        "random-model": {"model": {"name": f"{RANDOM}0:{model}"}},
    }
    return [Control(name, _changed(config, name, tables)) for name, tables in changes.items()]


def _changed(config: RunConfig, name: str, tables: dict[str, dict[str, Any]]) -> RunConfig:
    """With other values in some tables, and without gates: a control is not to be good."""
    values = config.model_dump()
    for table, fields in tables.items():
        values[table] |= fields
    values |= {"name": config.name + CONTROLS_OF + name, "gates": GatesConfig().model_dump()}
    return RunConfig.model_validate(values)


def _check(config: RunConfig, seeds: int) -> None:
    if not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds {seeds} is out of range; ask for 1 to {MOST_SEEDS}")
    if config.sae.pretrained is not None:
        raise ConfigError(
            f"sae.pretrained = {config.sae.pretrained!r} is not trained, and most controls are "
            "other trainings; leave it out, or run single controls with 'deconstruct run'"
        )
    if config.control is not None:
        raise ConfigError(
            f"run {config.name!r} is a control itself ({config.control}); name the configuration "
            "that it is a control of"
        )
    if config.sae.penalty is not None and config.sae.wanted_l0 is None and not config.sae.by_number:
        raise ConfigError(
            f"sae.penalty = {config.sae.penalty} fixes no number of latents, at which a random SAE "
            "could be held against it; set sae.target_l0 in its place"
        )
    longest = LONGEST - len(CONTROLS_OF) - len("frozen-decoder")
    if len(config.name) > longest:
        raise ConfigError(
            f"name {config.name!r} leaves no room for those of its controls; take one of at most "
            f"{longest} characters"
        )
