"""What the README tells a reader to type works, and the defaults that it names are real."""

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import typer
from support.paths import ROOT

from deconstruct.config import RunConfig
from deconstruct.config.page import default_of
from deconstruct.store.ddl import create_macros, create_views
from deconstruct.store.migrate import migrate
from flows.cli import app

README = (ROOT / "README.md").read_text()
RUN = ("run", "a", "b", "other")
"""Parameters of macros that name a run."""
TYPED = "\n".join(re.findall(r"`[^`\n]+`|^    .*$", README, re.MULTILINE))
"""What is set as code, in line or as a block."""


def empty_store() -> duckdb.DuckDBPyConnection:
    store = duckdb.connect()
    migrate(store, "an empty store")
    create_views(store, Path("nowhere"))
    create_macros(store)
    return store


def test_the_library_example_runs(tmp_path: Path, tiny_model: Path, texts: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my.toml").write_text(
        f'[model]\nname = "{tiny_model}"\n[corpus]\nsource = "{texts}"\n'
        '[activations]\nsites = ["1.resid_post"]\n'
        "[sae]\nd_sae = 64\nk = 4\ntokens = 20_000\nbatch_size = 512\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    accuracy, folder = done.stdout.split()
    assert 0.3 < float(accuracy) <= 1
    assert (tmp_path / "data") in Path(folder).parents


def test_commands_exist() -> None:
    named = set(re.findall(r"(?:^|[`/ ])deconstruct ([a-z]+)\b", TYPED, re.MULTILINE))
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(named) > 5
    assert named <= known


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", TYPED)) <= targets


def test_defaults_are_the_real_ones() -> None:
    rows = re.findall(r"^\| `([a-z_]+)\.([a-z_]+)` \| `([^`]*)` \|", README, re.MULTILINE)
    assert len(rows) > 8
    for stage, field, default in rows:
        fields = RunConfig.model_fields[stage].annotation.model_fields  # type: ignore[union-attr]
        assert default == default_of(fields[field]), f"{stage}.{field}"


def test_macros_are_asked_of_runs_that_there_are() -> None:
    """What is no macro's, or names a run that no command of the page makes, is found out here."""
    asked = re.findall(r"FROM (\w+)\('([^']+)'(?:, '([^']+)')?", TYPED)
    assert len(asked) > 5
    with empty_store() as store:
        macros = dict(
            store.execute(
                "SELECT function_name, parameters FROM duckdb_functions() "
                "WHERE function_type = 'table_macro' AND NOT internal"
            ).fetchall()
        )
    shown = {"latest", *re.findall(r"deconstruct show (\w+)", README)}
    for macro, *given in asked:
        runs = [run for name, run in zip(macros[macro], given, strict=False) if name in RUN]
        assert set(runs) - {""} <= shown, macro


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
