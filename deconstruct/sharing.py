"""The commands that take a run out: export, and push, which puts it on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deconstruct.commands import Home, Run, check_place, looks_first, report_errors, verifying
from deconstruct.common.showing import say
from deconstruct.interop.export import Folder, default_name, subject_in
from deconstruct.store import export_run

SAELENS = "sae_lens"
"""How the format was written before there were others."""
NAMED = 6
"""Uploaded files that are named; of more, their number alone is said."""


@looks_first
@report_errors
def export(
    run: Run,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TARGET]",
            help="The folder to make, or, for duckdb, the file.",
            show_default="in this folder, named after the run",
        ),
    ] = None,
    home: Home = None,
    format_: Annotated[
        Literal[
            "duckdb",
            "saelens",
            "sparsify",
            "dictionary-learning",
            "neuronpedia",
            "circuit-tracer",
            "saebench",
            "sae_lens",
        ],
        typer.Option(
            "--format",
            help="duckdb is the whole run in one file. saelens (also sae_lens), sparsify and "
            "dictionary-learning are its SAE as those load it; neuronpedia and circuit-tracer are "
            "pages of its latents with excerpts of the texts, and a transcoder's weights; saebench "
            "has its figures.",
        ),
    ] = "duckdb",
) -> None:
    """Take one run out: a DuckDB file that needs nothing beside it, or a folder for other programs.

    A folder has a model card, README.md, made from the run's numbers.
    """
    verify = verifying.get()
    if format_ == "duckdb":
        file = target or Path(default_name(subject_in(home, run), format_))
        check_place(file, "the file")
        run_id = export_run(home, run, file, verify=verify)
        say(f"run {run_id} is in {file} ({file.stat().st_size / 1e6:,.1f} MB)")
        return
    from deconstruct.interop.export import export as take_out

    wanted = "saelens" if format_ == SAELENS else format_
    taken = take_out(home, run, target, wanted, verify=verify)
    say(
        f"run {taken.run_id} is in {target or taken.folder.name}, in the layout of {wanted}; "
        "its README.md says how to load it, and waits for a licence"
    )
    if taken.texts:
        say("it has excerpts of the texts", error=True)


@looks_first
@report_errors
def push(
    run: Run,
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="Where on the hub: hub:OWNER/NAME.")
    ],
    home: Home = None,
    format_: Annotated[Folder, typer.Option("--format", help="As for 'export'.")] = "saelens",
    private: Annotated[
        bool, typer.Option("--private", help="Nobody else may see the repository.")
    ] = False,
) -> None:
    """Upload a run to the Hugging Face hub, as the folder that 'export' makes.

    The token is your own: HF_TOKEN, or that of 'hf auth login'. Without one nothing is sent.
    """
    from deconstruct.interop.hub import push as upload

    done = upload(home, run, place, format_, private=private, verify=verifying.get())
    names = ", ".join(done.files) if len(done.files) <= NAMED else f"{len(done.files):,} files"
    say(
        f"uploaded run {done.taken.run_id} to {done.url} "
        f"({'private' if done.private else 'public'}, commit {done.commit[:12]}): {names}, "
        f"{sum(done.files.values()) / 1e6:,.1f} MB"
    )
    texts = ", with excerpts of the texts" if done.taken.texts else ""
    say(f"its README.md waits for a licence{texts}; fill it in there", error=True)
