"""Hostile names, labels, texts and paths: every page shows them, and obeys none."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.hostile import HOSTILE, obeyed
from support.prefect_api import ask
from support.running import deconstruct
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.cli import app
from deconstruct.common.errors import DeconstructError
from deconstruct.common.showing import printable
from deconstruct.config import RunConfig
from deconstruct.store import RunRecord, publish, run_id_of
from flows import ui
from flows.retry import choose
from flows.summary import print_front, print_plan, print_summary
from tasks.planning import Plan
from tasks.stage import Outcome

FORGED = "error: forged line"
each = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data root whose runs have hostile names and labels; name -> run_id, one per label of it."""
    folder = tmp_path_factory.mktemp("hostile") / "a [" / "] it's`|b"
    runs = {}
    texts = [*HOSTILE.values()]
    for seed, labels in enumerate(zip(texts[::3], texts[1::3], texts[2::3], strict=True)):
        planted = plant(folder, "first", seed=seed, names=cast(Any, labels), documents=12)
        for name in labels:
            record = planted.record.model_copy(update={"config": RunConfig(name=name)})
            publish(folder, record, planted.artifacts)
            runs[name] = run_id_of(planted.artifacts)
    return folder, runs


def is_shown(page: str, text: str) -> None:
    """No character of the page is obeyed, no line forged, and the text can be read there."""
    assert not obeyed(page)
    assert not any(line.strip().startswith(FORGED) for line in page.splitlines())
    assert printable(text) in page


@pytest.mark.parametrize(
    "command",
    [
        ("runs",),
        ("sql", "SELECT DISTINCT label FROM documents", "--full"),
        ("sql", "SELECT DISTINCT label FROM documents", "--format", "json"),
    ],
    ids=["runs", "table", "json"],
)
def test_pages_about_many_runs(home: tuple[Path, dict[str, str]], command: tuple[str, ...]) -> None:
    folder, runs = home
    found = CliRunner().invoke(app, [*command, "--home", str(folder)])
    assert found.exit_code == 0, found.output
    assert not obeyed(found.stdout)
    for name in runs if "json" not in command else ():
        is_shown(found.stdout, name)


def test_pages_about_one_run(home: tuple[Path, dict[str, str]]) -> None:
    folder, runs = home
    for run in set(runs.values()):
        for command in (["show", run], ["latent", run, "7", "--contexts", "2"]):
            found = CliRunner().invoke(app, [*command, "--home", str(folder)])
            assert found.exit_code == 0, found.output
            assert not obeyed(found.stdout)
            if command[0] == "show":
                for name in (name for name, its in runs.items() if its == run):
                    is_shown(found.stdout, name)


@each
def test_the_end_of_a_run_and_of_a_sweep(
    home: tuple[Path, dict[str, str]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, runs = home
    for print_it, said in ((print_summary, runs[name]), (print_front, name)):
        print_it(folder, said)
        page = capsys.readouterr().out
        assert not obeyed(page)
        assert not any(line.strip().startswith(FORGED) for line in page.splitlines())
    assert printable(name)[:15].strip() in page


@each
def test_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe("corpus", 1, {"source": name, "site": name}, {})
    print_plan([Plan(recipe, False, None, (f"corpus.source: {name} there, b now",))])
    is_shown(capsys.readouterr().out, name)


@each
def test_errors_are_one_line(name: str, tmp_path: Path) -> None:
    for arguments in (["show", name], ["export", name, str(tmp_path / "x.duckdb")]):
        found = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path / "no [")])
        assert found.exit_code == 1
        assert found.stderr.count("\n") == 1
        assert not obeyed(found.stderr)


@each
def test_what_the_server_is_told(
    home: tuple[Path, dict[str, str]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's name and tags, and its Markdown: texts stand as code, and cells stay cells."""
    folder, runs = home
    config = RunConfig.model_validate({"name": name, "model": {"name": f"hub/{name}"}})
    assert not obeyed("".join([ui.name_of(config), *ui.tags_of(config)]))
    left: dict[str, Any] = {}
    monkeypatch.setattr(ui, "flow_run", SimpleNamespace(get_id=lambda: "one"))
    monkeypatch.setattr(ui, "create_table_artifact", lambda table, **_: "1")
    monkeypatch.setattr(ui, "create_markdown_artifact", lambda text, **more: left.update(t=text))
    outcomes = [Outcome(stage="sae", key="a" * 32, cached=False, seconds=1.0)]
    now = datetime.now(UTC)
    record = RunRecord(config=config, started=now, finished=now)
    ui.show_results(DataRoot(folder), record, runs[name], "9.resid_post", outcomes)
    page = left["t"]
    assert not obeyed(page)
    bare = re.sub(r"^    .+$", "", page, flags=re.MULTILINE)  # blocks of code
    bare = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "CODE", bare)
    assert "evil" not in bare
    assert not set("<>`") & set(bare)
    for line in re.findall(r"^\|.+$", page, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", line)) == 4


@each
def test_what_can_be_retried(name: str) -> None:
    run = cast(
        Any,
        SimpleNamespace(
            id="0" * 36, name=ui.name_of(RunConfig(name=name)), state_name="Failed",
            expected_start_time=None, parameters={"config": {"name": name}},
        ),
    )  # fmt: skip
    assert choose([run], name) is run
    with pytest.raises(DeconstructError) as error:
        choose([run], "another")
    assert not obeyed(str(error.value))


def test_a_whole_run_of_a_hostile_name_ends_well(finished: Path, config: Path, server: str) -> None:
    name = "[/] a[/bold]b\x1b[31m\u202e :bomb: | `<b>` \nerror: forged line"
    found = deconstruct(
        finished, "run", config, "--set", f"name={json.dumps(name)}",
        env={"PREFECT_API_URL": server, "COLUMNS": "80"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    is_shown(found.stdout, name)
    assert not obeyed(found.stderr)
    assert not any(line.startswith(FORGED) for line in found.stderr.splitlines())
    asked = {"sort": "START_TIME_DESC", "flows": {"name": {"any_": ["pipeline"]}}}
    newest = ask(server, "POST", "/flow_runs/filter", asked)[0]
    assert newest["name"].startswith(f"{printable(name)}: ")
