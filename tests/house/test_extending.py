"""docs/extending.md stays true: its diffs apply to this tree, and what they add works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
DIFFS = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COUNTS = re.findall(r"^\| \[.*\]\(#.*\).* \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)

ROTTEN = "a diff of docs/extending.md no longer applies; make it anew by git diff -U1"

USED = """
import sys
from pathlib import Path

import numpy as np
from support.planted import artifact_of
from support.planted_dictionary import Planted, settings
from support.planted_latents import plant

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.cofiring.stage import STAGE
from deconstruct.config import CorpusConfig, RunConfig
from deconstruct.corpus import sources
from deconstruct.evaluation import metrics
from deconstruct.sae.training.loop import train
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.schema import RELATIONS
from tasks import stages

here = Path(sys.argv[1])

data = Planted(512)
config = settings(architecture="lp", exponent=0.3, penalty=0.02, tokens=512 * 150)
assert config.key_fields()["exponent"] == 0.3
assert "exponent" not in settings(architecture="relu").key_fields()
sae, rows = train(data, data.moments, config, here)
held_out = data.at(10_000)
error = (sae(held_out) - held_out).square().sum()
error = float(error / (held_out - held_out.mean(0)).square().sum())
unit = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
matched = (data.directions @ unit.T).max(1).values
assert (sae.architecture, error < 0.25) == ("lp", True), error
assert float((matched > 0.9).float().mean()) > 0.9
assert 3 <= rows[-1].l0 < 30

fires = (np.random.default_rng(0).random((40, 9)) < 0.4).astype(float)
fires[:, 4], fires[:, 7] = 0, fires[:, 2]
root = DataRoot(here / "data")
corpus = artifact_of(root, Recipe("corpus", 0, {}, {}), {}, documents=40)
made = STAGE.make(root, RunConfig().cofiring, corpus=corpus, latents=plant(root, fires))
found = {row["latent"]: row for row in made.table("cofiring.parquet").to_pylist()}
assert set(found) == set(range(9)) - {4}
assert (found[2]["companion"], found[2]["jaccard"]) == (7, 1.0)
for latent, row in found.items():
    mine, other = fires[:, latent] > 0, fires[:, row["companion"]] > 0
    assert row["documents"] == (mine & other).sum()
    assert np.isclose(row["jaccard"], (mine & other).sum() / (mine | other).sum())
assert stages.cofiring.stage is STAGE
assert "cofiring" in {relation.name for relation in RELATIONS}

(here / "texts.tsv").write_text("text\\tlabel\\none text\\ta\\nanother\\t\\n")
settings = CorpusConfig(source=str(here / "texts.tsv"))
count, texts = sources.read(sources.resolve(settings), settings)
assert (count, [row[:2] for row in texts]) == (2, [("one text", "a"), ("another", None)])

name = "norm_ratio"
assert name in {headline.name for headline in HEADLINES}
of = metrics.RECONSTRUCTION[name][0]
assert of({"squares_out": np.array([9.0]), "squares_in": np.array([36.0])}) == 0.5
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all four diffs applied; kernels are linked, as they are compiled."""
    tree = tmp_path_factory.mktemp("extended")
    left_out = shutil.ignore_patterns("__pycache__", "kernels")
    for top in ("deconstruct", "tasks", "flows"):
        shutil.copytree(ROOT / top, tree / top, ignore=left_out)
    for folder in (ROOT / "deconstruct").rglob("kernels"):
        (tree / folder.relative_to(ROOT)).symlink_to(folder)
    for diff in DIFFS:
        done = subprocess.run(
            ["git", "apply", "--whitespace=error-all", "-"],
            cwd=tree,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
            input=diff,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{ROTTEN}:\n{done.stderr}"
    return tree


def test_each_edits_as_few_files_as_the_page_says() -> None:
    found = []
    for diff in DIFFS:
        before = re.findall(r"^--- (.*)$", diff, re.MULTILINE)
        new = before.count("/dev/null")
        found.append((str(new), str(len(before) - new)))
    assert found == COUNTS
    assert all(int(edited) <= most for (_, edited), most in zip(found, (3, 4, 2, 3), strict=True))


def test_what_is_added_works(extended: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED, str(tmp_path)],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(extended), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_formula_and_its_pairs_agree(extended: Path) -> None:
    """By the project's own test of that, which takes the architectures from the registry."""
    test = ROOT / "tests" / "sae" / "cpu" / "test_sparse.py"
    arguments = ["-m", "pytest", str(test), "-k", "dense_loss and lp", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "." in done.stdout.split()[0]
