"""``/run/ID/map``: documents by their latents, latents by their decoder rows; and what marks a
selection."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.chosen import packed, unpacked
from deconstruct.explorer.ready import Kept
from deconstruct.report.reading.corpus import places
from deconstruct.report.reading.corpus.marks import Marks, marks
from deconstruct.store import QueryError
from deconstruct.store.pages import check_latent

WHAT = ("documents", "pooled", "latents")
"""documents: by their latents as clusters weigh them; pooled: by mean activations, as probes read
them; latents: by their decoder rows."""
GRID = 10_000
"""Places are sent as whole numbers, 0 to this, on both axes."""
LISTED = 12
"""Documents of a selection that are shown."""

_KEPT = Kept[places.Places](most=4)


def _map(asked: Asked) -> Response:
    of = _of(asked)
    there = _places(asked)
    chosen = _chosen(asked)
    # What takes seconds of a large run comes after the page, but where it is asked for at once.
    shown, later = None, ""
    if of != "latents":
        if asked.app.ready.there(asked.run_id) is None and not asked.word("now"):
            asked.app.ready.begin(asked.run_id)
            later = asked.request.url.query if chosen is not None else ""
        elif chosen is not None:
            shown = _marked(asked, chosen)
    latent = asked.number("latent", -1, -1)
    if latent >= 0:
        check_latent(asked.store, asked.run_id, latent)
    settings = {
        "of": of,
        "base": asked.links.run(part="map"),
        "run": asked.links.run(),
        "ways": [name for name in there.groups if name != "all"],
        "latent": latent,
        "selected": packed(chosen) if chosen is not None else "",
    }
    massive = 0
    if "massive tokens" in there.groups:
        massive = len(places.members(asked.store, asked.run_id))
    return asked.page(
        "map.html", settings=settings, n=len(there.ids), of=of, shown=shown, later=later,
        massive=massive,
    )  # fmt: skip


def _of(asked: Asked) -> str:
    """What the map is of. Raises ``QueryError`` for what there is no map of."""
    of = asked.word("of", WHAT[0])
    if of not in WHAT:
        raise QueryError(f"of = {of[:40]!r}: {', '.join(WHAT)}")
    return of


def _places(asked: Asked) -> places.Places:
    """The map; kept, as a page asks for one, and then its points for the same."""
    of = _of(asked)
    key = str(asked.app.home), asked.publication, asked.run_id, of
    found = _KEPT.get(key)
    if found is None:
        if of == "latents":
            found = places.latents(asked.store, asked.run_id)
        else:
            found = places.documents(asked.store, asked.run_id, pooled=of == "pooled")
        _KEPT.put(key, found)
    return found


def _points(asked: Asked) -> Response:
    there = _places(asked)
    x, y = _on_grid(there.x, there.y)
    told: dict[str, Any] = {
        "ids": there.ids.tolist(),
        "x": x.tolist(),
        "y": y.tolist(),
        "ways": {
            name: {"names": way.names, "of": way.of.tolist()} for name, way in there.groups.items()
        },
    }
    return asked.json(told)


def _on_grid(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both axes by one scale, the larger one over the whole grid, the other in the middle of it."""
    low = np.array([x.min(), y.min()])
    spans = np.array([x.max(), y.max()]) - low
    scale = GRID / max(float(spans.max()), 1e-9)
    left, bottom = (GRID - spans * scale) / 2
    return (
        np.rint((x - low[0]) * scale + left).astype(int),
        np.rint((y - low[1]) * scale + bottom).astype(int),
    )


def _strengths(asked: Asked) -> Response:
    latent = asked.number("latent", 0)
    check_latent(asked.store, asked.run_id, latent)
    documents, means = places.strengths(asked.store, asked.run_id, latent)
    return asked.json({"ids": documents.tolist(), "mean": np.round(means, 4).tolist()})


def _point(asked: Asked) -> Response:
    number = asked.number("id", 0)
    if _of(asked) == "latents":
        return asked.page("map_latent.html", found=_latent_list(asked, [number]))
    found = places.glances(asked.store, asked.run_id, [number])
    if not found:
        raise QueryError(f"run {asked.run_id} has no document {number}")
    return asked.page("map_document.html", one=found[0])


def _marks(asked: Asked) -> Response:
    chosen = _chosen(asked)
    if chosen is None:
        raise QueryError("nothing is selected: selected = a set of documents")
    if _of(asked) == "latents":
        return asked.page(
            "map_latent.html", found=_latent_list(asked, chosen.tolist()),
            n=len(chosen),
        )  # fmt: skip
    return asked.page("marks.html", **_marked(asked, chosen))


def _marked(asked: Asked, chosen: np.ndarray) -> dict[str, Any]:
    found: Marks = marks(
        asked.store, asked.run_id, chosen.tolist(), asked.app.ready.of(asked.store, asked.run_id)
    )
    step = max(1, len(chosen) // LISTED)
    some = chosen[::step][:LISTED].tolist()
    return {"found": found, "some": places.glances(asked.store, asked.run_id, some)}


def _latent_list(asked: Asked, chosen: list[int]) -> list[places.LatentGlance]:
    return places.latent_glances(asked.store, asked.run_id, chosen, most=100)


def _chosen(asked: Asked) -> np.ndarray | None:
    """The documents of the address: a set, those of a cluster or of a label, those that hold a
    massive token."""
    if text := asked.word("selected"):
        return unpacked(text)
    if label := asked.word("label"):
        return np.array(places.members(asked.store, asked.run_id, label=label))
    if asked.word("cluster"):
        cluster = asked.number("cluster", 0)
        return np.array(places.members(asked.store, asked.run_id, cluster=cluster))
    if asked.word("massive"):
        return np.array(places.members(asked.store, asked.run_id))
    return None


PAGES = (
    Page("/run/{run}/map", _map),
    Page("/run/{run}/map/points", _points),
    Page("/run/{run}/map/strengths", _strengths),
    Page("/run/{run}/map/point", _point),
    Page("/run/{run}/map/marks", _marks),
)
