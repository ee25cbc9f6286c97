"""The commands that compute something of finished runs, beside what each run computes by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from deconstruct.commands import Home, Json, Run, report_errors
from deconstruct.common.showing import say, say_json


@report_errors
def match(
    run: Run,
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", help="Runs to match it with, as for RUN.")
    ],
    home: Home = None,
    format_: Json = "table",
) -> None:
    """Pair a run's latents with those of other runs, and say how much is found again.

    Pairs are one to one, by the cosine of the decoder rows; random stands for rows of random
    directions. The pairs are in latent_matches, the figures in matching_metrics.
    """
    from deconstruct.matching.stage import sentence
    from deconstruct.recurring.matches import match_runs

    found = match_runs(home, run, others)
    if format_ == "json":
        say_json(
            {
                "run_id": found[0].run_id,
                "matchings": [
                    {"other_run": one.other_run, "key": one.matching.key, **one.matching.facts}
                    for one in found
                ],
            }
        )
        return
    for one in found:
        say(f"{one.run_id} in {one.other_run}: {sentence(one.matching)}")
