"""Sizes of a run that fit a source and a model: a length that most texts have, a batch that the
tokens fill, a dictionary that they can teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from deconstruct.common.errors import ConfigError
from deconstruct.model.resolve import ResolvedModel
from deconstruct.suggest.sample import evenly

LENGTHS = (16, 32, 64, 128, 256, 512)
WHOLE_SHARE = 0.9
"""The least of `LENGTHS` that leaves so many of the texts whole; else the greatest."""
CHARACTERS_A_TOKEN = 4.5
"""Of English, where there is no tokenizer to ask."""
COUNTED_TEXTS = 200
ACTIVATION_BYTES = 4_000_000_000
"""What activations may take on disk; more text is drawn from evenly."""
SKIPPED = 1
"""Of a document, `ActivationsConfig.skip_positions`."""
MANY_DOCUMENTS = 10_000
PASSES, MOST_PASSES = 4, 10
TRAINING_TOKENS = (1_000_000, 4_000_000)
"""A training has so many tokens, at least and at most, as far as passes go."""
TOKENS_A_LATENT = 16
WIDTHS = (16, 8, 4, 2, 1)
"""d_sae in multiples of d_in: the greatest for which a latent has its tokens."""
LARGEST_BATCH, STEPS = 4096, 200
FEW_TOKENS = 20_000
"""Train tokens below which an SAE learns little."""


@dataclass(frozen=True)
class Sizes:
    """documents: read of the source, all or as many as ``limit``. whole: share of the texts that
    ``max_tokens`` leaves whole. recorded, train_tokens: estimates."""

    documents: int
    limit: int | None
    max_tokens: int
    whole: float
    test_share: float
    recorded: int
    train_tokens: int
    d_sae: int
    k: int
    tokens: int
    batch_size: int

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / self.batch_size))

    @property
    def passes(self) -> float:
        return self.tokens / self.train_tokens


def lengths_of(model: ResolvedModel, texts: Sequence[str]) -> list[int]:
    """Tokens of some of the texts, as many as are worth knowing: about `LENGTHS`' greatest.

    Counted by ``tokenizer.json``, without `transformers`, which takes seconds to import; estimated
    where the folder has none.
    """
    longest = max(LENGTHS)
    chosen = [text[: 32 * longest] for text in evenly(texts, COUNTED_TEXTS)]
    file = model.folder / "tokenizer.json"
    if not model.unpacked or not file.is_file():
        return [1 + ceil(len(text) / CHARACTERS_A_TOKEN) for text in chosen]
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(file))
    except Exception as error:  # `tokenizers` raises nothing more special
        raise ConfigError(
            f"model.name = {model.name!r}: its tokenizer.json does not load ({error}); save it as "
            "a fast one"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(one.ids) for one in tokenizer.encode_batch(chosen)]


def fitting(width: int, positions: int | None, lengths: Sequence[int], documents: int) -> Sizes:
    """Sizes for so many documents, of which some have these ``lengths`` in tokens.

    width: of the model's residual stream. positions: tokens that it takes; None: any number.
    """
    longest = max(2, min(max(LENGTHS), positions or max(LENGTHS)))
    choices = [length for length in (*LENGTHS, longest) if length <= longest]
    whole = {n: sum(length <= n for length in lengths) / len(lengths) for n in choices}
    max_tokens = next((n for n in choices if whole[n] >= WHOLE_SHARE), longest)
    a_document = sum(max(0, min(n, max_tokens) - SKIPPED) for n in lengths) / len(lengths)
    a_document = max(a_document, 1 / len(lengths))
    most = ACTIVATION_BYTES / (4 * width * a_document)
    limit = two_digits(most) if documents > most else None
    documents = limit or documents
    test_share = 0.1 if documents >= MANY_DOCUMENTS else 0.2
    train_tokens = max(1, round(documents * a_document * (1 - test_share)))
    tokens = _training_tokens(train_tokens)
    d_sae = _latents(width, train_tokens)
    return Sizes(
        documents=documents,
        limit=limit,
        max_tokens=max_tokens,
        whole=whole[max_tokens],
        test_share=test_share,
        recorded=round(documents * a_document),
        train_tokens=train_tokens,
        d_sae=d_sae,
        k=min(32, max(1, width // 16), d_sae),
        tokens=tokens,
        batch_size=_power_below(min(LARGEST_BATCH, train_tokens / 4, tokens / STEPS)),
    )


def _training_tokens(train_tokens: int) -> int:
    least, most = TRAINING_TOKENS
    wanted = min(max(PASSES * train_tokens, least), MOST_PASSES * train_tokens)
    return two_digits(max(min(wanted, most), train_tokens))


def _latents(width: int, train_tokens: int) -> int:
    taught = train_tokens / TOKENS_A_LATENT
    d_sae = next((times * width for times in WIDTHS if times * width <= taught), width)
    return max(2, d_sae)


def _power_below(number: float) -> int:
    return int(2 ** floor(log10(number) / log10(2))) if number >= 1 else 1


def two_digits(number: float) -> int:
    """A whole number rounded to two digits that a person reads at a glance; 1 at least."""
    if number < 100:
        return max(1, round(number))
    unit = 10 ** (floor(log10(number)) - 1)
    return int(round(number / unit) * unit)
