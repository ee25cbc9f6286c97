"""The stage sae: an autoencoder trained on one site's activations."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deconstruct.activations.places import near
from deconstruct.activations.reader import ActivationReader, BatchSource
from deconstruct.activations.window import SiteWindow, Stream, Window
from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.ancestry import recipe_of
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.common.hardware import pick_device
from deconstruct.config import SaeConfig
from deconstruct.config.run import no_patience
from deconstruct.sae.engines.ranks import ranks
from deconstruct.sae.files import CONFIG, WEIGHTS, config_of, save_weights, tensor_lens_name
from deconstruct.sae.folding import Scaling
from deconstruct.sae.pretrained import Pretrained
from deconstruct.sae.tables import TRAINING_LOG
from deconstruct.sae.training import loop, trackers
from deconstruct.sae.training.checkpoint import LogRow
from deconstruct.sae.training.held_out import HeldOut
from deconstruct.sae.training.trainer import Trainer
from deconstruct.sae.training.warm import FACTOR, Start, check, factor_of, warmed

VERSION = 12
_NO_LOG = pa.table({"step": pa.array([], pa.int64()), "tokens": pa.array([], pa.int64())})
"""Of an SAE that was not trained here."""


def recipe(
    config: SaeConfig,
    *,
    activations: Artifact | Stream,
    output: Artifact | Stream | None = None,
    start: Artifact | None = None,
    dictionary: Pretrained | None = None,
) -> Recipe:
    """All that decides the weights; settings of another architecture are none of it.

    activations: recorded ones, or a stream of those that are computed while training. output: those
    of ``config.output_site``, which a transcoder reconstructs. start: the SAE that training starts
    from (`deconstruct.sae.training.warm`); None: the seed. dictionary: the one of
    ``config.pretrained``, which is taken over: then nothing else decides.
    """
    if dictionary is not None:
        return Recipe("sae", VERSION, dictionary.settings(), {"dictionary": dictionary.digest})
    config = config if start is None else warmed(config)
    settings = config.key_fields()
    if ranks() > 1:  # sums over several processes round differently
        settings["ranks"] = ranks()
    if start is not None and not config.by_number:
        settings[FACTOR] = factor_of(start)
    if isinstance(activations, Stream):
        settings |= activations.key_fields
        return Recipe("sae", VERSION, settings, activations.inputs | keys_of(start=start))
    assert not isinstance(output, Stream)
    inputs = keys_of(activations=activations, output=output, start=start)
    return Recipe("sae", VERSION, settings, inputs)


def output_of(root: DataRoot, sae: Artifact, activations: Artifact) -> Artifact | None:
    """What a transcoder makes of ``activations``: its output site's, recorded with them.

    They need not be those that it was trained on. None of an autoencoder. Raises ``StorageError``
    if they are not there.
    """
    site = sae.facts.get("output_site", sae.manifest.config.get("output_site"))
    if site is None:
        return None
    beside = recipe_of(activations)
    wanted = replace(beside, config={**beside.config, "site": site})
    return root.open("activations", wanted.key)


def trained_on(root: DataRoot, sae: Artifact) -> Artifact | None:
    """The corpus that an SAE was trained on; None of one that was not trained here.

    Raises ``StorageError`` if that, or what was recorded of it, is there no more.
    """
    inputs = sae.manifest.inputs
    key = inputs.get("corpus")
    if key is None and "activations" in inputs:
        key = root.open("activations", inputs["activations"]).manifest.inputs["corpus"]
    return None if key is None else root.open("corpus", key)


def train(
    root: DataRoot,
    config: SaeConfig,
    *,
    activations: Artifact | Stream,
    output: Artifact | Stream | None = None,
    start: Artifact | None = None,
    dictionary: Pretrained | None = None,
    device: str = "auto",
) -> Artifact:
    """Train on the train split; a killed training goes on from its last checkpoint.

    output, start: see `recipe`. dictionary: the SAE that others trained, which is written as it
    is, in our layout and with an empty log. Raises ``DataError`` if the split has fewer rows than a
    batch or the two sites do not hold the same rows, ``ConfigError`` for a device, an output or a
    log (`deconstruct.sae.training.trackers`) that is not there, or a start of another site,
    architecture or size, or for `SaeConfig.patience` with a stream.
    """
    if dictionary is not None:

        def write(draft: Draft) -> None:
            dictionary.write(draft)
            draft.write_table(TRAINING_LOG.file, _NO_LOG)

        return root.make(recipe(config, activations=activations, dictionary=dictionary), write)
    return train_all(
        root, [config], activations=activations, output=output, start=start, device=device
    )[0]


STAGE = Stage("sae", recipe, train)


def train_all(
    root: DataRoot,
    configs: Sequence[SaeConfig],
    *,
    activations: Artifact | Stream,
    output: Artifact | Stream | None = None,
    start: Artifact | None = None,
    device: str = "auto",
) -> list[Artifact]:
    """An artifact for each of ``configs``, in their order: each the same as `train` makes alone.

    Those that are missing are trained in passes over the activations, one for all that agree in
    `same_pass`. Raises as `train` does.
    """
    where = pick_device(device)
    trackers.wanted()  # raises before the work
    for config in configs:
        _check(config, activations, output)
        if start is not None:
            check(start, config, activations, output)
    passes: dict[Hashable, dict[SaeConfig, Recipe]] = {}
    for config in configs:
        wanted = recipe(config, activations=activations, output=output, start=start)
        passes.setdefault(same_pass(config), {})[config] = wanted
    readers = _Readers(activations, output, where)
    made: dict[SaeConfig, Artifact] = {}
    for members in passes.values():

        def write(drafts: dict[SaeConfig, Draft], recipes: Mapping[SaeConfig, Recipe]) -> None:
            begun = Start.of(start) if start is not None else None
            _train_together(drafts, readers, begun, where, root.path / "logs", recipes)

        made |= root.make_all(members, partial(write, recipes=members))
    return [made[config] for config in configs]


def _check(
    config: SaeConfig, activations: Artifact | Stream, output: Artifact | Stream | None
) -> None:
    """Raise ``ConfigError`` for settings that these activations can't be trained on with."""
    if (config.output_site is None) != (output is None):
        raise ConfigError(
            f"sae.output_site = {config.output_site!r}, but its activations are "
            f"{'not given' if output is None else 'given'}; name it in activations.sites too"
        )
    if config.patience is not None and isinstance(activations, Stream):
        raise ConfigError(no_patience(config))


