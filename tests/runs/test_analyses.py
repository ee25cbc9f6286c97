"""An SAE trained on one corpus and judged on others, through the command."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.running import deconstruct, write_config
from support.texts import write_texts

from deconstruct.artifacts import Artifact, DataRoot

REVIEWS = """
[[analysis]]
name = "reviews"
source = "{}"
max_tokens = 20
"""
NEWS = """
[[analysis]]
name = "news"
source = "{}"
max_tokens = 20
label_column = "kind"
seed = 3
"""
JUDGED = {"reference", "latents", "evaluation", "probe", "cluster", "interpretation", "map"}


class Place(NamedTuple):
    """A home in which one SAE was judged on one corpus, and what else the tests take."""

    home: Path
    folder: Path
    env: dict[str, str]

    def run(self, *arguments: object, fails: bool = False) -> str:
        """Run a command; what it said on standard error."""
        done = deconstruct(self.home, *arguments, env=self.env)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr

    def ask(self, query: str) -> list[dict[str, Any]]:
        return list(json.loads(deconstruct(self.home, "sql", "--format", "json", query).stdout))

    def artifacts(self) -> dict[str, Artifact]:
        return {artifact.key: artifact for artifact in DataRoot(self.home).artifacts()}

    def config(self, name: str, *analyses: str) -> Path:
        """A configuration over general texts with some analyses."""
        path = write_config(self.folder / f"{name}.toml", self.folder / "model", self.texts())
        tables = [NEWS if one == "news" else REVIEWS for one in analyses]
        filled = [
            table.format(self.folder / f"{one}.csv")
            for table, one in zip(tables, analyses, strict=True)
        ]
        text = path.read_text().replace('name = "small"', 'name = "general"')
        text = text.replace("[activations]", 'label_column = "none"\n[activations]')
        path.write_text(text + "".join(filled))
        return path

    def texts(self) -> Path:
        return self.folder / "general.csv"


def renamed_labels(path: Path, texts: list[list[str]]) -> Path:
    """Texts with another column of labels than `write_texts` gives."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["text", "kind"], *([text, f"a {label}"] for text, label in texts)])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, server: str) -> Place:
    folder = tmp_path_factory.mktemp("analyses")
    (folder / "model").symlink_to(tiny_model)
    general = list(csv.reader(write_texts(folder / "general.csv", seed=5).open()))[1:]
    write_texts(folder / "reviews.csv", 60, seed=6)
    other = list(csv.reader(write_texts(folder / "other.csv", 60, seed=7).open()))[1:]
    renamed_labels(folder / "news.csv", [*other, *general[:40]])
    place = Place(folder / "home", folder, {"PREFECT_API_URL": server})
    place.run("run", place.config("first", "reviews"))
    return place


def test_the_training_corpus_is_not_encoded_where_no_analysis_asks_for_it(place: Place) -> None:
    found = place.artifacts()
    assert Counter(a.stage for a in found.values()) == {
        "corpus": 2, "activations": 2, "sae": 1, **dict.fromkeys(JUDGED, 1)
    }  # fmt: skip
    [run] = place.ask("FROM runs")
    assert (run["name"], run["analysis"], run["documents"]) == ("general", "reviews", 60)
    assert run["trained_on"] == str(place.texts())
    assert run["seen_documents"] == 0
    [sae] = [a for a in found.values() if a.stage == "sae"]
    [latents] = [a for a in found.values() if a.stage == "latents"]
    trained = found[sae.manifest.inputs["activations"]].manifest.inputs["corpus"]
    assert found[trained].facts["documents"] == 120
    assert found[latents.manifest.inputs["corpus"]].facts["documents"] == 60


def test_one_more_analysis_trains_nothing_and_extracts_nothing_that_is_there(
    place: Place,
) -> None:
    before = place.artifacts()
    (first,) = place.ask("SELECT run_id FROM runs")
    texts = place.texts().read_bytes()
    place.texts().unlink()  # what the SAE was trained on is not looked for
    said = place.run(
        "analyse", "general", "--source", place.folder / "news.csv",
        "--set", "label_column=kind", "--set", "max_tokens=20", "--set", "seed=3",
    )  # fmt: skip
    place.texts().write_bytes(texts)
    assert f"sae          of run {first['run_id']}" in said
    new = [artifact for key, artifact in place.artifacts().items() if key not in before]
    assert Counter(a.stage for a in new) == dict.fromkeys(("corpus", "activations", *JUDGED), 1)
    assert all(a.facts["documents"] == 100 for a in new if a.stage == "corpus")
    runs = place.ask("SELECT analysis, seen_documents FROM runs ORDER BY published")
    assert [run["analysis"] for run in runs] == ["reviews", "news"]
    assert 0 < runs[1]["seen_documents"] < 20
    known = f"trained on the texts of {runs[1]['seen_documents']} of the "
    assert f"analysis 'news': the SAE was {known}" in said


