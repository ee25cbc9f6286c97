"""What a finished run found, in a few lines, and what to type next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb
from rich.console import Console
from rich.text import Text

from deconstruct.artifacts import Artifact
from deconstruct.common.paths import absolute
from deconstruct.common.showing import printable, quoted
from deconstruct.config import TRAINING
from deconstruct.store import open_store
from deconstruct.store.ddl import literal
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.query import CALLED, report_file
from deconstruct.store.render import GAP, Listing, clipped, clipped_context, names_of, terminal
from tasks.planning import Plan

WIDTH = 80
"""Characters that texts in a summary keep to, on a wider terminal too."""
LABEL, SHORT, KEYWORDS = 20, 14, 5
"""Characters of a label in a table and in a sentence; words of a cluster."""
CLUSTERS, CONTEXTS, TOKENS = 3, 3, 12
"""Clusters and contexts that a summary has, and tokens on each side of a context's."""
SPARE = ("95%", "dead", "delta_loss", "seed")
"""Columns of a sweep's front that a narrow terminal does without, the first one first."""


_RUN = f"""
SELECT (SELECT arg_max({CALLED}, n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id),
    site, d_sae, training_tokens
FROM runs WHERE run_id = ?
"""
"""By the name that it was just executed under."""


_LATENT = (
    (
        "speaks most for {} in the probe",
        "SELECT latent, label FROM probe_weights JOIN runs USING (run_id) "
        "WHERE run_id = ? AND effect > 0 AND task = label_column "
        "ORDER BY effect DESC, label, latent LIMIT 1",
    ),
    (
        "sets the largest cluster apart",
        "SELECT latents[1], NULL FROM cluster_summary WHERE run_id = ? AND len(latents) > 0 "
        "ORDER BY size DESC, cluster LIMIT 1",
    ),
    (
        "fires most often",
        "SELECT latent, NULL FROM features WHERE run_id = ? AND NOT dead "
        "ORDER BY n_fires DESC, latent LIMIT 1",
    ),
)
"""Which latent a summary shows: the first of these that there is, with what it is chosen for."""

_CLUSTERS = """
SELECT size, top_label, top_label_share, keywords FROM cluster_summary WHERE run_id = ?
ORDER BY size DESC, cluster LIMIT ?
"""