def same_pass(config: SaeConfig) -> Hashable:
    """What SAEs must agree in to be trained on the same batches."""
    kept = config.held_out_share if config.patience is not None else None
    return config.batch_size, config.seed, config.output_site, kept


Reader = ActivationReader | SiteWindow


class _Readers:
    """The train splits of one site and, for transcoders, of the other."""

    def __init__(
        self, activations: Artifact | Stream, output: Artifact | Stream | None, device: str
    ) -> None:
        self.activations, self.output, self.device = activations, output, device

    def opened(self, scratch: Path) -> tuple[Reader, Reader | None]:
        """Readers of the input and of the output: of what is recorded, opened once. Raises
        ``DataError`` if rows differ. scratch: where a stream may put what it needs."""
        if isinstance(self.activations, Artifact):
            return self._recorded
        streams = [one for one in (self.activations, self.output) if isinstance(one, Stream)]
        reader, *others = Window(streams, scratch, self.device).sites
        return reader, others[0] if others else None

    @cached_property
    def _recorded(self) -> tuple[ActivationReader, ActivationReader | None]:
        assert isinstance(self.activations, Artifact)
        reader = ActivationReader(self.activations, "train")
        if not isinstance(self.output, Artifact):
            return reader, None
        beside = ActivationReader(self.output, "train")
        reader.check_rows(beside)
        return reader, beside


