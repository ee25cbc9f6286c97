"""Tables of the stage explanation."""

from deconstruct.artifacts.table import LATENT, Column, Table
from deconstruct.interpretation.tables import ITEMS, SCORES

EXPLANATIONS = Table(
    "explanations",
    "What a language model wrote of latents from contexts of train documents.",
    ("latent",),
    (
        LATENT,
        Column("text", "VARCHAR", "The explanation; null where none could be read."),
        Column("model", "VARCHAR", "The language model that was asked, by the endpoint's name."),
        Column("prompt", "VARCHAR", "SHA-256 of the prompt."),
        Column("shown", "UBIGINT[]", "token_index of the contexts that it was shown."),
    ),
    "explanations.parquet",
)

EXPLANATION_ITEMS = Table(
    "explanation_items",
    "Every context that a language model was asked about, and its answer, one row each: the scores "
    "are computed from these rows. No context that was shown for the explanation is among them.",
    ("latent", "method", "item", "token_index"),
    ITEMS,
    "explanation_items.parquet",
)

EXPLANATION_SCORES = Table(
    "explanation_scores",
    "How well a language model tells a latent's contexts, on held-out documents: with its "
    "explanation (detection, fuzzing) and without one (intruder-endpoint).",
    ("latent", "method"),
    SCORES,
    "explanation_scores.parquet",
)

RESPONSES = Table(
    "responses",
    "What the endpoint answered to each prompt, so that nothing is asked twice.",
    ("prompt",),
    (
        Column("prompt", "VARCHAR", "SHA-256 of model and prompt."),
        Column("response", "VARCHAR", "The answer's text."),
        Column("tokens_in", "UBIGINT", "Tokens of the prompt, as the endpoint counts them."),
        Column("tokens_out", "UBIGINT", "Tokens of the answer."),
    ),
    "responses.parquet",
)
"""No table of the store: its file stays with the artifact."""

TABLES = (EXPLANATIONS, EXPLANATION_SCORES, EXPLANATION_ITEMS)
