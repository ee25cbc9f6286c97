"""The commands that compute something of finished runs, beside what each run computes by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from deconstruct.commands import MOST, Home, Json, Run, report_errors
from deconstruct.common.errors import ConfigError
from deconstruct.common.showing import say, say_json
from deconstruct.store.render import Listing, terminal

if TYPE_CHECKING:
    from deconstruct.causes.experiment import Steered
    from deconstruct.causes.first_letter import Absorption


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


@report_errors
def steer(
    run: Run,
    number: Annotated[
        int, typer.Argument(metavar="LATENT", min=0, max=MOST, help="Number of the latent.")
    ],
    scale: Annotated[
        float | None,
        typer.Option(metavar="S", help="Multiply its activations by S where it fires."),
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Take it out: the same as --scale 0.")
    ] = False,
    texts: Annotated[
        int, typer.Option(min=1, max=MOST, help="Held-out texts in which each latent is changed.")
    ] = 8,
    controls: Annotated[
        int, typer.Option(min=0, max=MOST, help="Latents of like density and length beside it.")
    ] = 20,
    home: Home = None,
    format_: Json = "table",
) -> None:
    """Change one latent inside the language model, and show what that does to its predictions.

    Where it fires, its direction is added or taken away, and what the SAE does not explain is left
    as it is. Other latents of like density and length are changed alike, each where it fires.
    """
    if (scale is not None) == ablate:
        raise ConfigError("steer takes either --scale S or --ablate; name one of them")
    factor = 0.0 if scale is None else scale
    if not math.isfinite(factor):
        raise ConfigError(f"--scale {factor} is no finite number; name one, such as 2 or -1")
    from deconstruct.causes import experiment

    found = experiment.steer(home, run, number, factor, texts=texts, controls=controls)
    if format_ == "json":
        return say_json(found.record())
    terminal().print(*_steered(found), sep="\n")


def _steered(found: Steered) -> list[Listing | Text]:
    """The page of a latent that was changed."""
    effect, n = found.effect, len(found.controls)
    told = {
        "kl": "KL where it fires",
        "loss": "loss added there",
        "kl_later": "KL later, where it is silent",
    }
    rows = [
        (label, getattr(effect, name), *found.spread(name), f"{found.rank(name)} of {n + 1}")
        for name, label in told.items()
    ]
    names = ["nats a prediction", "latent", "least", "median", "largest", "rank"]
    moved = [
        (what, " ".join(f"{token!r} {change:+.2f}" for _, token, change in tokens))
        for what, tokens in (("rise", found.rising), ("fall", found.falling))
    ]
    return [
        Text(f"Latent {effect.latent} of run {found.run_id}, times {found.factor:g}", style="bold"),
        Text(
            f"{effect.firings} firings in {effect.texts} held-out texts, beside {n} latents of "
            "like density"
        ),
        Text(""),
        Listing(names, rows),
        Text(""),
        Listing(["", ""], moved, "Logits that move most where it fires"),
    ]


@report_errors
def absorption(run: Run, home: Home = None, format_: Json = "table") -> None:
    """Measure how much other latents absorb of what words' first letters are (SAEBench 0.6.0).

    Letters are those that a linear probe reads from words that it was not fitted on. An SAE whose
    latents know no letters scores low as well: then recall is low, the share of the words on which
    a letter's main latents fire.
    """
    from deconstruct.causes import first_letter

    found = first_letter.absorption(home, run)
    if format_ == "json":
        return say_json(found.record())
    terminal().print(*_absorbed(found), sep="\n")


def _absorbed(found: Absorption) -> list[Listing | Text]:
    """The page of absorption: a row a letter, and their mean."""
    figures = ("probe_f1", "main_f1", "recall", "fraction", "full")
    rows = [
        (one.letter, one.words, *(getattr(one, name) for name in figures), _numbers(one.main))
        for one in found.letters
    ]
    words = sum(one.words for one in found.letters)
    rows.append(("mean", words, *(found.mean(name) for name in figures), ""))
    names = ["letter", "words", "probe f1", "main f1", "recall", "fraction", "full", "main latents"]
    return [
        Text(f"First-letter absorption of run {found.run_id}", style="bold"),
        Text(f"{len(found.letters)} letters that a probe reads from unseen words"),
        Text(""),
        Listing(names, rows),
    ]


def _numbers(latents: Sequence[int]) -> str:
    """The first three, in a column of no more than twenty characters."""
    more = f" +{len(latents) - 3}" if len(latents) > 3 else ""
    return ", ".join(map(str, latents[:3])) + more
