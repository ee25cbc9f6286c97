"""Tables of the stage latents."""

from deconstruct.artifacts.table import DOC_ID, LATENT, TOKEN_INDEX, Column, Table
from deconstruct.features.tables import DIRECTIONS, FEATURES

_FIRINGS = (
    LATENT,
    TOKEN_INDEX,
    Column(
        "activation", "FLOAT", "How strongly the latent fires there; rows exist only where it does."
    ),
)

LATENTS = Table(
    "latents",
    "Every firing of every latent, in the order (latent, strongest first): fast by latent.",
    ("latent", "token_index"),
    _FIRINGS,
    "latents.parquet",
    in_place=True,
)

LATENTS_BY_TOKEN = Table(
    "latents_by_token",
    "The same rows as latents, in the order (token_index, latent): fast by token.",
    ("token_index", "latent"),
    _FIRINGS,
    "latents_by_token.parquet",
    in_place=True,
)

DOCUMENT_LATENTS = Table(
    "document_latents",
    "Firings pooled over each document; no row where a latent is silent.",
    ("doc_id", "latent"),
    (
        DOC_ID,
        LATENT,
        Column("n_fires", "UINTEGER", "Tokens of the document on which the latent fires."),
        Column(
            "mean", "FLOAT", "Mean activation over the document's recorded tokens, zeros counted."
        ),
        Column("max", "FLOAT", "Strongest activation in the document."),
    ),
    "document_latents.parquet",
    in_place=True,
)

TABLES = (LATENTS, LATENTS_BY_TOKEN, DOCUMENT_LATENTS, FEATURES, DIRECTIONS)
