"""Long documents split into windows: the tokens, the artifact, and what reads it."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.growing import Home
from support.long_texts import write_long
from support.paths import ROOT
from support.texts import write_texts
from support.tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import ActivationsConfig, CorpusConfig, RunConfig
from deconstruct.corpus import sources, vocabulary
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.vocabulary import Vocabulary
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel
from deconstruct.reference.texts import held_out_texts
from flows import preflight

LENGTH = 24


def pieces_with_spaces() -> PreTrainedTokenizerFast:
    """As Gemma's: spaces as U+2581, merged with what follows."""
    pieces = ["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256)), *"▁abc\n", "▁a", "▁▁", "ab"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        [("▁", "a"), ("▁", "▁"), ("a", "b")],
        byte_fallback=True,
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def words_alone() -> PreTrainedTokenizerFast:
    vocabulary = {"[UNK]": 0, "<s>": 1, "a": 2, "ab": 3, "ba": 4, "c": 5, ",": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="[UNK]")


TOKENIZERS = {
    "bytes": (tiny_tokenizer(bos=True), True),
    "bytes without BOS": (tiny_tokenizer(), True),
    "pieces": (pieces_with_spaces(), True),
    "words": (words_alone(), False),
}
TEXTS = st.text(alphabet="abc  \n,é€𝄞", max_size=300)


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "PIECE", 90)
    monkeypatch.setattr(vocabulary, "CONTEXT", 30)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(text=TEXTS, length=st.integers(2, 40))
def test_windows_hold_every_token_once(name: str, text: str, length: int) -> None:
    tokenizer, kept = TOKENIZERS[name]
    cutter = Vocabulary(tokenizer, "auto" if name.startswith("bytes") else "always", kept)
    prefix = cutter.prefix
    assert bool(prefix) == (name != "bytes without BOS")
    (cut,) = cutter.windows([text], length)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [list(cut.ids[n : n + length]) for n in range(0, len(cut.ids), length)]
    assert all(window[: len(prefix)] == prefix for window in windows)
    assert [i for window in windows for i in window[len(prefix) :]] == whole
    assert all(len(window) == length for window in windows[:-1])
    (first,) = cutter.documents([text], length)
    assert (windows or [[]])[0] == list(first.ids)
    if not kept and windows:
        begin = np.arange(len(cut.ids)) % length < len(prefix)
        (uncut,) = cutter.cut([text], 10_000)
        assert cut.spaced is not None
        assert list(np.asarray(cut.spaced)[~begin]) == uncut.spaced
        assert cut.characters == uncut.characters


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_of_a_long_text_have_the_tokens_of_the_whole(name: str) -> None:
    tokenizer, kept = TOKENIZERS[name]
    draw = random.Random(1)
    for _ in range(40):
        words = draw.choices(["a", "ab", "ba", "c", ",", "é", "€𝄞", " ", "\n\n"], k=400)
        text = " ".join(words)
        (cut,) = Vocabulary(tokenizer, "never", kept, placed=True).windows([text], 10**9)
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert list(cut.ids) == whole["input_ids"]
        assert cut.starts is not None
        assert cut.starts.tolist() == [start for start, _ in whole["offset_mapping"]]
        if not kept:
            (uncut,) = Vocabulary(tokenizer, "never", kept).cut([text], 10_000)
            assert cut.spaced is not None
            assert (list(cut.spaced), cut.characters) == (uncut.spaced, uncut.characters)


@pytest.mark.usefixtures("short_pieces")
def test_a_text_without_white_space_loses_no_character() -> None:
    text = "".join(random.Random(2).choices("abcdefgh", k=5000))
    tokenizer = tiny_tokenizer()
    (cut,) = Vocabulary(tokenizer, "never").windows([text], 50)
    assert tokenizer.decode(list(cut.ids)) == text


