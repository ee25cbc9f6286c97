"""Neuronpedia's bulk import: ``<model>/<source>/`` with metadata, features and activations.

The layout is that of SAEDashboard's exporter (``neuronpedia/neuronpedia_export.py``): rows of the
tables SourceRelease, Model, SourceSet and Source in ``*.jsonl``, and of Neuron and Activation in
``features/batch-N.jsonl.gz`` and ``activations/batch-N.jsonl.gz``. Columns that we don't know of a
latent (correlations, histograms of logits) are empty. What their exporter leaves null is told here:
``dataSource`` is the corpus and ``dataIndex`` the document's number in it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deconstruct.interop.formats.contexts import Context, Latent, latents
from deconstruct.interop.subject import Subject, slug
from deconstruct.interop.work import Made, Work
from deconstruct.sae.files import tensor_lens_name

CREATOR_VARIABLE = "DEFAULT_CREATOR_ID"
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user whom their exporter names where that variable is not set: each instance has it."""
BARS = 50
NEURONS = 3
"""Dimensions of the activation that a feature's decoder row lies along most."""
ARRAYS = (
    "topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values "
    "neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson "
    "correlated_neurons_l1 correlated_features_indices correlated_features_pearson "
    "correlated_features_l1 neg_str neg_values pos_str pos_values freq_hist_data_bar_heights "
    "freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values "
    "decoder_weights_dist vector"
).split()
"""Columns of Neuron that must be arrays, and are empty where nothing is known."""


def check(subject: Subject) -> None:
    """Every run that has latents can be shown."""


def write(work: Work, folder: Path) -> Made:
    """A batch of latents at a time."""
    subject = work.subject
    ids = _Ids(subject)
    place = folder / ids.model / ids.source
    for name in ("features", "activations"):
        (place / name).mkdir(parents=True)
    for name, row in _metadata(subject, ids, work.repository).items():
        _write(place / f"{name}.jsonl", [row])
    for number, batch in enumerate(latents(work.store, subject.run_id, subject.d_sae)):
        name = f"batch-{number}.jsonl.gz"
        _write(place / "features" / name, (_feature(one, subject, ids) for one in batch))
        _write(
            place / "activations" / name,
            (row for one in batch for row in _activations(one, subject, ids)),
        )
    where = f"{ids.model}/{ids.source}"
    loading = (
        f"Copy `{ids.model}` to where your Neuronpedia reads its data sets from, and import model "
        f"`{ids.model}`, source `{ids.source}` on its admin page."
    )
    contents = (
        f"`{where}/*.jsonl`: release, model, source set and source",
        f"`{where}/features/`: {subject.d_sae:,} latents",
        f"`{where}/activations/`: excerpts of the texts that they fire on. `dataSource` is the "
        "corpus, `dataIndex` the document's number in it",
    )
    return Made(loading, contents)


class _Ids:
    """Names that their tables go by."""

    def __init__(self, subject: Subject) -> None:
        self.creator = os.environ.get(CREATOR_VARIABLE) or CREATOR
        self.model = slug((subject.base_model or subject.model).split(":")[-1].split("/")[-1])
        self.set = slug(subject.name)
        self.source = f"{subject.site.layer}-{self.set}"
        self.created = subject.finished.isoformat()
        self.hook = tensor_lens_name(subject.site.layer, subject.site.hook)

    def activation(self, run_id: str, latent: int, order: int) -> str:
        """An id in the form of a cuid: the same whenever the run is taken out."""
        text = f"{run_id} {latent} {order}"
        return "c" + hashlib.sha256(text.encode()).hexdigest()[:24]


