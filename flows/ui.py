"""What the Prefect UI shows of a run: its name, its tags, and its results as artifacts."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from deconstruct.artifacts import DataRoot
from deconstruct.common.showing import code, plain_record, printable, quoted
from deconstruct.common.site import Site
from deconstruct.config import TRAINING, RunConfig
from deconstruct.store import RunRecord, open_store
from deconstruct.store.rewrite import FILE as STORE
from flows.summary import Findings, findings
from tasks.stage import Outcome


def run_name() -> str:
    """``nightly: gemma-3-270m 9.resid_post topk-32``: what it is called, and what it is of."""
    return name_of(RunConfig.model_validate(flow_run.parameters["config"]))


def name_of(config: RunConfig) -> str:
    """The name of a run of ``config``."""
    sites = "+".join(config.activations.sites)
    return f"{printable(config.name)}: {_model(config)} {sites} {config.sae.label()}"


def tags_of(config: RunConfig) -> list[str]:
    """Model, layers, kind of SAE and its sparsity, to filter runs by."""
    layers = {f"layer-{Site.parse(site).layer}" for site in config.activations.sites}
    kinds = [config.sae.architecture] if config.sae.pretrained is None else []
    return [_model(config), *sorted(layers), *kinds, config.sae.label()]


def tag(config: RunConfig) -> None:
    """Give the flow run that this is called in the tags of ``config``, beside those it has."""
    flow_run_id = flow_run.get_id()
    if flow_run_id:
        with get_client(sync_client=True) as client:
            there = client.read_flow_run(UUID(flow_run_id)).tags
            client.update_flow_run(UUID(flow_run_id), tags=sorted({*there, *tags_of(config)}))


def speak() -> None:
    """Let what stages say reach the run's log in the UI, and let no log line be obeyed.

    Prefect hands its server the lines of ``PREFECT_LOGGING_EXTRA_LOGGERS``, but leaves these
    loggers at the level of all, which is WARNING. Its own lines tell of errors and names as they
    are.
    """
    logging.getLogger("deconstruct").setLevel(logging.INFO)
    for name in (None, "deconstruct", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if plain_record not in handler.filters:
                handler.addFilter(plain_record)


def show_results(
    root: DataRoot, run: RunRecord, run_id: str, site: str, stages: Sequence[Outcome]
) -> None:
    """Leave the headline figures as a table artifact; as markdown, those, what they were made
    from, and how to ask for more.

    Their keys name configuration, site and analysis, so that runs on a schedule line up under one
    key.
    Links in the markdown lead to other pages of the UI. A browser follows none from there to files
    of this machine, so those stand as text to copy.
    """
    if not flow_run.get_id():
        return
    with open_store(root.path, files=False) as store:
        found = findings(store, run_id)
    analysis = "" if run.analysis == TRAINING else run.analysis
    named = f"{run.config.name} {site} {analysis}"
    suffix = re.sub("[^a-z0-9]+", "-", named.lower()).strip("-")
    where = f"{site}, {analysis}" if analysis else site
    told = f"Site `{site}`" + (f", analysis `{analysis}`" if analysis else "")
    table: list[dict[str, Any]] = [
        {"metric": label, "value": round(value, 4), "from": low, "to": high, "reading": reading}
        for label, value, low, high, reading in found.figures
    ]
    results = create_table_artifact(
        table, key=f"results-{suffix}", description=f"Run {run_id}, {where}"
    )
    home = quoted(str(root.path))
    commands = (
        f"deconstruct show {run_id} --home {home}",
        f"deconstruct sql \"FROM features WHERE run_id = '{run_id}'\" --home {home}",
    )
    text = [
        f"# Run {run_id}",
        f"{told}. Figures on held-out documents; "
        f"[with their intervals](/artifacts/artifact/{results}).",
        "",
        "| held out | | |",
        "|---|---|---|",
        *(f"| {f.label} | {f.value:.3f} | {f.reading} |" for f in found.figures),
        "",
        *_examples(found),
        "## Ask for more",
        "",
        *(f"    {command}" for command in commands),
        "",
        f"The store is {code(root.path / STORE)}.",
        "",
        "## Made from",
        "",
        "| stage | | artifact |",
        "|---|---|---|",
        *_made(root, stages),
    ]
    create_markdown_artifact(
        "\n".join(text),
        key=f"run-{suffix}",
        description=f"Run {run_id}: {found.figures[0].label}, losses, probes, clusters",
    )


def _made(root: DataRoot, stages: Sequence[Outcome]) -> list[str]:
    """Rows in markdown: where each stage's result lies, and what it took."""
    return [
        f"| {o.stage} | {'from cache' if o.cached else f'{o.seconds:.1f} s'} "
        f"| {code(root.folder(o.stage, o.key), cell=True)} |"
        for o in stages
    ]


def _examples(found: Findings) -> list[str]:
    """Markdown of the clusters and the latent that a summary shows; texts stand as code."""
    lines = []
    if found.clusters:
        lines += ["## The largest clusters", "", "| documents | label | words |", "|---|---|---|"]
        for size, label, share, keywords in found.clusters:
            of = "" if label is None else f"{share:.0%} {code(label, cell=True)}"
            lines.append(f"| {size:,} | {of} | {code(', '.join(keywords), cell=True)} |")
        lines.append("")
    if found.latent is not None:
        number, why, label, contexts = found.latent
        lines += [f"## Latent {number} {why.format(code(label))}", ""]
        lines += [f"- {code(context)}" for context, _ in contexts]
        lines.append("")
    return lines


def _model(config: RunConfig) -> str:
    redrawn = "" if config.model.redrawn is None else "random "
    return redrawn + printable(config.model.name.rstrip("/").split(":")[-1].split("/")[-1])
