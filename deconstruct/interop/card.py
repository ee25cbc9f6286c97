"""The model card: README.md of a folder that is taken out, made from the run's numbers.

Names, labels and texts are shown and never obeyed: what a person or a data set brought is set as
code, or has all its punctuation escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import yaml

from deconstruct.common.showing import code, printable
from deconstruct.interop.subject import Metric, Subject

TAGS = ("deconstruct", "sparse-autoencoder", "mechanistic-interpretability")
LICENCE = "# license: not said yet; fill one in, for example 'license: mit', and take this line out"
KINDS = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka BatchTopK",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "relu": "ReLU",
}
HOOKS = {
    "resid_pre": "the residual stream that enters block {}",
    "resid_post": "the residual stream that leaves block {}",
    "mlp_in": "what the MLP of block {} reads, after its norm",
    "mlp_out": "what the MLP of block {} adds to the residual stream, after its post-norm if any",
    "attn_out": "what the attention of block {} adds to the residual stream, after its post-norm "
    "if any",
}
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def prose(text: object) -> str:
    """``text`` as Markdown's running text on one line, in a cell or out of it: no markup, link or
    HTML comes of it."""
    return _PUNCTUATION.sub(r"\\\1", printable(str(text)))


def card(subject: Subject, library: str, loading: str, contents: Sequence[str]) -> str:
    """The whole page.

    library: whose layout the folder has, for the hub. loading: Markdown of ours that says how the
    folder is read. contents: a line of Markdown for each thing in it.
    """
    return "\n".join(
        [
            _front(subject, library),
            f"# {_title(subject)}",
            "",
            *_facts(subject),
            "",
            "## How good it is",
            "",
            *_figures(subject),
            "",
            "## How to load it",
            "",
            loading.strip(),
            "",
            "## What is here",
            "",
            *(f"- {line}" for line in contents),
            "",
            "## Licence",
            "",
            "Not said yet: fill in `license` at the head of this file. What this is made of has "
            f"terms of its own: the model {code(subject.model)} and the texts "
            f"{code(subject.trained_on)}.",
            "",
        ]
    )


def _front(subject: Subject, library: str) -> str:
    """YAML as the hub reads it."""
    told: dict[str, Any] = {"library_name": library, "tags": [*TAGS, subject.architecture]}
    if subject.base_model is not None:
        told["base_model"] = subject.base_model
    if subject.dataset is not None:
        told["datasets"] = [subject.dataset]
    return f"---\n{LICENCE}\n{yaml.safe_dump(told, sort_keys=False)}---\n"


def _title(subject: Subject) -> str:
    kind = KINDS.get(subject.architecture, subject.architecture)
    return f"{code(subject.name)}: a {kind} {subject.kind} of {code(subject.model)}"


def _facts(subject: Subject) -> list[str]:
    """A table of what it is, and of what it was made from."""
    config = subject.config
    rows = [
        ("model", _at(subject.model, subject.model_revision)),
        ("reads", _site(subject.site)),
        ("reconstructs", _site(subject.output_site) if subject.output_site else "the same"),
        ("latents", f"{subject.d_sae:,}, of activations of width {subject.d_in:,}"),
        ("latents per token", "" if subject.k is None else f"{subject.k:,}"),
        ("taken from", "" if subject.taken_from is None else code(subject.taken_from, cell=True)),
        ("trained on", _trained(subject)),
        ("judged on", _judged(subject)),
        ("seed", str(config.get("sae", {}).get("seed", ""))),
        ("run", f"{code(subject.run_id)}, {subject.finished:%Y-%m-%d}"),
        ("made by", f"Deconstruct {version('deconstruct')}"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {told} |" for name, told in rows if told)]


def _at(name: str, revision: str | None) -> str:
    return code(name, cell=True) + (f" at {code(revision)}" if revision else "")


def _site(site: Any) -> str:
    return f"{code(site)}: " + HOOKS.get(site.hook, "a site of block {}").format(site.layer)


def _trained(subject: Subject) -> str:
    if subject.taken_from is not None:
        return ""
    texts = _at(subject.trained_on, subject.dataset_revision)
    return (f"{subject.training_tokens:,} tokens of " if subject.training_tokens else "") + texts


def _judged(subject: Subject) -> str:
    return (
        f"held-out documents of {code(subject.source, cell=True)} "
        f"({subject.documents:,} documents, {subject.tokens:,} tokens, in all)"
    )


def _figures(subject: Subject) -> list[str]:
    if not subject.metrics:
        return ["No figure of it is known: it was not judged."]
    lines = ["On held-out documents, with 95% intervals over documents.", ""]
    lines += ["| metric | value | interval | over | how it is defined |", "|---|---|---|---|---|"]
    return [*lines, *map(_figure, subject.metrics)]


def _figure(metric: Metric) -> str:
    interval = ""
    if _finite(metric.low) and _finite(metric.high):
        interval = f"{metric.low:.4g} to {metric.high:.4g}"
    value = f"{metric.value:.4g}" if _finite(metric.value) else "unknown"
    unit = f" {prose(metric.unit)}" if metric.unit else ""
    over = "" if metric.n is None else f"{metric.n:,}"
    cells = (code(metric.name, cell=True), value + unit, interval, over, prose(metric.note))
    return f"| {' | '.join(cells)} |"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