def test_a_text_that_brings_bos_gets_no_second() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    (cut,) = Vocabulary(tokenizer, "auto").windows(["<s>" + "the market " * 9], 10)
    assert [cut.ids[n] for n in range(0, len(cut.ids), 10)] == [1] * -(-len(cut.ids) // 10)
    assert list(cut.ids).count(1) == -(-len(cut.ids) // 10)


def write_mixed(path: Path, documents: int = 60) -> Path:
    """Labelled texts, of which some are long, and some begin alike."""
    rows = list(csv.reader(write_texts(path, documents, longest=150).open()))
    rows += [[f"{rows[1][0]} and on it goes", "sport"], [rows[2][0] + " but not here", "film"]]
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    return path


def tokenise(root: DataRoot, path: Path, model: ResolvedModel, **fields: object) -> Artifact:
    settings = {"source": str(path), "max_tokens": LENGTH, **fields}
    config = CorpusConfig.model_validate(settings)
    return corpus.tokenise(root, config, source=sources.resolve(config), model=model)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("mixed") / "mixed.csv")


@pytest.fixture(scope="module")
def split(root: DataRoot, mixed: Path, model: ResolvedModel) -> Artifact:
    return tokenise(root, mixed, model, long_documents="split")


@pytest.fixture(scope="module")
def recorded(root: DataRoot, split: Artifact, model: ResolvedModel) -> Artifact:
    config = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512)
    (made,) = activations.extract(root, config, model=model, corpus=split, device="cpu").values()
    return made


def test_what_is_not_set_is_in_no_key(mixed: Path, model: ResolvedModel) -> None:
    config = CorpusConfig(source=str(mixed))
    source = sources.resolve(config)
    plain = corpus.recipe(config, source=source, model=model)
    assert not {"long_documents", "roles", "limit_from", "txt_documents"} & set(plain.config)
    split = config.model_copy(update={"long_documents": "split"})
    assert corpus.recipe(split, source=source, model=model).config == plain.config | {
        "long_documents": "split"
    }


def test_documents_keep_their_splits_and_windows_their_documents(
    root: DataRoot, mixed: Path, model: ResolvedModel, split: Artifact
) -> None:
    cut = tokenise(root, mixed, model)
    one, other = (
        pq.read_table(a.file("documents.parquet")).drop_columns("n_tokens") for a in (cut, split)
    )
    assert one.equals(other)
    tokens = pq.read_table(split.file("tokens.parquet")).to_pandas()
    assert (tokens.token_index == range(len(tokens))).all()
    assert tokens.doc_id.is_monotonic_increasing
    begins = tokens[tokens.position == 0]
    assert set(begins.token_id) == {1}
    assert len(begins) == split.facts["windows"] > 2 * int(split.facts["documents"])
    assert int(cut.facts["documents"]) == split.facts["documents"]
    assert "windows" not in cut.facts
    assert tokens.position.max() == LENGTH - 1
    counts = pq.read_table(split.file("documents.parquet"))["n_tokens"].to_numpy()
    assert (tokens.groupby("doc_id").size().to_numpy() == counts).all()
    texts = pq.read_table(split.file("documents.parquet"))["text"].to_pylist()
    joined = tokens[~tokens.special].groupby("doc_id").token.agg("".join)
    assert list(joined) == texts


def test_rows_are_what_the_model_makes_of_each_window(
    split: Artifact, recorded: Artifact, model: ResolvedModel
) -> None:
    tokens = pq.read_table(split.file("tokens.parquet")).to_pandas()
    tokens["window"] = (tokens.position == 0).cumsum()
    splits = pq.read_table(split.file("documents.parquet"))["split"].to_pylist()
    lm = load(model, "cpu")
    hidden = {
        number: lm(
            input_ids=torch.tensor([window.token_id.tolist()]),
            output_hidden_states=True,
        )
        .hidden_states[2][0]
        .detach()
        .numpy()
        for number, window in tokens.groupby("window")
    }
    doc_id, position, window = (
        tokens[name].to_numpy() for name in ("doc_id", "position", "window")
    )
    seen: list[int] = []
    for name in ("train", "test"):
        for block in ActivationReader(recorded, name).rows_in_order():
            assert {splits[doc] for doc in block.doc_id} == {name}
            index = block.token_index.astype(int)
            assert (block.doc_id == doc_id[index]).all()
            assert (block.position == position[index]).all()
            expected = [hidden[window[i]][position[i]] for i in index]
            np.testing.assert_allclose(block.activation, expected, atol=1e-4)
            seen += index.tolist()
    wanted = tokens.index[~tokens.special & (tokens.position >= 1)]
    assert sorted(seen) == list(wanted)


