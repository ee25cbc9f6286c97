"""The command that asks a language model about latents: explain."""

from __future__ import annotations

from typing import Annotated

import typer

from deconstruct.commands import MOST, Home, Run, report_errors
from deconstruct.common.showing import say


@report_errors
def explain(
    run: Run,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An endpoint that speaks as OpenAI's, up to /chat/completions; a key is read from "
            "$DECONSTRUCT_ENDPOINT_KEY alone.",
            show_default="explanation.endpoint of the run's configuration",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model to ask, as the endpoint calls it.",
            show_default="explanation.model of the run's configuration",
        ),
    ] = None,
    latent: Annotated[
        list[int] | None,
        typer.Option(
            "--latent",
            min=0,
            max=MOST,
            metavar="LATENT",
            help="Ask about this latent; may be repeated.",
            show_default="a sample",
        ),
    ] = None,
    latents: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, metavar="N", help="Size of the sample.", show_default="20"),
    ] = None,
    home: Home = None,
) -> None:
    """Have a language model explain latents of a run, and score its explanations.

    Excerpts of the run's texts are sent to the endpoint. Each question is asked once: the second
    time all comes from cache. The answers are in explanations, explanation_items and
    explanation_scores.
    """
    from deconstruct.recurring.explanations import explain_run

    given = {"endpoint": endpoint, "model": model, "only": latent, "latents": latents}
    changes = {name: value for name, value in given.items() if value is not None}
    run_id, made = explain_run(home, run, changes)
    facts = made.facts
    say(
        f"run {run_id}: {facts['latents']} latents explained by {facts['model']}, "
        f"{facts['prompts']} questions ({facts['tokens_in']:,} tokens in, "
        f"{facts['tokens_out']:,} out), {facts['failed']} answers that could not be read"
        f"{'' if made.made else ', from cache'}"
    )