class Figure(NamedTuple):
    """One figure of a run, with the ends of its 95% interval where it has one.

    reading: as `deconstruct.store.headlines.Headline` has it.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    reading: str


class Cluster(NamedTuple):
    """A cluster of documents: how many, which label is the most frequent in it and with what
    share (None: none has a label), and the words that set it apart."""

    size: int
    label: str | None
    share: float | None
    keywords: list[str]


class Shown(NamedTuple):
    """A latent, why it is the one that is shown (for which label, if for one), and its strongest
    contexts with the token that each is of."""

    number: int
    why: str
    label: str | None
    contexts: list[tuple[str, str]]


@dataclass(frozen=True)
class Findings:
    """What a run found, as far as a page has room for it. latent: None where all are dead."""

    figures: list[Figure]
    clusters: list[Cluster]
    latent: Shown | None


def findings(store: duckdb.DuckDBPyConnection, run_id: str) -> Findings:
    """The headline figures of a run, its largest clusters, and one of its latents."""
    clusters = store.execute(_CLUSTERS, [run_id, CLUSTERS]).fetchall()
    return Findings(
        _figures(store, run_id), [Cluster(*row) for row in clusters], _latent(store, run_id)
    )


def _figures(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Figure]:
    found = []
    for headline in HEADLINES:
        interval = ("NULL", "NULL") if headline.stage == "cluster" else ("ci_low", "ci_high")
        row = store.execute(headline.select("value", *interval), {"run_id": run_id}).fetchone()
        if row is not None and row[0] is not None:
            value, low, high = row
            found.append(Figure(headline.label, value, low, high, headline.reading))
    return found


def _latent(store: duckdb.DuckDBPyConnection, run_id: str) -> Shown | None:
    for why, query in _LATENT:
        row = store.execute(query, [run_id]).fetchone()
        if row is not None:
            contexts = store.execute(
                "SELECT context, token FROM top_contexts(?, ?, n := ?, width := ?)",
                [run_id, row[0], CONTEXTS, TOKENS],
            ).fetchall()
            return Shown(int(row[0]), why, row[1], contexts)
    return None


def print_summary(home: Path, run_id: str) -> None:
    """Print what a run found, on standard output, and what to type next."""
    console = terminal()
    with open_store(home, files=False, verify=False) as store:
        name, site, d_sae, tokens = _one(store, _RUN, run_id)
        found = findings(store, run_id)
    taught = "pretrained" if tokens is None else f"{tokens:,} training tokens"
    heading = f"  {site}, {d_sae} latents, {taught}"
    console.print(Text.assemble("\n", (printable(str(name)), "bold"), heading))
    console.print("On held-out documents, with 95% intervals; clusters are of all documents:")
    console.print(Listing(["", "", "", ""], [_shown(figure) for figure in found.figures]))
    if found.clusters:
        console.print(Text("\nThe largest clusters, with the words that set them apart", "bold"))
        console.print(Listing(["", "", ""], _told(found.clusters)))
    number = 0
    if found.latent is not None:
        number, why, label, contexts = found.latent
        told = why.format(f"'{clipped(label, SHORT)}'")
        console.print(Text(f"\nLatent {number} {told}; it is strongest in:", "bold"))
        for context, token in contexts:
            console.print(Text(f"  {clipped_context(context, token, WIDTH - 2)}"))
    question = (
        f"SELECT label, latent, effect FROM probe_weights WHERE run_id = {literal(run_id)} "
        "AND rank <= 3"
    )
    _print_next(console, home, ["show", run_id], ["latent", run_id, str(number)], ["sql", question])
    page = report_file(home, run_id)
    if page.exists():
        console.print(
            Text.assemble(("look", "dim"), f"  {page.resolve().as_uri()}"), soft_wrap=True
        )


def _shown(figure: Figure) -> tuple[Text, ...]:
    label, value, low, high, reading = figure
    interval = "" if low is None or high is None else f"{low:.3f} .. {high:.3f}"
    return (
        Text(label, style="bold"),
        Text(f"{value:.3f}", justify="right"),
        Text(interval, justify="right"),
        Text(reading, style="dim"),
    )


def _told(clusters: Sequence[Cluster]) -> list[tuple[str, str, str]]:
    """A row for each cluster: size, label, and as many of its words as there is room for."""
    sizes = [f"{one.size:,} document{'s' * (one.size != 1)}" for one in clusters]
    labels = [
        "" if one.share is None else f"{one.share:.0%} {clipped(one.label, LABEL)}"
        for one in clusters
    ]
    room = WIDTH - max(map(len, sizes)) - max(map(len, labels)) - 2 * GAP
    return [
        (size, label, _fitting(one.keywords[:KEYWORDS], room))
        for size, label, one in zip(sizes, labels, clusters, strict=True)
    ]


def _fitting(words: Sequence[str], room: int) -> str:
    """The first of the words, as many as there is room for; of one that is too long, a part."""
    for count in range(len(words), 1, -1):
        if len(shown := printable(", ".join(words[:count]))) <= room:
            return shown
    return clipped(words[0], room) if words else ""


def _print_next(console: Console, home: Path, *commands: list[str]) -> None:
    """What to type next, whole, for a shell in this folder."""
    beyond = [] if home == absolute("data") else ["--home", str(home)]
    console.print(Text("\nnext", style="dim"))
    for command in commands:
        console.print(
            Text(f"  {_command()} {' '.join(map(quoted, [*command, *beyond]))}"), soft_wrap=True
        )


def _command() -> str:
    """How the reader's shell finds this command: by its name, or by the path that started it."""
    if shutil.which("deconstruct"):
        return "deconstruct"
    started = Path(sys.argv[0])
    return os.path.relpath(started) if started.name == "deconstruct" else "deconstruct"