def test_windows_of_a_document_lie_apart_but_never_on_both_sides(recorded: Artifact) -> None:
    reader = ActivationReader(recorded)
    doc_id = np.concatenate([block.doc_id for block in reader.rows_in_order()])
    runs = 1 + np.count_nonzero(np.diff(doc_id))
    assert runs > 1.5 * len(np.unique(doc_id))
    kept, held_out = reader.hold_out(0.2)
    ours, theirs = (np.concatenate([p.doc_id() for p in v.groups]) for v in (kept, held_out))
    assert not set(ours) & set(theirs)
    assert len(ours) + len(theirs) == reader.rows == kept.rows + held_out.rows
    assert 0.1 < len(theirs) / reader.rows < 0.3
    for view in (kept, held_out):
        blocks = list(view.rows_in_order())
        assert np.array_equal(np.concatenate([b.activation for b in blocks]), view.whole().numpy())
        assert sum(map(len, blocks)) == view.rows


def test_windows_are_judged_and_counted_by_document(split: Artifact) -> None:
    texts = held_out_texts(split, None, 1)
    documents = pq.read_table(split.file("documents.parquet")).to_pylist()
    test = {d["doc_id"] for d in documents if d["split"] == "test"}
    assert {text.doc_id for text in texts} == test
    tokens = pq.read_table(split.file("tokens.parquet")).to_pandas()
    of_test = tokens[tokens.doc_id.isin(test)]
    assert [i for t in texts for i in t.ids] == of_test.token_id.tolist() or len(texts) < (
        of_test.position == 0
    ).sum()
    assert len(held_out_texts(split, 7, 1)) == 7
    assert max(len(text.ids) for text in texts) == LENGTH


def test_a_split_corpus_grows(growing: Home, tmp_path: Path) -> None:
    long, more = tmp_path / "long.csv", tmp_path / "more.csv"
    rows = list(csv.reader(write_mixed(long).open()))
    new = list(csv.reader(write_texts(tmp_path / "new.csv", 9, seed=5, longest=90).open()))[1:]
    with more.open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *new, *rows[1:]])
    config = CorpusConfig(source=str(long), max_tokens=LENGTH, long_documents="split")
    base = corpus.tokenise(
        growing.root, config, source=sources.resolve(config), model=growing.model
    )
    config = config.model_copy(update={"source": str(more)})
    grown = corpus.tokenise(
        growing.root, config, source=sources.resolve(config), model=growing.model, base=base
    )
    assert grown.facts["segments"] == [62, 9]
    first, whole = (pq.read_table(a.file("tokens.parquet")) for a in (base, grown))
    assert whole.slice(0, len(first)).equals(first)
    assert grown.facts["windows"] == (whole["position"].to_numpy() == 0).sum()
    recorded, rerecorded = growing.record(base), growing.record(grown)
    for name in set(recorded.manifest.files) - {"moments.safetensors"}:
        assert recorded.file(name).samefile(rerecorded.file(name))


def test_windows_as_an_independent_script_counts_them(
    tmp_path: Path, root: DataRoot, model: ResolvedModel
) -> None:
    texts = write_long(tmp_path / "texts.jsonl", 100, 500)
    made = tokenise(root, texts, model, long_documents="split", label_column=None, max_tokens=128)
    script = ROOT / "tests/support/count_windows.py"
    counted = subprocess.run(
        [sys.executable, str(script), str(texts), str(model.folder / "tokenizer.json"), "128", "1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    documents, tokens, windows = map(int, counted.split())
    assert (documents, windows) == (made.facts["documents"], made.facts["windows"])
    assert tokens + windows == made.facts["tokens"]
    assert windows > 300


def test_a_batch_is_at_most_what_the_windows_give(split: Artifact, recorded: Artifact) -> None:
    rows = int(recorded.facts["train_rows"])
    settings = {"max_tokens": LENGTH, "long_documents": "split"}

    def check(batch_size: int) -> None:
        sae = {"batch_size": batch_size, "tokens": 10 * batch_size}
        preflight.check_recorded(RunConfig.model_validate({"corpus": settings, "sae": sae}), split)

    check(rows)
    with pytest.raises(ConfigError, match=f"more than the {rows} recorded tokens"):
        check(rows + 1)
