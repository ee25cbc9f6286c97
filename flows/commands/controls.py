"""The command that makes a run and its controls, and what it prints of them."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from deconstruct.commands import Home
from deconstruct.common.errors import DataError
from deconstruct.common.showing import printable
from deconstruct.config import RunConfig, load
from deconstruct.recurring.controls import controls_of
from deconstruct.store import open_store, resolve_run
from deconstruct.store.render import Listing, terminal
from flows.commands.shared import Config, Device, Engine, Overrides, Workers, started, tell


class Shown(NamedTuple):
    """A metric of the table: its name in the store, its heading, and whether more is better."""

    metric: str
    heading: str
    higher: bool


FIGURES = (
    Shown("fvu_typical", "fvu", False),
    Shown("delta_loss", "delta", False),
    Shown("kl", "kl", False),
    Shown("top1_agreement", "top 1", True),
    Shown("auroc of latents", "auroc", True),
    Shown("accuracy of latents", "probe", True),
    Shown("nmi", "nmi", True),
)
"""As many as 80 columns hold beside the names."""
WIDTH = 80
ALPHA = 0.05
OWN = "the run"


def controls(
    config: Config = None,
    set_: Overrides = None,
    home: Home = None,
    device: Device = "auto",
    seeds: Annotated[
        int, typer.Option(metavar="N", help="SAEs of other seeds, the run's own with them.")
    ] = 3,
    engine: Engine = "threads",
    workers: Workers = 1,
) -> None:
    """Make a run and its controls: other seeds, parts left at random, a random model, no labels.

    Each is a run of its own, called NAME/controls/...; what is done comes from cache.
    """
    begun = time.monotonic()
    settings = load(config, set_ or [])
    controls_of(settings, seeds)  # raises before the server starts
    root = started(home, settings, device)
    from flows.local import run_here
    from flows.steps.controls import ControlsFailed
    from flows.steps.controls import controls as flow

    failed = None
    try:
        run_here(
            flow,
            config=settings,
            seeds=seeds,
            home=str(root),
            device=device,
            engine={"kind": engine, "workers": workers},
        )
    except ControlsFailed as error:
        failed = error
    print_controls(root, settings)
    print_matched(root, settings)
    tell(f"finished in {time.monotonic() - begun:.0f} s")
    if failed is not None:
        raise failed


def print_controls(home: Path, config: RunConfig) -> None:
    """Print each run of ``config`` that the store has beside its controls."""
    console = terminal()
    with open_store(home, files=False, verify=False) as store:
        for called in _called(config):
            found = store.execute(
                "SELECT control, seed, metric, value, value_control, p_corrected FROM controls(?)",
                [resolve_run(store, called)],
            ).fetchall()
            console.print(Text.assemble("\n", (printable(called), "bold"), " and its controls"))
            names, rows = table_of([Row(*row) for row in found])
            console.print(Listing(names, rows))
            _say(console, sentence_of([Row(*row) for row in found]))


def print_matched(home: Path, config: RunConfig) -> None:
    """Match the latents of each run of ``config`` with those of its other seeds, and say how many
    are found again."""
    from deconstruct.matching.stage import sentence
    from deconstruct.recurring.matches import match_runs

    console = terminal()
    for called in _called(config):
        with open_store(home, files=False, verify=False) as store:
            own = resolve_run(store, called)
            seeds = dict(
                store.execute(
                    "SELECT run_id, seed FROM control_runs(?) WHERE control = 'seed'", [own]
                ).fetchall()
            )
        try:
            found = match_runs(home, own, list(seeds))
        except DataError as error:
            _say(console, f"Latents of {called} were not matched: {error}")
            continue
        for matched in found:
            told = sentence(matched.matching)
            _say(console, f"Latents of {called} in seed {seeds[matched.other_run]}: {told}")


def _called(config: RunConfig) -> list[str]:
    """The runs of ``config``, one per site and analysis, as the store is asked for them."""
    return [
        f"{config.name}@{site}/{name}" for site in config.read_sites for name in config.analysed()
    ]


def _say(console: Console, text: str) -> None:
    lines = textwrap.wrap(printable(text), WIDTH, break_on_hyphens=False)
    console.print(Text("\n".join(lines)))


class Row(NamedTuple):
    """One metric of one control, as the macro ``controls`` has it."""

    control: str
    seed: int
    metric: str
    value: float | None
    value_control: float | None
    p: float | None

    @property
    def name(self) -> str:
        """What the control is called in the table."""
        return f"seed {self.seed}" if self.control == "seed" else self.control


def table_of(found: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the run, then a control each; * where it is apart from the run."""
    there = {row.metric for row in found if row.value is not None}
    shown = [one for one in FIGURES if one.metric in there]
    own = {row.metric: _figure(row.value) for row in found}
    rows = [[OWN, *(own[one.metric] for one in shown)]]
    for name in dict.fromkeys(row.name for row in found):
        of = {row.metric: row for row in found if row.name == name}
        rows.append([name, *(_beside(of.get(one.metric)) for one in shown)])
    return ["", *(one.heading for one in shown)], rows


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _beside(row: Row | None) -> str:
    """A control's figure with its mark; none where nothing was taken away that it could show."""
    if row is None or (row.control == "shuffled" and row.value == row.value_control):
        return ""
    return _figure(row.value_control) + ("*" if row.p is not None and row.p < ALPHA else " ")


def sentence_of(found: list[Row]) -> str:
    """What the table shows, in a sentence: which figures are no better than those of a control."""
    mark = "* apart from the run: paired by document, p < 0.05 after Holm's correction. "
    if not found:
        return "There are no controls of it in the store yet."
    if all(row.p is None for row in found):
        return "What sets the run apart is not known: no figure of these runs is kept by document."
    equal: dict[str, list[str]] = {}
    for one in FIGURES:
        for row in found:
            tested = row.metric == one.metric and row.p is not None and row.control != "seed"
            if not tested or row.value is None or row.value_control is None or not _beside(row):
                continue
            better = (row.value > row.value_control) == one.higher
            if not (better and row.p is not None and row.p < ALPHA):
                equal.setdefault(one.heading, []).append(row.control)
    if not equal:
        return mark + "The run is better than every control on every figure that is paired."
    told = "; ".join(f"{figure} ({', '.join(names)})" for figure, names in equal.items())
    return f"{mark}Not shown to be better than a control, and so no evidence alone, are: {told}."