def test_it_is_the_run_that_the_configuration_gives(place: Place) -> None:
    before, runs = place.artifacts(), place.ask("SELECT run_id FROM runs ORDER BY published")
    both = place.config("both", "reviews", "news")
    planned = deconstruct(place.home, "plan", both, env=place.env)
    assert "made" not in planned.stdout
    assert "latents news" in planned.stdout
    said = place.run("run", both)
    assert "done in" not in said
    assert place.artifacts().keys() == before.keys()
    assert place.ask("SELECT run_id FROM runs ORDER BY published") == runs
    for run, name in zip(runs, ("reviews", "news"), strict=True):
        for called in (f"general/{name}", f"general@1.resid_post/{name}"):
            [found] = place.ask(f"SELECT resolve_run('{called}') AS run_id")
            assert found == run


def test_probes_answer_by_corpus_and_label_in_one_query(place: Place) -> None:
    rows = place.ask(
        "SELECT r.analysis, p.label FROM probes AS p JOIN runs AS r USING (run_id) "
        "WHERE p.representation = 'latents' AND p.k IS NULL AND p.label IS NOT NULL "
        "AND p.metric = 'recall' ORDER BY ALL"
    )
    assert [(row["analysis"], row["label"]) for row in rows] == [
        ("news", "a business"), ("news", "a film"), ("news", "a sport"),
        ("reviews", "business"), ("reviews", "film"), ("reviews", "sport"),
    ]  # fmt: skip


def test_the_training_corpus_is_encoded_where_it_is_asked_for(place: Place) -> None:
    before = place.artifacts()
    said = place.run("analyse", "general/reviews")
    assert "corpus       that the SAE was trained on" in said
    new = [artifact for key, artifact in place.artifacts().items() if key not in before]
    assert Counter(a.stage for a in new) == dict.fromkeys(JUDGED, 1)
    plain = place.run("run", place.config("plain"))  # without [[analysis]], as ever
    assert "done in" not in plain
    assert len(place.ask("SELECT run_id FROM runs")) == 3


def test_faults_are_said_before_any_work(place: Place, tmp_path: Path) -> None:
    both = place.config("both", "reviews", "news")
    wrong = ("run", both, "--home", tmp_path / "home", "--set")
    said = place.run(*wrong, "analysis.news.label_column=sort", fails=True)
    assert said.startswith("error: analysis 'news': ")
    assert "'sort'" in said
    said = place.run(*wrong, "analysis.news.source=/nowhere.csv", fails=True)
    assert "error: analysis 'news': corpus.source '/nowhere.csv'" in said
    said = place.run(*wrong, "analysis.news.max_tokens=100_000", fails=True)
    assert "error: analysis 'news': " in said
    assert list((tmp_path / "home").glob("corpus/*")) == []
    said = place.run("analyse", "nobody", "--source", both, fails=True)
    assert "error: no run is called 'nobody'" in said


def test_a_gate_that_one_analysis_fails_stops_all(place: Place) -> None:
    both = place.config("both", "reviews", "news")
    before = place.ask("SELECT count(*) AS n FROM executions")
    gate = ("--set", "gates.max_fvu=0.0001", "--set", "gates.min_probe_accuracy=0.01")
    said = place.run("run", both, *gate, fails=True)
    assert "but fvu of 'reviews' is" in said
    assert "but fvu of 'news' is" in said
    assert place.ask("SELECT count(*) AS n FROM executions") == before


def test_a_sweep_judges_each_sae_on_each_corpus(place: Place) -> None:
    both = place.config("swept", "reviews", "news")
    both.write_text(both.read_text() + "\n[sweep]\nseed = [0, 1]\n")
    place.run("sweep", both, "--set", "name=swept")
    runs = place.ask("SELECT analysis, seed, on_front FROM pareto('swept') ORDER BY ALL")
    assert [(run["analysis"], run["seed"]) for run in runs] == [
        ("news", 0), ("news", 1), ("reviews", 0), ("reviews", 1)
    ]  # fmt: skip
    for name in ("news", "reviews"):
        assert any(run["on_front"] for run in runs if run["analysis"] == name)


def test_a_corpus_that_is_judged_on_grows_by_itself(place: Place) -> None:
    both = place.config("both", "reviews", "news")
    before = place.artifacts()
    new = list(csv.reader(write_texts(place.folder / "new.csv", 12, seed=9).open()))[1:]
    with (place.folder / "reviews.csv").open("a", newline="") as handle:
        csv.writer(handle).writerows(new)
    said = place.run("run", both, "--growth", "encode")
    made = [a for key, a in place.artifacts().items() if key not in before]
    assert Counter(a.stage for a in made) == dict.fromkeys(
        ("corpus", "activations", *JUDGED, "drift"), 1
    )
    [corpus] = [a for a in made if a.stage == "corpus"]
    assert corpus.facts["segments"] == [60, 12]
    assert corpus.manifest.inputs["base"] in before
    assert "12 documents since its first run" in said
    [row] = place.ask(
        "SELECT n_current FROM drift WHERE run_id = resolve_run('general/reviews') "
        "AND metric = 'sport'"
    )
    assert row["n_current"] == 12
