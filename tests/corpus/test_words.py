"""Tokenizers of words: spaces between tokens, and the source's own text for the baselines."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.texts import write_texts
from support.tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.cluster.methods import class_keywords
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources, spaces
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.tables import KEPT
from deconstruct.corpus.vocabulary import token_strings
from deconstruct.latents.pooling import texts_of
from deconstruct.model.resolve import ResolvedModel

TEXTS = [
    "The sky is VERY blue, isn't it?",
    "  the skies\n\nare very, very blue today",
    "Déjà vu over London: the bank's profit",
    "zebra quux the market",
] * 3
LEARNT = [text.lower() for text in TEXTS[:3]] * 4
MARKS = ["[PAD]", "<s>", "[UNK]"]


def trained(tokenizer: Tokenizer, trainer: object) -> Tokenizer:
    tokenizer.train_from_iterator(LEARNT, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=70, special_tokens=MARKS))


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return trained(tokenizer, trainers.WordLevelTrainer(special_tokens=MARKS))


def end_of_word() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(vocab_size=70, special_tokens=MARKS, end_of_word_suffix="</w>")
    return trained(tokenizer, trainer)


def without_marks() -> Tokenizer:
    """As in the first example of the documentation of `tokenizers`."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=70, special_tokens=MARKS))


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=MARKS, unk_token="[UNK]")
    return trained(tokenizer, trainer)


def bytes_behind_a_splitter() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=300
    )
    return trained(tokenizer, trainer)


WORDS = [word_piece, word_level, end_of_word, without_marks, unigram, bytes_behind_a_splitter]


def as_model(folder: Path, tokenizer: Tokenizer) -> ResolvedModel:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(folder)
    return ResolvedModel(folder.name, folder, "0" * 64, folder.name)


def tokenise(home: Path, texts: list[str], model: ResolvedModel, **fields: object) -> Artifact:
    path = home / "texts.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["text"], *([text] for text in texts)])
    return of(home, path, model, label_column=None, **fields)


def of(home: Path, path: Path, model: ResolvedModel, **fields: object) -> Artifact:
    config = CorpusConfig.model_validate({"source": str(path), **fields})
    return corpus.tokenise(
        DataRoot(home / "data"), config, source=sources.resolve(config), model=model
    )


def joined(artifact: Artifact) -> list[str]:
    table = artifact.table("tokens.parquet", ["doc_id", "token"])
    found = [""] * int(artifact.facts["documents"])
    for doc_id, token in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found[doc_id] += token
    return found


def seen(corpus: Artifact) -> list[str]:
    """What the model saw of each document."""
    count = int(corpus.facts["documents"])
    return texts_of(corpus, count, np.arange(count))


@pytest.mark.parametrize("make", WORDS)
@pytest.mark.parametrize("bos", ["never", "always"])
def test_texts_of_baselines_are_the_sources_cut_where_tokens_are(
    tmp_path: Path, make: Callable[[], Tokenizer], bos: str
) -> None:
    model = as_model(tmp_path / "model", make())
    whole = tokenise(tmp_path, TEXTS, model, max_tokens=200, prepend_bos=bos)
    assert [text.rstrip() for text in seen(whole)] == TEXTS
    cut = tokenise(tmp_path, TEXTS, model, max_tokens=6, prepend_bos=bos)
    encoding = make().encode(TEXTS[0])
    end = encoding.offsets[5 - (bos == "always")][1]
    assert 4 < end < len(TEXTS[0])
    assert seen(cut)[0] == TEXTS[0][:end]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (word_piece, "the sky is very blue, isn't it?"),
        (word_level, "[UNK] sky is [UNK] blue, isn't it?"),
        (end_of_word, "the sky is very blue, isn't it?"),
        (without_marks, "[UNK]he sky is [UNK][UNK][UNK][UNK] blue, isn't it?"),
        (bytes_behind_a_splitter, "The sky is VERY blue, isn't it?"),
    ],
)
def test_tokens_put_together_keep_their_spaces(
    tmp_path: Path, make: Callable[[], Tokenizer], expected: str
) -> None:
    made = tokenise(tmp_path, TEXTS, as_model(tmp_path / "model", make()), prepend_bos="never")
    assert joined(made)[0] == expected
    assert any(text[0] == " " and text[1:].isalpha() for text in token_strings(made).values())


