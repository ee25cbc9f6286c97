"""The configuration as TOML, each guess with its reason above it."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import DataError
from deconstruct.common.paths import absolute
from deconstruct.common.site import Site
from deconstruct.config import CorpusConfig, ModelConfig, RunConfig
from deconstruct.corpus import hub, sources
from deconstruct.corpus.reading.forms import SUFFIXES
from deconstruct.corpus.sources import ResolvedSource
from deconstruct.model.embedded import PREFIX
from deconstruct.model.kinds import check_kind
from deconstruct.model.resolve import TESTED, ResolvedModel, glimpse
from deconstruct.suggest.columns import Guess, guess
from deconstruct.suggest.sample import Column, Sample, characters, draw
from deconstruct.suggest.sizes import FEW_TOKENS, Sizes, fitting, lengths_of, two_digits

WIDTH = 88
SHOWN = 3
"""Of values, or of columns, so many are named."""


def suggest(
    source: str, model: str | None = None, subset: str | None = None, root: DataRoot | None = None
) -> str:
    """A commented TOML configuration for texts and a language model that nobody has described.

    source: as ``corpus.source``, subset: of a hub data set. model: as ``model.name``; None: the
    embedded one. root: where that is unpacked, if it is anywhere. Of the source at most some
    thousand rows are looked at, of the model its config.json and tokenizer. Paths stay as they were
    given. Raises ``DeconstructError`` for what `run` would refuse too, and where no column reads as
    text.
    """
    settings = ModelConfig() if model is None else ModelConfig(name=_not_a_hub_id(model))
    found = glimpse(root, settings)
    site = Site(found.layers // 2, "resid_post")
    _check_site(found, site)
    corpus = CorpusConfig(source=source, subset=subset)
    sample = draw(corpus)
    if sample.rows == 0:
        raise DataError(f"corpus.source {sample.name!r} is empty: it has no documents")
    columns = guess(sample)
    texts = [text for text in columns.text.filled if text.strip()]
    if not texts:
        told = ResolvedSource("csv", sample.name, "")
        named = corpus.model_copy(update={"text_column": columns.text.name})
        raise sources.without_text(told, named, sample.documents)
    if sample.documents == sample.rows and len(set(texts)) == 1:
        raise DataError(
            f"corpus.source {sample.name!r} has one text only; at least two that differ are "
            "needed, one to learn from and one held out"
        )
    documents = max(1, round(sample.documents * len(texts) / sample.rows))
    sizes = fitting(found.d_model, found.positions, lengths_of(found, texts), documents)
    lines = [
        *_head(source, model),
        *_model(settings),
        *_corpus(corpus, sample, columns, sizes, found),
        *_rest(site, sizes, found),
    ]
    page = "\n".join(lines) + "\n"
    RunConfig.model_validate(tomllib.loads(page))
    return page


def name_of(source: str) -> str:
    """What a configuration of a source is called: its file's, folder's or data set's own name."""
    if source.startswith((hub.PREFIX, PREFIX)):
        return source.replace("/", ":").rsplit(":", 1)[-1] or "texts"
    path = absolute(source)
    return (path.stem if path.suffix.lower() in SUFFIXES else path.name)[:100] or "texts"


def _not_a_hub_id(model: str) -> str:
    """The name of a folder so that it is one wherever it is read: "gpt2" could be the hub's."""
    bare = not model.startswith(("/", "./", "../", "~", PREFIX))
    return f"./{model}" if bare and absolute(model).is_dir() else model


def _check_site(model: ResolvedModel, site: Site) -> None:
    if model.family in TESTED:
        return
    check_kind(model)
    from deconstruct.model.skeleton import check_hooks  # torch and transformers: seconds

    check_hooks(model, [site])


def _head(source: str, model: str | None) -> Iterator[str]:
    yield from _comment(
        f"Guessed by 'deconstruct init' from {_shown(source)}: look it over. 'deconstruct config' "
        "tells of every field and its default."
    )
    yield f"name = {quoted(name_of(source))}"


def _model(settings: ModelConfig) -> Iterator[str]:
    yield from ("", "[model]", f"name = {quoted(settings.name)}")


def _corpus(
    config: CorpusConfig, sample: Sample, columns: Guess, sizes: Sizes, model: ResolvedModel
) -> Iterator[str]:
    yield from ("", "[corpus]", f"source = {quoted(config.place)}")
    if config.subset is not None:
        yield f"subset = {quoted(config.subset)}"
    if sample.splits is not None:
        yield from _comment(
            "Splits that are read: there is "
            + _listed([f"{_shown(name)} ({rows:,} rows)" for name, rows in sample.splits.items()])
            + ". Held-out documents are drawn from what is read."
        )
        yield f"splits = [{quoted(next(iter(sample.splits)))}]"
    yield from _text(columns)
    yield from _label(sample, columns)
    yield from _length(sizes, model)
    if sizes.limit is not None:
        yield from _comment(
            f"Of {_about(sample)} documents, drawn evenly: about {_round(sizes.recorded)} tokens, "
            f"whose activations take {sizes.recorded * model.d_model * 4e-9:.1f} GB. Without this "
            "line all are read."
        )
        yield f"limit = {_number(sizes.limit)}"
    held_out = round(sizes.documents * sizes.test_share)
    about = f"{_about(sample)} documents" if sizes.limit is None else "them"
    yield from _comment(f"Held out of {about}: about {max(1, held_out):,}.")
    yield f"test_share = {sizes.test_share}"


