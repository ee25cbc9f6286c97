"""The tables ``[[analysis]]``: corpora that an SAE is judged on."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from deconstruct.common.errors import ConfigError
from deconstruct.config import TRAINING, AnalysisConfig, CorpusConfig, RunConfig, load
from deconstruct.recurring.analyses import one_analysis
from flows.pipeline import pipeline

TWO = """
[corpus]
source = "web.csv"
label_column = "none"

[[analysis]]
name = "reviews"
source = "reviews.csv"
label_column = "stars"

[[analysis]]
name = "corpus"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_each_is_a_corpus_with_a_name(tmp_path: Path) -> None:
    config = load(written(tmp_path, TWO))
    assert list(config.analysed()) == ["reviews", TRAINING]
    assert config.analysed()[TRAINING] is config.corpus
    assert config.analysed()["reviews"].label_column == "stars"
    assert list(RunConfig().analysed()) == [TRAINING]


def test_a_name_changes_no_key_and_no_other_default() -> None:
    own = AnalysisConfig(name="reviews", source="reviews.csv", max_tokens=64)
    assert own.key_fields() == CorpusConfig(source="elsewhere.csv", max_tokens=64).key_fields()


def test_overrides_name_an_analysis_by_its_name_and_add_one(tmp_path: Path) -> None:
    path = written(tmp_path, TWO)
    config = load(path, ["analysis.reviews.limit=9", "analysis.news.source=news.csv"])
    assert [one.name for one in config.analysis] == ["reviews", TRAINING, "news"]
    assert config.analysis[0].limit == 9
    assert load(path, ["analysis=[]"]).analysis == ()
    assert load(path, ["analysis.reviews.splits=a,b"]).analysis[0].splits == ("a", "b")
    assert load(path, ["analysis.reviews.label_column=none"]).analysis[0].label_column is None


def test_none_is_no_column_in_a_table_of_a_list(tmp_path: Path) -> None:
    text = TWO.replace('label_column = "stars"', 'label_column = "none"')
    assert load(written(tmp_path, text)).analysis[0].label_column is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("reviews", "corpus"),
            "the analysis 'corpus' is of [corpus] itself, as it stands there; ",
        ),
        (('"corpus"', '"reviews"\nsource = "a.csv"'), "two analyses are called 'reviews'"),
        (('source = "reviews.csv"', ""), "the analysis 'reviews' has no source; name its texts"),
        (('"reviews"\n', '"good/bad"\n'), "analysis.good/bad.name: a name has letters, digits"),
        (("stars", 'stars"\nsplit = "a'), "analysis.reviews.split: no such field; did you mean "),
        (('"stars"', "3"), "analysis.reviews.label_column: "),
        (('name = "reviews"\n', ""), "analysis.0.name: Field required"),
        (("[[analysis]]", "[analysis]"), "write [[analysis]], in two brackets"),
    ],
    ids=["training", "twice", "no source", "name", "field", "type", "nameless", "brackets"],
)
def test_faults_are_sentences(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = TWO.replace(*change, 1)
    if change[0] == "[[analysis]]":
        text = text.partition('[[analysis]]\nname = "corpus"')[0]
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("analysis.reviews=3", "'reviews' is a table; name a field of it"),
        ("analysis=3", "analysis.0: "),
        ("analysis.late.limit=3", "the analysis 'late' has no source"),
        ("sae.prefixes.3=4", "sae.prefixes: "),
    ],
)
def test_faults_of_overrides_are_sentences(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, TWO), [override])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/My Reviews.v2.csv", "My-Reviews"),
        ("hub:stanfordnlp/imdb", "imdb"),
        ("texts/", "texts"),
        ("embedded:bbc-news", "bbc-news"),
    ],
)
def test_an_analysis_is_called_after_its_source(source: str, name: str) -> None:
    assert one_analysis(source, None, []).name == name


def test_one_more_analysis_is_what_the_table_would_be() -> None:
    made = one_analysis("r.csv", "reviews", ["label_column=stars", "limit=7"])
    assert made == AnalysisConfig(name="reviews", source="r.csv", label_column="stars", limit=7)
    assert one_analysis(None, None, []) == AnalysisConfig(name=TRAINING)
    with pytest.raises(ConfigError, match="gives no name to call the analysis by; add --name"):
        one_analysis("corpus.csv", None, [])
    with pytest.raises(ConfigError, match=r"analysis\.r\.limits: no such field; did you"):
        one_analysis("r.csv", None, ["limits=7"])


def test_a_form_takes_analyses_as_a_list_of_tables() -> None:
    form = parameter_schema(pipeline.fn).model_dump_for_openapi()
    field = form["definitions"]["RunConfig"]["properties"]["analysis"]
    assert field["type"] == "array"
    assert field["items"] == {"$ref": "#/definitions/AnalysisConfig"}
    filled = {"config": {"analysis": [{"name": "reviews", "source": "r.csv"}, {"name": "corpus"}]}}
    assert validate(filled, form) == []
    assert validate({"config": {"analysis": [{"source": "r.csv"}]}}, form) != []