def _train_together(
    drafts: Mapping[SaeConfig, Draft],
    readers: _Readers,
    start: Start | None,
    device: str,
    logs: Path,
    recipes: Mapping[SaeConfig, Recipe],
) -> None:
    """One pass over the activations for members that agree in `same_pass`."""
    any_of = next(iter(drafts))
    reader, beside = readers.opened(drafts[any_of].scratch)
    for read in (reader, beside):
        if read is not None:
            _check_varies(read)
    inputs, onto = Scaling.of(reader.moments), Scaling.of(beside.moments) if beside else None
    (reader, beside), held_out = _held_out(any_of, reader, beside, device)
    members = {
        config: Trainer(
            warmed(config) if start else config,
            inputs,
            onto,
            draft.scratch,
            device,
            held_out=held_out,
            start=start,
        )
        for config, draft in drafts.items()
    }
    steps = max(member.steps for member in members.values())
    with ExitStack() as stack:

        def batches(of: Reader, other: Reader | None) -> BatchSource:
            source = of.batches(
                any_of.batch_size, any_of.seed, beside=other, steps=steps, device=device
            )
            stack.callback(source.close)
            return source

        output = None
        if beside is not None:
            output = loop.Output(batches(beside, reader), beside.moments)
        for config, member in members.items():
            stack.enter_context(_watched(member, recipes[config], logs))
        loop.train_all(batches(reader, beside), list(members.values()), output)
    for config, draft in drafts.items():
        _write(draft, members[config], reader.facts, beside.facts if beside else None)


def _held_out(
    config: SaeConfig, reader: Reader, beside: Reader | None, device: str
) -> tuple[tuple[Reader, Reader | None], HeldOut | None]:
    """What is trained on, and what is not but decides on an early stop, if that is asked for."""
    if config.patience is None:
        return (reader, beside), None
    assert isinstance(reader, ActivationReader)
    reader, kept = reader.hold_out(config.held_out_share)
    kept_beside = None
    if isinstance(beside, ActivationReader):
        beside, kept_beside = beside.hold_out(config.held_out_share)
    x = near(kept.whole, kept.dtype, device)
    y = near(kept_beside.whole, kept_beside.dtype, device) if kept_beside else x
    return (reader, beside), HeldOut(x, y)


def _check_varies(reader: Reader) -> None:
    """Raise ``DataError`` if there is nothing to learn: all rows equal, to float32's precision."""
    moments, facts = reader.moments, reader.facts
    noise = np.finfo(np.float32).eps ** 2 * np.square(moments.mean).sum()
    if not moments.variance.sum() > noise:
        raise DataError(
            f"activations at site {facts['site']!r} do not vary: they are equal on all "
            f"{moments.rows:,} train rows, so there is nothing to take apart; choose another site"
        )


@contextmanager
def _watched(member: Trainer, recipe: Recipe, logs: Path) -> Iterator[None]:
    """Send a member's log, from its first row on, to the trackers that are asked for."""
    names = trackers.wanted()
    if not names:
        yield
        return
    name = f"{member.config.label()}-{recipe.key[:12]}"
    with trackers.opened(names, logs, name, recipe.config) as write:

        def watch(row: LogRow) -> None:
            write(row.step, row.figures())

        for row in member.rows:  # of an earlier, killed training
            watch(row)
        member.watch = watch
        yield


def _write(
    draft: Draft, member: Trainer, facts: Mapping[str, Any], to: Mapping[str, Any] | None
) -> None:
    """What a trained SAE leaves. facts: of what it reads; to: of what a transcoder writes."""
    sae, rows = member.result(), member.rows
    metadata = {
        "hook_name": tensor_lens_name(int(facts["layer"]), str(facts["hook"])),
        "model_name": facts["model"],
        "site": facts["site"],
        "training_tokens": rows[-1].tokens,
    }
    if to is not None:
        metadata["hook_name_out"] = tensor_lens_name(int(to["layer"]), str(to["hook"]))
        draft.facts["output_site"] = to["site"]
    with draft.writing(WEIGHTS) as path:
        save_weights(sae, path)
    draft.write_json(CONFIG, config_of(sae, metadata))
    table = pa.Table.from_pylist([asdict(row) for row in rows])
    if member.held_out is None:
        table = table.drop_columns(["held_out_fvu"])
    draft.write_table(TRAINING_LOG.file, table)
    draft.facts.update(
        architecture=sae.architecture,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        site=facts["site"],
        tokens=rows[-1].tokens,
        steps=rows[-1].step,
        train_fvu=rows[-1].fvu,
        train_l0=rows[-1].l0,
        train_dead_share=rows[-1].dead_share,
    )
    if not member.config.by_number:
        draft.facts[FACTOR] = member.penalty_factor
