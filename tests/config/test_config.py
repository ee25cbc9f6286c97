"""Configuration: every fault is one sentence that names field, value and remedy."""

from pathlib import Path

import pytest
from pydantic import Field
from support.paths import ROOT

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig, load
from deconstruct.config.base import KEY_WHERE_SET, Settings

CONFIGS = ROOT / "configs"


def test_defaults_and_overrides() -> None:
    config = load(None, ["sae.k=64", "activations.sites=['3.resid_post', '5.mlp_out']"])
    assert config.sae.k == 64
    assert config.activations.sites == ("3.resid_post", "5.mlp_out")
    assert load(None, ["model.name=a,b"]).model.name == "a,b"
    assert load(None, ["model.name=some/model"]).model.name == "some/model"
    assert load(None, ["cluster.k=none", "corpus.label_column=none"]).corpus.label_column is None


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("5.resid_post", ("5.resid_post",)),
        ('"5.resid_post"', ("5.resid_post",)),
        ("5.resid_post, 9.mlp_out", ("5.resid_post", "9.mlp_out")),
        ("[5.resid_post,9.mlp_out]", ("5.resid_post", "9.mlp_out")),
    ],
)
def test_a_list_is_also_its_values_with_commas_between_them(
    text: str, sites: tuple[str, ...]
) -> None:
    assert load(None, [f"activations.sites={text}"]).activations.sites == sites
    assert load(None, ["probe.ks=3"]).probe.ks == (3,)
    assert load(None, ["corpus.splits=train,test"]).corpus.splits == ("train", "test")


def test_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('name = "nightly"\n[sae]\nk = 16\nd_sae = 512\n')
    config = load(path, ["sae.k=8"])
    assert (config.name, config.sae.k, config.sae.d_sae) == ("nightly", 8, 512)


def test_a_file_says_none_where_a_field_may_have_no_value(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "none"\n[corpus]\nlabel_column = "none"\ntext_column = "none"\n'
        '[evaluation]\nmax_documents = "none"\n'
    )
    config = load(path)
    assert (config.corpus.label_column, config.evaluation.max_documents) == (None, None)
    assert (config.name, config.corpus.text_column) == ("none", "none")
    assert load(path, ['corpus.label_column="none"']).corpus.label_column == "none"


def test_the_shipped_configurations_load() -> None:
    assert load(CONFIGS / "embedded.toml") == RunConfig(name="embedded")
    gpt2 = load(CONFIGS / "gpt2.toml")
    assert gpt2.model.name == "openai-community/gpt2"
    assert gpt2.activations.sites == ("5.resid_post",)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("sae.kk=3", r"sae\.kk: no such field; did you mean 'k'\?"),
        ("sae.K=3", r"sae\.K: no such field; did you mean 'k'\?"),
        ("SAE.k=3", r"SAE: no such field; did you mean 'sae'\?"),
        ("zzz.k=3", r"zzz: no such field; known here: name, model"),
        ("sae.k=100000", r"k = 100000 is more than d_sae = 8192; lower k"),
        ("sae.k=many", r"sae\.k: .*integer.*found 'many'"),
        ("activations.sites=['x']", r"'x' is no hook site; write '<layer>\.<hook>'"),
        ("activations.sites=['1.mlp_out','1.mlp_out']", r"named twice"),
        ("corpus.test_share=1.5", r"corpus\.test_share: .*less than 1.*found 1\.5"),
        ("sae", r"override 'sae' is not of the form stage\.field=value"),
        ("name.x=3", r"no fields|valid string"),
    ],
)
def test_faults_are_sentences(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(None, [override])
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml' can't be read: No such file"):
        load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml' is not TOML"):
        load(tmp_path / "bad.toml")


class _Grown(Settings):
    """Settings that got a field after their first release."""

    old: int = 1
    new: str = Field("as before", json_schema_extra=KEY_WHERE_SET)


def test_a_field_that_came_later_is_in_the_key_only_where_it_is_set() -> None:
    assert _Grown().key_fields() == {"old": 1}
    assert _Grown(new="as before").key_fields() == {"old": 1}
    assert _Grown(new="otherwise").key_fields() == {"old": 1, "new": "otherwise"}