def _one(store: duckdb.DuckDBPyConnection, query: str, run_id: str) -> tuple[object, ...]:
    row = store.execute(query, [run_id]).fetchone()
    assert row is not None
    return row


def print_front(home: Path, sweep: str) -> None:
    """Print the runs of a sweep by L0, those on the front of L0 and fvu_typical marked."""
    with open_store(home, files=False, verify=False) as store:
        result = store.execute(
            "SELECT CASE WHEN p.on_front THEN '*' ELSE '' END AS front, "
            "p.site || CASE WHEN p.analysis = 'corpus' THEN '' ELSE '/' || p.analysis END AS site, "
            "p.architecture, "
            "p.d_sae, p.seed, p.l0, p.fvu_typical, "
            "printf('%.4f .. %.4f', p.fvu_typical_low, p.fvu_typical_high) AS \"95%\", "
            "p.delta_loss, p.dead_share AS dead, p.run_id FROM pareto(?) AS p",
            [sweep],
        )
        table = Listing(names_of(result), result.fetchall(), spare=SPARE)
    console = terminal()
    heading = "  * on the Pareto front of L0 and fvu_typical of its site; lower is better"
    console.print(Text.assemble("\n", (printable(sweep), "bold"), heading))
    console.print(table)
    _print_next(console, home, ["sql", f"FROM pareto({literal(sweep)})"])


def plan_record(plans: Sequence[Plan]) -> dict[str, object]:
    """What `print_plan` prints, as one object.

    ``stages``, in their order: whether each comes from cache, what sets it apart from the nearest
    that is there, and that one's key, seconds and bytes; null where it has none. ``seconds`` and
    ``bytes``: sums over what is to be made, as far as something near is known.
    """
    stages = [
        {
            "stage": plan.recipe.stage,
            "key": plan.recipe.key,
            "site": plan.recipe.config.get("site"),
            "analysis": plan.analysis,
            "cached": plan.there,
            "differences": list(plan.differences),
            "nearest": plan.nearest.key if plan.nearest else None,
            "seconds": plan.nearest.manifest.seconds if plan.nearest else None,
            "bytes": _bytes(plan.nearest) if plan.nearest else None,
        }
        for plan in plans
    ]
    near = [plan.nearest for plan in plans if plan.nearest is not None]
    seconds, size = sum(one.manifest.seconds for one in near), sum(map(_bytes, near))
    return {"stages": stages, "seconds": seconds, "bytes": size}


def _bytes(artifact: Artifact) -> int:
    return sum(entry.bytes for entry in artifact.manifest.files.values())


def _named(plan: Plan) -> str:
    site = plan.recipe.config.get("site")
    analysis = None if plan.analysis == TRAINING else plan.analysis
    return " ".join(filter(None, (plan.recipe.stage, site, analysis)))


def print_plan(plans: Sequence[Plan]) -> None:
    """Print what becomes of each stage, and what that takes, going by the nearest that is there."""
    console = terminal()
    seconds, size, unknown = 0.0, 0, []
    room = max(len(_named(plan)) for plan in plans)
    for plan in plans:
        how = Text("from cache", style="green")
        if not plan.there:
            how = Text(printable("made: " + "; ".join(plan.differences)), style="bold")
            if plan.nearest is None:
                unknown.append(plan.recipe.stage)
            else:
                seconds += plan.nearest.manifest.seconds
                size += _bytes(plan.nearest)
        console.print(Text(printable(f"{_named(plan):<{room}}  ")).append(how))
    console.print()
    if all(plan.there for plan in plans):
        console.print("nothing is left to do; the run is noted in the store")
    elif not seconds:
        console.print(
            "how long that takes is not known, as nothing like it is here yet; "
            "the run gives an estimate once its corpus is made"
        )
    else:
        console.print(
            f"about {seconds:,.0f} s and {size / 1e6:,.0f} MB, going by the nearest artifacts"
            + (f", without {', '.join(unknown)}: none is here yet" if unknown else "")
        )
