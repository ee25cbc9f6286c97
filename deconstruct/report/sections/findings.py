"""What a run found, in sentences, each with what it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deconstruct.common.showing import printable
from deconstruct.report.html import count, number, percent
from deconstruct.report.reading.records import Record
from deconstruct.report.sections.look import Found, Look


class Finding(NamedTuple):
    """A finding. latents: that it is about, each with
    what it is of. to: the section that has more of it."""

    title: str
    told: str
    not_shown: str
    to: str
    latents: tuple[tuple[str, int], ...] = ()


def findings(look: Look, found: Mapping[str, Found | None]) -> list[Finding]:
    """What there is to say. found: the other sections by name; None of those that have nothing."""
    return [
        *_faithful(look.head),
        *_massive(look),
        *_labels(found.get("labels")),
        *_probes(found.get("labels")),
        *_clusters(look.head, found.get("clusters")),
        *_words(found.get("dictionary")),
    ]


def _faithful(head: Mapping[str, Record]) -> Iterator[Finding]:
    if "fvu_typical" not in head:
        return
    typical = head["fvu_typical"]
    told = f"{_ranged(typical)} of the variance of typical held-out tokens is not rendered"
    if "fvu" in head:
        told += f"; of all tokens, outliers among them, {number(head['fvu']['value'])}"
    if "delta_loss" in head:
        told += f". In the place of the activations it costs {_ranged(head['delta_loss'])} nats"
        if "loss_clean" in head:
            told += f", where the model alone loses {number(head['loss_clean']['value'])}"
    yield Finding(
        f"The SAE renders {percent(1 - typical['value'])} of what typical tokens vary by",
        f"{told}.",
        "that a latent means anything: random directions render variance too, which is what "
        "controls are for.",
        "numbers",
    )


def _massive(look: Look) -> Iterator[Finding]:
    found = look.massive
    if not found.heavy:
        return
    words = ", ".join(f"“{printable(row['token'])[:20]}”" for row in found.tokens[:3])
    told = f"They are {words}" if words else "Which tokens they are is not on record"
    if found.share is not None and found.variance_share is not None:
        told += (
            f": {100 * found.share:.2g} % of the held-out tokens, which hold "
            f"{percent(found.variance_share)} of the variance"
        )
    for row in found.suspects:
        told += (
            f". In cluster {row['cluster']}, {percent(row['share'])} of the documents hold one, "
            f"of all documents {percent(row['share_of_all'])}"
        )
    where = ": such documents stand apart on the map as the probe reads them"
    where = where if found.mapped else ""
    yield Finding(
        "A few tokens drown the others: massive activations",
        f"{told}. Means and maxima over a document that holds one are about it{where}.",
        "that the model does nothing with them; they may serve attention.",
        "dictionary",
        tuple(("", row["latent"]) for row in found.latents[:5]),
    )


def _labels(it: Found | None) -> Iterator[Finding]:
    cards = it["cards"] if it else []
    if not cards:
        return
    yield Finding(
        "Single latents tell labels apart",
        "Those that tell best, chosen on train documents."
        if it and it["ready"]
        else "Those that speak most for a label in the probe.",
        "that the model uses them: what goes with a label is carried along with it.",
        "labels",
        tuple((str(card["label"]), card["latents"][0]["latent"]) for card in cards[:6]),
    )


def _probes(it: Found | None) -> Iterator[Finding]:
    of = {row["representation"]: row for row in (it or {}).get("probes", ()) if row["k"] == "all"}
    if "latents" not in of or "activations" not in of:
        return
    own, whole = of["latents"], of["activations"]
    gap, low, high = own["gap"], own["gap_low"], own["gap_high"]
    told = f"Mean score {number(own['value'])} off all latents, {number(whole['value'])} off the "
    told += "activations"
    told += (
        f", {number(of['tfidf']['value'])} off the words alone (tf-idf)" if "tfidf" in of else ""
    )
    if low is None or high is None:
        title = "Labels are read off latents"
    else:
        told += f". Latents less activations, by document: {number(gap)} ({number(low)} to "
        told += f"{number(high)})"
        title = "Labels are read off latents as well as off activations"
        title = "Latents lose something of the labels" if high < 0 else title
        title = "Labels are read off latents better than off activations" if low > 0 else title
    yield Finding(
        title,
        f"{told}.",
        "that latents are needed: where words alone do as well, there is little to add.",
        "labels",
    )


def _clusters(head: Mapping[str, Record], it: Found | None) -> Iterator[Finding]:
    if it is None:
        return
    again = head.get("cluster_stability")
    told = (
        f"They agree with the labels at NMI {number(head['nmi']['value'])}" if "nmi" in head else ""
    )
    words = next((row for row in it["scores"]["rows"] if row[0] == "nmi"), None)
    columns = it["scores"]["columns"]
    if told and words and "tfidf" in columns:
        value = words[columns.index("tfidf")]
        told += f"; clusters of the same documents by their words (tf-idf) at {number(value)}"
    title = f"The documents fall into {count(it['all'], 'cluster')}"
    if again:
        title += f", found again at {number(again['value'], 2)} (ARI)"
    yield Finding(
        title,
        f"{told}." if told else "There are no labels to compare them with.",
        "anything of unseen text: clusters are of all documents, none held out, and each method "
        "finds clusters where there are none.",
        "clusters",
    )


def _words(it: Found | None) -> Iterator[Finding]:
    for row in (it or {}).get("scores", ()):
        if row["method"] != "intruder-tfidf" or row["value"] is None:
            continue
        yield Finding(
            f"In {percent(row['value'])} of the trials words give an intruder away",
            f"Among contexts of a latent one is of another; told by words alone it is found at "
            f"{percent(row['value'])}, by guessing at {percent(row['floor'])}, over "
            f"{count(row['n'], 'latent')}.",
            "what the others mean: a latent for a thought that many words can have fails here.",
            "dictionary",
        )


def _ranged(figure: Record) -> str:
    told = number(figure["value"])
    if figure["low"] is None or figure["high"] is None:
        return told
    return f"{told} ({number(figure['low'])} to {number(figure['high'])})"