def test_words_are_told_apart(tmp_path: Path) -> None:
    """TF-IDF and keywords see the words that a reader sees."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    made = of(
        tmp_path,
        write_texts(tmp_path / "texts.csv", longest=12),
        as_model(tmp_path / "model", word_piece()),
    )
    texts = np.array(seen(made), dtype=object)
    assert len(texts) == 120
    documents = made.table("documents.parquet", ["split", "label"])
    test = documents["split"].to_numpy(zero_copy_only=False) == "test"
    label = np.array(documents["label"].to_pylist(), dtype=object)
    words = TfidfVectorizer(min_df=2).fit(texts[~test])
    probe = LogisticRegression(C=100).fit(words.transform(texts[~test]), label[~test])
    assert probe.score(words.transform(texts[test]), label[test]) == 1.0
    number = np.unique(label.astype(str), return_inverse=True)[1]
    keywords = class_keywords(texts.tolist(), number, 3, 5)
    assert "market" in [w for words in keywords for w in words] or "bank" in keywords[0]
    assert all(len(word.split()[0]) < 9 for words in keywords for word in words)


def test_a_corpus_of_version_2_grows_with_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens are glued; they are the same tokens, and get the texts that they should have."""
    model = as_model(tmp_path / "model", word_piece())
    monkeypatch.setattr(spaces, "kept_by", lambda folder: True)
    old = tokenise(tmp_path, TEXTS, model)
    assert KEPT not in old.manifest.files
    assert " " not in joined(old)[0]
    monkeypatch.undo()
    config = CorpusConfig(source=str(tmp_path / "texts.csv"), label_column=None)
    with (tmp_path / "texts.csv").open("a") as handle:
        handle.write("the very last\n")
    new = corpus.tokenise(
        DataRoot(tmp_path / "data"), config,
        source=sources.resolve(config), model=model, base=old,
    )  # fmt: skip
    assert joined(new)[0] == "the sky is very blue, isn't it?"
    assert seen(new) == [*TEXTS, "the very last"]
    columns = ["token_index", "doc_id", "position", "token_id", "special"]
    assert (
        new.table("tokens.parquet", columns)
        .slice(0, old.facts["tokens"])
        .equals(old.table("tokens.parquet", columns))
    )


def metaspace(prepend: str, split: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    marks = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    splitter = pre_tokenizers.WhitespaceSplit()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, marks]) if split else marks
    return tokenizer


def byte_level(prefix: bool, first: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    splitter = {
        "removed": pre_tokenizers.Split(" ", "removed"),
        "isolated": pre_tokenizers.Split(" ", "isolated"),
        "split": pre_tokenizers.WhitespaceSplit(),
    }[first]
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, level])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "kept"),
    [
        (tiny_tokenizer().backend_tokenizer, True),
        (metaspace("always", True), True),
        (metaspace("never", True), False),
        (metaspace("never", False), True),
        (byte_level(True, "removed"), True),
        (byte_level(False, "removed"), False),
        (byte_level(False, "split"), False),
        (byte_level(False, "isolated"), True),
        (Tokenizer(models.BPE(continuing_subword_prefix="@@")), False),
        (Tokenizer(models.WordPiece({'"type": "WordPiece"': 0}, unk_token="x")), False),
        (Tokenizer(models.WordLevel({'"end_of_word_suffix": "x"': 0}, unk_token="x")), True),
    ],
)
def test_who_keeps_spaces_is_read_off_the_file(
    tmp_path: Path, tokenizer: Tokenizer, kept: bool
) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert spaces.kept_by(tmp_path) is kept


def test_who_keeps_spaces_without_a_tokenizer_json(tmp_path: Path) -> None:
    assert spaces.kept_by(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    assert spaces.kept_by(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    assert not spaces.kept_by(tmp_path)
    (tmp_path / "tokenizer.json").write_text("not JSON")
    assert spaces.kept_by(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "merges.txt").unlink()
    (tmp_path / "vocab.txt").write_text("[UNK]\nthe\n##s\n")
    assert not spaces.kept_by(tmp_path)


def test_byte_level_corpora_are_what_they_were(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model = ResolvedModel("model", tmp_path / "model", "0" * 64, "model")
    made = tokenise(tmp_path, TEXTS, model)
    assert KEPT not in made.manifest.files
    assert seen(made) == TEXTS
