"""How a run came about, and how it stands to others: training, drift, and the sweep it is of."""

from __future__ import annotations

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.drift import before_and_since, known
from deconstruct.report.reading.latent import Token
from deconstruct.report.reading.records import records
from deconstruct.report.sections.look import Found, Look

MOVED = 10
"""Latents that a drift shows in each direction."""
AROUND = 6
"""Tokens on each side of the one that a latent fires on most strongly."""

_DRIFT = """
SELECT subject, metric, reference, current, difference, ci_low, ci_high, n_reference, n_current
FROM drift WHERE run_id = $run_id ORDER BY subject, metric
"""
_MOVED = """
SELECT l.latent, l.reference_density, l.current_density, l.log2_ratio, f.top_token,
    f.max_activation AS largest
FROM latent_drift AS l JOIN features AS f ON f.run_id = l.run_id AND f.latent = l.latent
WHERE l.run_id = $run_id AND sign(l.log2_ratio) = $sign
ORDER BY abs(l.log2_ratio) DESC, l.latent LIMIT $n
"""
_SWEEP = """
SELECT architecture, d_sae, k, seed, l0, fvu_typical, fvu_typical_low, fvu_typical_high, delta_loss,
    dead_share, on_front, on_loss_front, run_id
FROM pareto($plain) WHERE site = $site AND analysis = $analysed ORDER BY l0, fvu_typical, run_id
"""


def training(look: Look) -> Found:
    """The log of the training."""
    if not look.has("training_log"):
        raise Missing("The dictionary was trained elsewhere: there is no log of it.")
    return {"figures": look.figures("training")}


def drift(look: Look) -> Found:
    """What the SAE makes of documents that came after it."""
    rows = look.records(_DRIFT)
    if not rows:
        raise Missing(
            "Nothing to compare: drift is measured of runs that keep a standing SAE "
            "(deconstruct run --growth encode)."
        )
    up = look.records(_MOVED, sign=1, n=MOVED)
    down = look.records(_MOVED, sign=-1, n=MOVED)
    look.name(row["latent"] for row in (*up, *down))
    reference = known(look.store, look.run_id).reference
    moved = [
        (words, [{**row, "contexts": _contexts(look, row["latent"], reference)} for row in of])
        for words, of in (("more often than before", up), ("less often than before", down))
    ]
    return {"rows": rows, "moved": moved, "figures": look.figures("drift", "drifted_latents")}


def _contexts(look: Look, latent: int, reference: int) -> list[tuple[str, list[Token]]]:
    """Where a latent fires most strongly in documents before, those below ``reference``, and in
    those since; no tokens where it never fires."""
    pair = before_and_since(look.store, look.run_id, latent, reference, width=AROUND)
    return [
        (words, context.tokens if context else [])
        for words, context in zip(("before", "since"), pair, strict=True)
    ]


def sweep(look: Look) -> Found:
    """The runs that carry the run's name, if it is one of a sweep."""
    asked = {name: look.run[name] for name in ("plain", "site", "analysed")}
    rows = records(look.store, _SWEEP, **asked)
    kinds = {(row["architecture"], row["d_sae"], row["k"], row["seed"]) for row in rows}
    if len(kinds) < 2:
        raise Missing("This run is not one of a sweep.")
    return {"rows": rows, "figures": look.figures("sweep")}