def _metadata(subject: Subject, ids: _Ids, repository: str | None) -> dict[str, dict[str, Any]]:
    """The one row of each table that tells what the features are of."""
    of = {"creatorId": ids.creator, "createdAt": ids.created}
    title = f"{subject.name}: {subject.architecture} {subject.kind}, {subject.d_sae} latents"
    release = {
        "name": f"{ids.set}-{subject.run_id}",
        "description": title,
        "descriptionShort": title,
        "creatorName": "",
        "creatorNameShort": "",
        "visibility": "PUBLIC",
        "isNewUi": False,
        "featured": False,
        "urls": [],
        "defaultUmapSourceIds": [],
    }
    model = {
        "id": ids.model,
        "instruct": ids.model.endswith("-it"),
        "displayNameShort": ids.model,
        "displayName": ids.model,
        "visibility": "PUBLIC",
        "inferenceEnabled": False,
        "layers": 0,
        "neuronsPerLayer": 0,
        "owner": "",
        "updatedAt": ids.created,
    }
    sourceset = {
        "modelId": ids.model,
        "name": ids.set,
        "description": title,
        "type": "",
        "creatorName": "",
        "releaseName": release["name"],
        "visibility": "PUBLIC",
        "hasDashboards": True,
        "urls": [],
    }
    source = {
        "id": ids.source,
        "modelId": ids.model,
        "setName": ids.set,
        "hasDashboards": True,
        "inferenceEnabled": False,
        "inferenceHosts": [],
        "visibility": "PUBLIC",
        "dataset": subject.source,
        "num_prompts": subject.documents,
        "num_tokens_in_prompt": subject.config.get("corpus", {}).get("max_tokens"),
        "hfRepoId": repository,
        "notes": f"run {subject.run_id} of Deconstruct, site {subject.site}",
    }
    rows = {"release": release, "model": model, "sourceset": sourceset, "source": source}
    return {name: row | of for name, row in rows.items()}


def _feature(latent: Latent, subject: Subject, ids: _Ids) -> dict[str, Any]:
    """A row of Neuron."""
    row: dict[str, Any] = {name: [] for name in ARRAYS}
    row |= {
        "modelId": ids.model,
        "layer": ids.source,
        "index": str(latent.number),
        "sourceSetName": ids.set,
        "creatorId": ids.creator,
        "createdAt": ids.created,
        "hookName": ids.hook,
        "hasVector": False,
        "vectorDefaultSteerStrength": 10,
        "maxActApprox": short(latent.strongest),
        "frac_nonzero": latent.density,
        "pos_str": [token for token, _ in latent.promoted],
        "pos_values": [short(logit) for _, logit in latent.promoted],
        "neg_str": [token for token, _ in latent.suppressed],
        "neg_values": [short(logit) for _, logit in latent.suppressed],
    }
    if latent.nearest is not None:
        row["topkCosSimIndices"] = [latent.nearest[0]]
        row["topkCosSimValues"] = [short(latent.nearest[1])]
    if latent.n_fires:
        step = latent.strongest / BARS
        row["freq_hist_data_bar_heights"] = latent.histogram(BARS)
        row["freq_hist_data_bar_values"] = [short((bar + 0.5) * step) for bar in range(BARS)]
    if latent.decoder:
        row |= _alignment(np.array(latent.decoder))
    return row


def _alignment(decoder: np.ndarray) -> dict[str, list[Any]]:
    """The dimensions in which a decoder row [d] is largest, and their shares of its L1 norm."""
    most = np.argsort(-np.abs(decoder), kind="stable")[:NEURONS]
    share = np.abs(decoder) / max(float(np.abs(decoder).sum()), 1e-30)
    return {
        "neuron_alignment_indices": most.tolist(),
        "neuron_alignment_values": [short(value) for value in decoder[most]],
        "neuron_alignment_l1": [short(value) for value in share[most]],
    }


def _activations(latent: Latent, subject: Subject, ids: _Ids) -> Iterator[dict[str, Any]]:
    """Rows of Activation: the strongest, which their pages know by a binMin of -1, then those of
    each interval, the strongest interval first."""
    groups: list[tuple[list[Context], float, float, float]] = [
        (latent.top, -1, latent.strongest, -1)
    ]
    groups += [(one.contexts, one.low, one.high, one.share) for one in latent.intervals]
    order = 0
    for contexts, low, high, share in groups:
        for context in contexts:
            values = [short(value) for value in context.values]
            yield {
                "id": ids.activation(subject.run_id, latent.number, order),
                "modelId": ids.model,
                "layer": ids.source,
                "index": str(latent.number),
                "creatorId": ids.creator,
                "createdAt": ids.created,
                "tokens": context.tokens,
                "values": values,
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "binMin": short(low),
                "binMax": short(high),
                "binContains": short(share),
                "qualifyingTokenIndex": context.at,
                "dataSource": subject.source,
                "dataIndex": str(context.doc_id),
                "dfaValues": [],
                "lossValues": [],
            }
            order += 1


def short(value: float) -> float:
    """Six digits of it, as many as float32 is good for."""
    return float(f"{value:.6g}")


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, gzipped where the name says so; the same bytes whenever they are written."""
    with path.open("wb") as file:
        packed = gzip.GzipFile("", "wb", 6, file, mtime=0) if path.suffix == ".gz" else None
        with packed or file as stream:
            for row in rows:
                stream.write(json.dumps(row, allow_nan=False).encode("ascii") + b"\n")
