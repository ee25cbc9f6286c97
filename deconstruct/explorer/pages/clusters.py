"""``/run/ID/clusters``: what the documents of each cluster have in common."""

from __future__ import annotations

from starlette.responses import Response

from deconstruct.explorer.asked import Asked, Page
from deconstruct.explorer.pages.figures import OF_RUN
from deconstruct.report.reading.corpus.clusters import beside, clusters


def _clusters(asked: Asked) -> Response:
    asked.app.ready.begin(asked.run_id)
    found = clusters(asked.store, asked.run_id)
    labels: dict[str, int] = {}
    for one in found:
        for label, n in one.mix:
            labels[label] = labels.get(label, 0) + n
    order = sorted(labels, key=lambda label: (-labels[label], label))
    return asked.page(
        "clusters.html", clusters=found, beside=beside(asked.store, asked.run_id),
        colours={label: min(place, 8) for place, label in enumerate(order)},
        figures=[name for name in ("stability", "support") if name in OF_RUN],
    )  # fmt: skip


PAGES = (Page("/run/{run}/clusters", _clusters),)
