"""What the Prefect UI shows of a run: its name, its tags, and its results as artifacts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from deconstruct.artifact import ArtifactStore
from deconstruct.config import RunConfig
from deconstruct.site import Site
from flows.summary import HEADLINES, headlines


def run_name() -> str:
    """``gemma-3-270m 9.resid_post topk-32``: model, sites and SAE at a glance."""
    return name_of(RunConfig.model_validate(flow_run.parameters["config"]))


def name_of(config: RunConfig) -> str:
    """The name of a run of ``config``."""
    sites = "+".join(config.activations.sites)
    return f"{_model(config)} {sites} {config.sae.label()}"


def tags_of(config: RunConfig) -> list[str]:
    """Model, layers, kind of SAE and its sparsity, to filter runs by."""
    layers = {f"layer-{Site.parse(site).layer}" for site in config.activations.sites}
    return [_model(config), *sorted(layers), config.sae.architecture, config.sae.label()]


def tag(config: RunConfig) -> None:
    """Give the flow run that this is called in the tags of ``config``, beside those it has."""
    own = flow_run.get_id()
    if own:
        with get_client(sync_client=True) as client:
            there = client.read_flow_run(UUID(own)).tags
            client.update_flow_run(UUID(own), tags=sorted({*there, *tags_of(config)}))


def show_results(store: ArtifactStore, run_id: str, site: str) -> None:
    """Leave the headline figures as a table artifact, and how to ask for more as markdown."""
    if not flow_run.get_id():
        return
    rows = headlines(store.root, run_id)
    suffix = site.replace(".", "-").replace("_", "-")
    table: list[dict[str, Any]] = [
        {"metric": label, "value": round(value, 4), "from": low, "to": high}
        for label, value, low, high in rows
    ]
    create_table_artifact(table, key=f"results-{suffix}", description=f"Run {run_id}, {site}")
    lines = [f"| {label} | {value:.3f} |" for label, value, _, _ in rows]
    create_markdown_artifact(
        "\n".join(
            [
                f"# Run {run_id}",
                f"Site `{site}`; store `{store.root / 'deconstruct.duckdb'}`.",
                "",
                "| held out | |",
                "|---|---|",
                *lines,
                "",
                "Ask for more:",
                "",
                f"    deconstruct show {run_id} --home {store.root}",
                f"    deconstruct sql \"FROM features WHERE run_id = '{run_id}'\" "
                f"--home {store.root}",
            ]
        ),
        key=f"run-{suffix}",
        description=f"Run {run_id}: {HEADLINES['fvu']}, losses, probes, clusters",
    )


def _model(config: RunConfig) -> str:
    return config.model.name.rstrip("/").split(":")[-1].split("/")[-1]