def _text(columns: Guess) -> Iterator[str]:
    others = [f"{_shown(c.name)} ({characters(c):,.0f})" for c in columns.texts]
    yield from _comment(
        f"The longest texts: {characters(columns.text):,.0f} characters on average."
        + (f" There is also {_listed(others)}." if others else "")
    )
    yield f"text_column = {quoted(columns.text.name)}"


def _label(sample: Sample, columns: Guess) -> Iterator[str]:
    label = columns.label
    among = f"among {sample.rows:,} rows" + (" of its beginning" if sample.head else "")
    if label is not None:
        others = [f"{_shown(c.name)} ({len(c.counts)} values)" for c in columns.labels]
        yield from _comment(
            f"{len(label.counts)} values {among}: {_values(label)}."
            + (f" There is also {_listed(others)}." if others else "")
            + ' Without labels: "none".'
        )
    elif not sample.folder:
        yield from _comment(f"No column has few values that come again and again {among}.")
    elif not columns.splits:
        yield from _comment("Labels are the names of folders, and there are not several.")
    for column in columns.splits:
        if sample.folder:
            aside = f"Folders {_values(column)} are no classes; name one as source for those in it."
        else:
            aside = (
                f"Column {_shown(column.name)} ({_values(column)}) is not used: what is held out "
                "is drawn by a digest of the text, so that equal texts are on one side."
            )
        yield from _comment(aside)
    yield f"label_column = {quoted(label.name if label else 'none')}"


def _length(sizes: Sizes, model: ResolvedModel) -> Iterator[str]:
    how = "by the model's tokenizer" if model.unpacked else "if 4.5 characters make one"
    longer = "no text is longer"
    if sizes.whole < 1:
        longer = f"{max(0.01, 1 - sizes.whole):.0%} of the texts are longer and are cut there"
    positions = f" The model has {model.positions:,} positions." if model.positions else ""
    yield from _comment(f"Tokens kept of a text, {how}: {longer}.{positions}")
    yield f"max_tokens = {sizes.max_tokens}"


def _rest(site: Site, sizes: Sizes, model: ResolvedModel) -> Iterator[str]:
    yield from ("", "[activations]")
    yield from _comment(
        f"The residual stream in the middle of {model.layers} blocks, of width {model.d_model:,}."
    )
    yield f'sites = ["{site}"]'
    yield from ("", "[sae]")
    yield from _comment(f"Latents: {sizes.d_sae // model.d_model or 1} times the width.")
    yield f"d_sae = {_number(sizes.d_sae)}"
    yield from _comment("Latents that fire on a token.")
    yield f"k = {sizes.k}"
    few = " They are few for an SAE: read more text." if sizes.train_tokens < FEW_TOKENS else ""
    yield from _comment(
        f"Tokens trained on, repeats included: about {_round(sizes.train_tokens)} are not held "
        f"out, so each is seen about {sizes.passes:.0f} times.{few}"
    )
    yield f"tokens = {_number(sizes.tokens)}"
    yield from _comment(f"Tokens in a step, of which there are {sizes.steps:,}.")
    yield f"batch_size = {sizes.batch_size}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _values(column: Column) -> str:
    total = column.counts.total()
    told = [f"{_shown(v)} {n / total:.0%}" for v, n in column.counts.most_common()]
    return _listed(told)


def _listed(things: Sequence[str]) -> str:
    more = len(things) - SHOWN
    return ", ".join(things[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _about(sample: Sample) -> str:
    return f"{sample.documents:,}" if sample.counted else f"about {_round(sample.documents)}"


def _round(number: float) -> str:
    return f"{two_digits(number):,}"


def _number(number: int) -> str:
    return f"{number:_}" if number >= 10_000 else str(number)


def _shown(text: str) -> str:
    """A name or a value within a comment: on one line, not too long, no control characters."""
    return quoted(text if len(text) <= 40 else text[:37] + "...")


def quoted(text: str) -> str:
    """A TOML string. JSON's escapes are TOML's, but for DEL, and halves of a surrogate."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def default_file(source: str) -> Path:
    """Where the configuration of a source is written if nobody says: in the current folder."""
    return Path(f"{name_of(source)}.toml")
