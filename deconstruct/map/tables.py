"""Tables of the stage map."""

from deconstruct.artifacts.table import DOC_ID, LATENT, TOKEN_INDEX, Column, Table
from deconstruct.probe.tables import TASK

_X = Column("x", "FLOAT", "Place from left to right; what is far from what means nothing.")
_Y = Column("y", "FLOAT", "Place from below to above.")

DOCUMENT_MAP = Table(
    "document_map",
    "Two places in the plane for every document in which a latent fires: near those in which like "
    "latents fire (x, y), and near those of like pooled activations (pooled_x, pooled_y), as the "
    "probe reads them; t-SNE of either.",
    ("doc_id",),
    (
        DOC_ID,
        _X,
        _Y,
        Column(
            "pooled_x",
            "FLOAT",
            "The same of mean activations as they are, in which the strongest latents lead: where "
            "massive tokens draw documents together, it shows.",
        ),
        Column("pooled_y", "FLOAT", "Likewise."),
        Column("massive", "UINTEGER", "Massive tokens in it: see massive_tokens."),
    ),
    "document_map.parquet",
    in_place=True,
)

LATENT_MAP = Table(
    "latent_map",
    "A place in the plane for each latent that fires, near those whose decoder rows point its way "
    "(t-SNE); of more than map.max_latents a sample.",
    ("latent",),
    (LATENT, _X, _Y),
    "latent_map.parquet",
)

LATENT_HISTOGRAM = Table(
    "latent_histogram",
    "How strongly each latent fires where it does: its firings in 20 bins of equal width from 0 to "
    "its strongest; no row for an empty bin.",
    ("latent", "bin"),
    (
        LATENT,
        Column("bin", "UTINYINT", "Number of the bin, 0 (weakest) to 19."),
        Column("low", "FLOAT", "Lower end of the bin."),
        Column("high", "FLOAT", "Upper end; of bin 19 the latent's strongest activation."),
        Column("n", "UBIGINT", "Firings in it."),
    ),
    "latent_histogram.parquet",
    in_place=True,
)

LATENT_CONTEXTS = Table(
    "latent_contexts",
    "Firings over the whole range of each latent's activations: eight of each of five parts of "
    "equal count, in different documents where there are enough. The macro ready_contexts shows "
    "them; contexts_by_quantile draws the same when it is asked.",
    ("latent", "quantile", "place"),
    (
        LATENT,
        Column("quantile", "UTINYINT", "Which of the parts, 1 the weakest, 5 the strongest."),
        Column("place", "UTINYINT", "1 to 8: the order in which they are shown."),
        TOKEN_INDEX,
        Column("activation", "FLOAT", "How strongly the latent fires there."),
        Column("low", "FLOAT", "The part's weakest activation."),
        Column("high", "FLOAT", "Its strongest."),
        Column("n_fires", "UBIGINT", "Firings in the part."),
    ),
    "latent_contexts.parquet",
    in_place=True,
)

LABEL_LATENTS = Table(
    "label_latents",
    "The 50 latents that tell the documents of a class best from all other labelled ones, as the "
    "macro latents_for_label answers: chosen by cohen_d_train, all else on held-out documents.",
    ("task", "label", "latent"),
    (
        TASK,
        Column("label", "VARCHAR", "The class."),
        LATENT,
        Column("rank", "UINTEGER", "1 for the largest |cohen_d_train| of the class."),
        Column("cohen_d_train", "DOUBLE", "Cohen's d on train documents, which chose it."),
        Column("cohen_d", "DOUBLE", "Cohen's d on held-out documents."),
        Column("ci_low", "DOUBLE", "Lower end of its 95% interval."),
        Column("ci_high", "DOUBLE", "Upper end."),
        Column("auroc", "DOUBLE", "Area under the ROC curve of the pooled activation."),
        Column("difference", "DOUBLE", "mean_in - mean_out."),
        Column("mean_in", "DOUBLE", "Mean activation in documents of the class, zeros counted."),
        Column("mean_out", "DOUBLE", "The same in all other labelled documents."),
        Column("documents_in", "DOUBLE", "Share of the class's documents in which it fires."),
        Column("documents_out", "DOUBLE", "Share of the others in which it fires."),
    ),
    "label_latents.parquet",
)

MASSIVE_TOKENS = Table(
    "massive_tokens",
    "Massive activations by token: recorded tokens whose activation is more than "
    "map.massive_multiple times as far from the train rows' mean, squared, as their median. The "
    "100 tokens of largest variance_share.",
    ("token_id",),
    (
        Column("token_id", "UINTEGER", "Number in the tokenizer's vocabulary."),
        Column("token", "VARCHAR", "The token's text."),
        Column("n", "UBIGINT", "How often it is massive."),
        Column("n_tokens", "UBIGINT", "How often it is recorded at all."),
        Column("n_documents", "UINTEGER", "Documents in which it is massive."),
        Column("share", "DOUBLE", "Share of all recorded tokens that n is."),
        Column(
            "variance_share",
            "DOUBLE",
            "Share of the squared distances of all recorded tokens that these have.",
        ),
        Column(
            "max_ratio",
            "DOUBLE",
            "Largest squared distance of one, over the train rows' median.",
        ),
    ),
    "massive_tokens.parquet",
)

MASSIVE_LATENTS = Table(
    "massive_latents",
    "Latents that fire on massive tokens (five at least) on average ten times as strongly as "
    "anywhere else, or nowhere else: what pooled documents are made of where one holds such a "
    "token. The 100 of largest share_of_pooled.",
    ("latent",),
    (
        LATENT,
        Column("n_massive", "UBIGINT", "Massive tokens on which it fires."),
        Column("n_typical", "UBIGINT", "Other tokens on which it fires."),
        Column("mean_massive", "DOUBLE", "Its mean activation on the former, where it fires."),
        Column("mean_typical", "DOUBLE", "The same on the others; null where it fires on none."),
        Column("max_massive", "DOUBLE", "Its strongest activation on massive tokens."),
        Column("max_typical", "DOUBLE", "On all others; null where it fires on none."),
        Column("share_of_sum", "DOUBLE", "Share of the sum of its activations on massive tokens."),
        Column(
            "share_of_document_maxima",
            "DOUBLE",
            "Of the documents in which it fires, the share in which it does so on a massive token "
            "more strongly than on any other of the corpus: what pooling by max reads, at least.",
        ),
        Column(
            "share_of_pooled",
            "DOUBLE",
            "Of documents with a massive token, the mean share of the squared length of the pooled "
            "vector (mean over tokens) that is this latent's alone.",
        ),
        Column("token", "VARCHAR", "The massive token on which it fires most often."),
    ),
    "massive_latents.parquet",
)

TABLES = (
    DOCUMENT_MAP,
    LATENT_MAP,
    LATENT_HISTOGRAM,
    LATENT_CONTEXTS,
    LABEL_LATENTS,
    MASSIVE_TOKENS,
    MASSIVE_LATENTS,
)
