"""The command that writes reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct import looking
from deconstruct.cli import app
from deconstruct.report import page
from deconstruct.store import publish, run_id_of
from deconstruct.store.query import report_file


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the runs ``first`` and ``second``."""
    folder = tmp_path_factory.mktemp("looked at")
    for seed, name in enumerate(("first", "second")):
        planted = plant(folder, name, seed=seed)
        publish(folder, planted.record, planted.artifacts)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures and without what makes them live."""
    monkeypatch.setattr(page, "drawn_all", lambda of: {})
    monkeypatch.setattr("deconstruct.report.trend.drawn_all", lambda of: {})
    monkeypatch.setattr(page, "scripts", lambda: "")


def test_it_writes_the_page_and_says_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(looking.webbrowser, "open", opened.append)
    found = CliRunner().invoke(app, ["report", "--home", str(home), "--open"])
    assert found.exit_code == 0, found.output
    file = report_file(home, run_id_of(plant(home, "second", seed=1).artifacts))
    assert found.stdout.splitlines()[-1] == file.as_uri()
    assert opened == [file.as_uri()]
    assert "first of its name" in file.read_text("utf-8")
    assert {path.name for path in file.parent.iterdir()} == {file.name}  # no draft is left


def test_it_compares_with_another_run_and_writes_where_it_is_told(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "there.html"
    given = ["second", "--compare", "first", "--output", str(file), "--home", str(home)]
    found = CliRunner().invoke(app, ["report", *given])
    assert found.exit_code == 0, found.output
    assert f"Beside run {run_id_of(plant(home, 'first').artifacts)}" in file.read_text("utf-8")


def test_a_name_has_a_page_of_its_own(home: Path) -> None:
    found = CliRunner().invoke(app, ["report", "--name", "first", "--home", str(home)])
    assert found.exit_code == 0, found.output
    (file,) = (home / "reports").glob("trend-first-*.html")
    assert found.stdout.splitlines()[-1] == file.as_uri()


def test_figures_are_saved_alone(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    found = CliRunner().invoke(app, ["report", "--figures", str(folder), "--home", str(home)])
    assert found.exit_code == 0, found.output
    assert {".svg", ".png", ".pdf", ".csv"} == {file.suffix for file in folder.iterdir()}
    assert found.stdout.splitlines()[-1] == folder.as_uri()
    assert not list(folder.glob("*.html"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nobody"], "nobody"),
        (["--compare", "nobody"], "nobody"),
        (["second", "--compare", "second"], "the run itself"),
        (["--output", "{folder}"], "is a folder; name a file"),
        (["--output", "{folder}/no/page.html"], "make it"),
        (["--figures", "{folder}/file"], "is a file; name a folder"),
        (["--figures", "f", "--compare", "first"], "leave --compare 'first' out"),
        (["--figures", "f", "--output", "o.html"], "leave --output 'o.html' out"),
        (["--name", "nobody"], "the newest are"),
        (["second", "--name", "first"], "leave RUN 'second' out"),
        (["--home", "s3://there/is/none"], "s3://"),
    ],
)
def test_bad_input_is_one_sentence(home: Path, tmp_path: Path, given: list[str], said: str) -> None:
    (tmp_path / "file").write_text("")
    where = [] if "--home" in given else ["--home", str(home)]
    told = [one.replace("{folder}", str(tmp_path)) for one in given]
    found = CliRunner().invoke(app, ["report", *told, *where])
    assert found.exit_code == 1, found.output
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert said in found.stderr
