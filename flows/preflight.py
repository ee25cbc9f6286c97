"""What is checked before any long work, what answers soonest first; none of it needs a server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DeconstructError
from deconstruct.common.site import Site
from deconstruct.config import TRAINING, RunConfig
from deconstruct.corpus import sources
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.sae.formats.hub import check_place

if TYPE_CHECKING:
    from deconstruct.model.resolve import ResolvedModel

FEW_BYTES_A_TOKEN = 16
"""A source with fewer bytes than this for each token of a batch has its documents counted."""


def preflight(
    root: DataRoot,
    config: RunConfig,
    device: str,
    whole: bool = True,
    trains: bool = True,
    unpack: bool = True,
) -> tuple[ResolvedModel, dict[str, ResolvedSource]]:
    """Find the model and all sources, and check what can be checked before any long work.

    whole: the source of [corpus] has all documents of the run, which does not go on from earlier
    ones. trains: whether the SAE is not of the store, so that what it comes from is needed.
    unpack: an embedded model too, which takes long; else, what is known of it is checked. Gives the
    sources by analysis. Raises ``DeconstructError`` for what can't be run, or if the remote can't
    be reached.
    """
    check_device(device)
    foreign = config.sae.pretrained
    if trains and foreign is not None:
        check_place(foreign)
    read = config.analysed()
    if foreign is None:
        read = {TRAINING: config.corpus} | read
    if not trains:
        read.pop(TRAINING, None)
    found = {}
    for name, corpus in read.items():
        with said_of(name):
            found[name] = sources.resolve(corpus)
    other_texts(config)
    if whole and trains and foreign is None:
        check_batch(config, found[TRAINING])
    if root.mirror is not None:
        root.mirror.check()
    from deconstruct.model.embedded import PREFIX
    from deconstruct.model.kinds import check_kind
    from deconstruct.model.resolve import glimpse, resolve

    packed = config.model.itself.startswith(PREFIX) and not unpack
    model = (glimpse if packed else resolve)(root, config.model)
    check_kind(model)
    for name, corpus in read.items():
        with said_of(name):
            model.check_length(corpus.max_tokens)
    sites = [Site.parse(site) for site in config.activations.sites]
    model.check_sites(sites)
    from deconstruct.model.skeleton import check_hooks  # torch: what needs none has been said

    check_hooks(model, sites)
    if trains and foreign is not None:
        from deconstruct.sae import pretrained

        pretrained.find(config, model)
    return model, found


def other_texts(config: RunConfig) -> tuple[ResolvedSource, ...]:
    """The sources of ``evaluation.other``, in their order, which read as each corpus that is judged
    on does. Raises ``DeconstructError``."""
    if not config.evaluation.other:
        return ()
    from deconstruct.evaluation.others import resolve

    corpora = config.analysed().values()
    found = [[resolve(corpus, other) for other in config.evaluation.other] for corpus in corpora]
    return tuple(found[0])


@contextmanager
def said_of(analysis: str) -> Iterator[None]:
    """What is wrong with a corpus, as a sentence that says of which analysis it is."""
    try:
        yield
    except DeconstructError as error:
        if analysis == TRAINING:
            raise
        raise type(error)(f"analysis {analysis!r}: {error}") from error


def check_device(device: str) -> None:
    """Raise ``ConfigError`` if it is not to be had; torch, which knows of GPUs, is slow to load."""
    if device in ("auto", "cpu"):
        return
    if not re.fullmatch("cuda(:[0-9]{1,4})?", device):
        raise ConfigError(f"there is no device {device!r} here; choose auto, cpu or cuda[:N]")
    from deconstruct.common.hardware import pick_device

    pick_device(device)


def check_batch(config: RunConfig, source: ResolvedSource) -> None:
    """Raise ``ConfigError`` if a batch is more than all documents, cut to their length, can fill.

    Files of so many bytes that a batch is small beside them are not read for it.
    """
    size, path = config.sae.batch_size, source.path
    if path is None or (path.is_file() and path.stat().st_size > FEW_BYTES_A_TOKEN * size):
        return
    if config.corpus.long_documents == "split":  # how many tokens a text gives is not known yet
        return
    documents, rows = sources.read(source, config.corpus)
    if not any(row.text and row.text.strip() for row in rows):
        raise sources.without_text(source, config.corpus, documents)
    most = documents * max(0, config.corpus.max_tokens - config.activations.skip_positions)
    if size > most:
        raise _too_large(size, f"{most} tokens that {documents} documents can give")


def check_recorded(config: RunConfig, corpus: Artifact) -> None:
    """The same of a corpus, whose tokens are known before they are run through the model."""
    size, skip = config.sae.batch_size, config.activations.skip_positions
    length = config.corpus.max_tokens
    most = 0
    for batch in corpus.rows("documents.parquet", ["split", "n_tokens"]):
        train = pc.equal(batch.column("split"), "train")
        tokens = pc.filter(batch.column("n_tokens"), train).to_numpy().astype(np.int64)
        windows, last = np.divmod(tokens, length)  # of a document that is no longer: one, or a last
        most += int((windows * max(length - skip, 0) + np.maximum(last - skip, 0)).sum())
    if size > most:
        raise _too_large(size, f"{most} recorded tokens of split 'train'")


def _too_large(size: int, most: str) -> ConfigError:
    return ConfigError(
        f"sae.batch_size = {size} is more than the {most}; lower it, or read more text"
    )
