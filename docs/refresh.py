"""Writes anew what the pages show: answers of docs/sql.md, outputs in README, pages made of code.

    .venv/bin/python docs/refresh.py [--home data]
    .venv/bin/python docs/refresh.py --schema   # schema.md, macros.md, commands.md, config.md
    .venv/bin/python docs/refresh.py --pictures [--home data]   # docs/pictures, by Chromium

Those of ``--schema`` need no run; pictures are of README's.

The data root must hold the three runs that docs/sql.md names; README's, which `make run` makes, is
run in it if it is not there.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import typer
from rich.console import Console

from deconstruct.config import page as configuration
from deconstruct.store import open_store
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.describe import macros_page, schema_page
from deconstruct.store.migrate import migrate
from deconstruct.store.query import data_root
from deconstruct.store.render import write_table
from flows.cli import app

DOCS = Path(__file__).parent
COMMANDS_HEAD = """\
# Commands

The commands with their arguments and options; `deconstruct COMMAND --help` says the same. This page
is made by `python docs/refresh.py --schema`.
"""
OBJECTS = """
## Objects for programs

With `--format json` a command prints one object on standard output. Numbers have all their digits;
what is not known, and what is no number (NaN, infinities), is null. Exit codes are those of the
tables, and errors are one sentence on standard error. Names may be added to an object; those that
are there stay. Records have the columns of the [relation](schema.md) or [macro](macros.md) that
they are named after; below `show` and `latent`, `run_id` is said once.

- `runs`: `runs`, the newest first, each with its `names`.
- `show`: `run`, one such record; `stages`, `sae_metrics`, `probes`, `drift`, `latent_drift`,
  `cluster_metrics` and `cluster_summary`, of each the rows that the page shows.
- `latent`: `run_id`; `features`, one record; `top_tokens`, `label_enrichment`, `feature_logits` and
  `top_contexts`.
- `try`: `run_id`; `texts`, each with `text`, `left_out` (tokens after `corpus.max_tokens`),
  `tokens` (`position`, `token_id`, `token`, `recorded`, and `latents`: all that fire there, each
  with `latent` and `activation`) and `log_odds`, by label; `top`, a record for each latent; with
  `--not` also `only`, of those that fire on the first text alone.
- `match`: `run_id`; `matchings`, each with `other_run`, `key`, the metrics of `matching_metrics`,
  and how many living `latents`, `other_latents`, `pairs` and held-out `tokens` they are about.
- `steer`: `run_id`, `factor`, `latent`, `texts`, `firings`, `kl`, `loss`, `later` and `kl_later`;
  `controls`, each with the latter seven; `rising` and `falling`, each with `token_id`, `token` and
  `change`.
- `absorption`: `run_id`; `words`, how many by part; the means `probe_f1`, `main_f1`, `recall`,
  `fraction` and `full`; `letters`, each with `letter`, `words`, those figures and `main` (latents).
- `doctor`: `sound`, whether all is well; `findings`, each with `subject`, `found` and `sound`.
- `plan`: `stages`, each with `stage`, `key`, `site`, `cached`, `differences` (sentences), and
  `nearest` with its `seconds` and `bytes`; `seconds` and `bytes`, the sums of these.
- `gc`: `garbage`, each with `kind`, `stage`, `key`, `path`, `bytes` and `used`; `bytes` of all;
  `removed`, whether they are gone; `fresh_bytes`, what is unneeded but was used of late.
"""
EXAMPLES = ("embedded", "gpt2", "analyses", "pretrained", "window", "sweep")
PICTURED = "embedded"
ROWS = 3
OUTPUT = r"(?:(?: {4}(?!\$ ).*)?\n)*(?=\S| {4}\$ )"
SHOWN = re.compile(
    rf"^    \$ (deconstruct (?:latent|runs|show|sql)\b.*(?:\n {{10}}.*)*)\n\n({OUTPUT})",
    re.MULTILINE,
)
"""A command in an indented block, on several lines where they are indented further; its output."""
ENDING = re.compile(rf"^(.*`make run` ends with.*)\n\n({OUTPUT})", re.MULTILINE)
QUESTION = re.compile(r"```sql\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)


def answer(store: duckdb.DuckDBPyConnection, query: str) -> str:
    """A query's result as ``deconstruct sql`` prints it."""
    page = io.StringIO()
    write_table(store.execute(query), Console(file=page, width=1000, highlight=False), 20, True)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def answered(page: str, ask: Callable[[str], str]) -> str:
    """The page with each query followed by its answer."""
    return QUESTION.sub(lambda m: f"```sql\n{m[1]}```\n\n```text\n{ask(m[1])}\n```\n", page)


def empty_store() -> duckdb.DuckDBPyConnection:
    """The schema as this release makes it, without any run."""
    store = duckdb.connect()
    migrate(store, "an empty store")
    create_views(store, Path("nowhere"))
    create_macros(store)
    return store


