"""Each command, each option and each field of the configuration is told of in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from support.paths import ROOT
from support.refresh import refresh

from deconstruct.commands import ORDER
from deconstruct.config import RunConfig
from deconstruct.config import page as reference
from deconstruct.store.ddl import macros
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


def test_help_begins_with_what_a_newcomer_needs() -> None:
    listed = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined,arg-type]
    assert listed == list(ORDER)


def test_each_macro_has_its_page_part_which_is_of_todays_store() -> None:
    made = refresh()
    page = (DOCS / "macros.md").read_text()
    assert made.macros_page(made.empty_store()) == page, AGAIN
    for macro in macros():
        assert len(macro.comment) > 20, f"{macro.name} has no sentence above it"
        assert (
            f"`{macro.name}(" in page or f"\n{macro.name}({', '.join(macro.parameters)})\n" in page
        )
        if macro.table:
            part = page.split(f"## {macro.name}\n")[1].split("\n## ")[0]
            assert re.search(r"^\| `\w+` \| [A-Z]", part, re.M), f"{macro.name} has no columns"
            assert f"For example `FROM {macro.name}(" in part


@pytest.mark.parametrize("page", ["commands.md", "config.md", "macros.md", "schema.md"])
def test_no_page_loses_what_is_between_angle_brackets(page: str) -> None:
    """Markdown takes `<hook>` for HTML where it is not set as code."""
    text = re.sub(r"```.*?```|`[^`\n]+`", "", (DOCS / page).read_text(), flags=re.S)
    assert not re.findall(r"<\w[^>\n]*>", text)


def test_each_field_of_the_configuration_has_its_row() -> None:
    assert CONFIG.startswith(reference.page()), AGAIN
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


def test_whole_configurations_are_shown_as_they_are() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    for path in sorted((DOCS.parent / "configs").glob("*.toml")):
        assert f"```toml\n{path.read_text()}```\n" in CONFIG, f"{path.name}: {AGAIN}"
    for name in ("analyses", "pretrained", "window"):
        text = (DOCS.parent / "configs" / f"{name}.toml").read_text()
        assert f"```toml\n{text}```\n" in readme, f"README shows another {name}.toml"
