"""The recipes of docs/figures.md run, one after another, against a small store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from support.paths import ROOT
from support.store_artifacts import plant

from deconstruct.report import chart as charts
from deconstruct.report import figures
from deconstruct.store import publish

PAGE = (ROOT / "docs" / "figures.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def shown(block: str, names: dict[str, Any]) -> Any:
    """Run a block as a notebook does: what its last line is, is shown."""
    *before, last = re.split(r"\n(?=\S)", block.strip())
    exec("\n".join(before), names)
    try:
        code = compile(last, "figures.md", "eval")
    except SyntaxError:
        exec(last, names)
        return None
    return eval(code, names)


def test_the_recipes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    for name, seed in (("other", 1), ("demo", 0)):
        run = plant(home, name, seed=seed)
        publish(home, run.record, run.artifacts)
    monkeypatch.setenv("DECONSTRUCT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    drawn = 0
    for block in BLOCKS:
        made = shown(block, names)
        if isinstance(made, alt.TopLevelMixin):
            drawn += 1
            assert "<svg" in charts.svg(made)  # type: ignore[arg-type]
    assert len(BLOCKS) == 11
    assert drawn == 7
    assert (tmp_path / "paper" / "probe-curve.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "figures" / "density.svg").exists()
    assert "density figures/density.svg figures/density.csv" in capsys.readouterr().out


def test_the_page_names_every_figure() -> None:
    table = PAGE[PAGE.index("| figures |") : PAGE.index("One that a run")]
    named = set(re.findall(r"`(\w+)`", table))
    assert named == set(figures.__all__) - {"ALL", "Figure"}