def shown(page: str, say: Callable[[str], str]) -> str:
    """The page with each command of an indented block followed by what it prints now."""
    return SHOWN.sub(lambda m: f"    $ {m[1]}\n\n{_indented(elided(say(m[1])))}\n\n", page)


def elided(output: str) -> str:
    """An output with the first rows of each table: a page is to show what it looks like."""
    parts = []
    for part in output.strip("\n").split("\n\n"):
        lines = part.splitlines()
        counted = bool(re.fullmatch(r"\d+ rows?", lines[-1]))  # whole, as a query gives it
        long = len(lines) > ROWS + 3 and not counted
        parts.append("\n".join([*lines[: ROWS + 2], "..."] if long else lines))
    return "\n\n".join(parts)


def readme(page: str, ending: str, say: Callable[[str], str]) -> str:
    """README with the ``ending`` of `make run`, and with what its commands print of that run."""
    [run_id] = re.findall(r"deconstruct show (\w+)", ending)
    [latent] = re.findall(r"deconstruct latent \w+ (\d+)", ending)
    page = ENDING.sub(lambda m: f"{m[1]}\n\n{_indented(ending)}\n\n", page)
    page = re.sub(r"(latent latest |'latest', )\d+", rf"\g<1>{latent}", page)
    page = re.sub(r"(compare_runs\(')\w+", rf"\g<1>{run_id}", page)
    return shown(page, say)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


def _printed(arguments: list[str], home: str) -> str:
    """What a command prints on a terminal of 100 columns, without the progress beside it."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import app; app()", *arguments],
        env={**os.environ, "COLUMNS": "100", "DECONSTRUCT_HOME": home},
        cwd=DOCS.parent, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def commands(of: Any, name: str = "deconstruct") -> Iterator[tuple[str, Any]]:
    """The commands by what is typed, groups that have options or are commands among them."""
    inner = getattr(of, "commands", {})
    if not inner or of.params:
        yield name, of
    for word in of.list_commands(None) if inner else ():
        yield from commands(inner[word], f"{name} {word}")


def commands_page() -> str:
    """Markdown: a section per command, a row per argument and option."""
    parts = [COMMANDS_HEAD]
    for name, command in commands(typer.main.get_command(app)):
        parts.append(f"\n## `{name}`\n\n{' '.join((command.help or '').split())}\n")
        rows = [_row(one) for one in command.params]
        if rows:
            parts.append(
                "\n" + "\n".join(["| | default | meaning |", "|---|---|---|", *rows]) + "\n"
            )
    return "".join([*parts, OBJECTS])


def _row(one: Any) -> str:
    if one.param_type_name == "argument":
        shown = one.metavar or one.name.upper()
    else:
        shown = " / ".join([*one.opts, *one.secondary_opts])
    default = one.default
    if isinstance(one.show_default, str):
        default = one.show_default
    elif one.required:
        default = "must be given"
    elif default is None or default == ():
        default = "none"
    elif isinstance(default, bool):
        default = str(default).lower()
    meaning = (getattr(one, "help", None) or "").replace("|", "\\|").replace("<", "&lt;")
    return f"| `{shown}` | {default} | {meaning} |"


def examples() -> str:
    """Markdown: whole configurations, each a file of ``configs/``."""
    parts = ["\n## Whole configurations\n"]
    for name in EXAMPLES:
        text = (DOCS.parent / "configs" / f"{name}.toml").read_text()
        parts.append(f"\n`configs/{name}.toml`:\n\n```toml\n{text}```\n")
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home")
    parser.add_argument("--schema", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    arguments = parser.parse_args()
    if arguments.pictures:
        import pictures  # beside this file; it needs Chromium

        home = str(data_root(arguments.home))
        report = _printed(["report", PICTURED], home).splitlines()[-1]
        return pictures.take(Path(home), PICTURED, report, DOCS / "pictures")
    (DOCS / "schema.md").write_text(schema_page(empty_store()))
    (DOCS / "macros.md").write_text(macros_page(empty_store()))
    (DOCS / "commands.md").write_text(commands_page())
    (DOCS / "config.md").write_text(configuration.page() + examples())
    if not arguments.schema:
        home = str(data_root(arguments.home))
        with open_store(home) as store:
            page = DOCS / "sql.md"
            page.write_text(answered(page.read_text(), lambda query: answer(store, query)))
        page = DOCS.parent / "README.md"
        ending = _printed(["run", "configs/embedded.toml"], home).replace(f" --home {home}", "")
        ending = re.sub(r"(?<=^  )\S*deconstruct", ".venv/bin/deconstruct", ending, flags=re.M)
        page.write_text(
            readme(page.read_text(), ending, lambda line: _printed(shlex.split(line)[1:], home))
        )


if __name__ == "__main__":
    main()
