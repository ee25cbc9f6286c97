"""Tables of the stage interpretation."""

from deconstruct.artifacts.table import LATENT, Column, Table

_METHOD = Column(
    "method",
    "VARCHAR",
    "intruder-tfidf, by words alone; intruder-endpoint, detection or fuzzing, by a language model.",
)
ITEMS = (
    LATENT,
    _METHOD,
    Column(
        "item",
        "UINTEGER",
        "Question, numbered from 0 by latent and method: of intruders the trial of five contexts, "
        "else the one context that is judged.",
    ),
    Column(
        "token_index",
        "UBIGINT",
        "Token in the middle of the context: key of tokens. It fires there, or nowhere near.",
    ),
    Column(
        "quantile",
        "UINTEGER",
        "Which of the parts of equal count the context's activation is in, 1 the weakest; of "
        "intruders that of the other contexts; null where silence is judged alone.",
    ),
    Column(
        "truth",
        "BOOLEAN",
        "Of intruders: this context is the one in which the latent is silent. Of detection: the "
        "latent fires in it. Of fuzzing: it fires on the tokens that are marked.",
    ),
    Column("answer", "BOOLEAN", "What was answered; null where no answer could be read."),
)
"""Columns of items, whoever answers them."""
SCORES = (
    LATENT,
    _METHOD,
    Column(
        "value",
        "DOUBLE",
        "Of intruders the share of trials in which it was found, else balanced accuracy; null "
        "where nothing could be asked or read.",
    ),
    Column("n", "UINTEGER", "Trials, or contexts, with an answer."),
    Column("failed", "UINTEGER", "Those whose answer could not be read; no part of the value."),
    Column("floor", "DOUBLE", "What guessing, or always the same answer, gives."),
    Column("ci_low", "DOUBLE", "Lower end of the value's 95% interval (Wilson)."),
    Column("ci_high", "DOUBLE", "Upper end."),
)
"""Columns of scores, likewise."""

INTERPRETATION_ITEMS = Table(
    "interpretation_items",
    "Every context that was put into a trial of the intruder score by words, and the answer: the "
    "scores are computed from these rows.",
    ("latent", "method", "item", "token_index"),
    ITEMS,
    "interpretation_items.parquet",
    in_place=True,
)

LATENT_SCORES = Table(
    "latent_scores",
    "How clear each of a sample of latents is by words alone, on held-out documents.",
    ("latent", "method"),
    SCORES,
    "latent_scores.parquet",
)

TABLES = (LATENT_SCORES, INTERPRETATION_ITEMS)
