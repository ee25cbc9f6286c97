"""Each command, each option and each field of the configuration is told of in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from support.paths import ROOT
from support.refresh import refresh

from deconstruct.config import RunConfig
from deconstruct.config import page as reference
from flows.cli import app

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
CONFIG = (DOCS / "config.md").read_text()
COMMANDS = (DOCS / "commands.md").read_text()
AGAIN = "make it anew: .venv/bin/python docs/refresh.py --schema"
ROW = r"^\| `{}` \| .+ \| .{{8,}} \|$"


def sections(page: str) -> dict[str, str]:
    """What stands below each heading that is set as code."""
    return dict(re.findall(r"^## `\[?([^`\]]+)\]?`\n(.*?)(?=^## |\Z)", page, re.M | re.S))


def test_each_command_and_option_has_its_line() -> None:
    made = refresh()
    assert made.commands_page() == COMMANDS, AGAIN
    told = sections(COMMANDS)
    known = dict(made.commands(typer.main.get_command(app)))
    assert len(known) > 12
    assert set(told) == set(known)
    for name, command in known.items():
        assert len(told[name].strip().splitlines()[0]) > 20, f"{name} has no sentence"
        for one in command.params:
            shown = one.metavar or one.name.upper()
            if one.param_type_name == "option":
                shown = " / ".join([*one.opts, *one.secondary_opts])
            row = ROW.format(re.escape(shown))
            assert re.search(row, told[name], re.M), f"{name} {shown} has no meaning"


def test_each_field_of_the_configuration_has_its_row() -> None:
    assert reference.page() == CONFIG, AGAIN
    told = sections(CONFIG)
    for stage, field in RunConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        rows = CONFIG if inner is None else told[stage]
        for name in [stage] if inner is None else inner:
            assert re.search(ROW.format(name), rows, re.M), f"{stage}.{name} has no meaning"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_of_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target
