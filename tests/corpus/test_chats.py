"""Chats: their texts by the template, and which of their tokens are recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_models import save_tiny, tiny_tokenizer

from deconstruct.activations import stage as activations
from deconstruct.activations.reader import ActivationReader
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import ActivationsConfig, CorpusConfig, ModelConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.reading.chats import Chats
from deconstruct.corpus.tables import RECORDED
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.reference.texts import held_out_texts

TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant', 'system'] %}"
    "{{ raise_exception('who is ' + m.role + '?') }}{% endif %}"
    "<|{{ m.role }}|>\n{{ m.content | trim }}</s>\n{% endfor %}"
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
CHATS = [
    [
        {"role": "system", "content": "be brief, user"},
        {"role": "user", "content": f"  the bank {n} "},
        {"role": "assistant", "content": f"the film {n} won the prize"},
        {"role": "user", "content": "s"},
        {"role": "assistant", "content": "assistant"},
    ]
    for n in range(12)
]


def cell(chat: list[dict[str, str]]) -> str:
    return json.dumps(chat)


def chats(role: str, template: str = TURNS) -> Chats:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = template
    return Chats(tokenizer, role, "tiny")


def parts(role: str, template: str = TURNS) -> list[str]:
    made = chats(role, template)
    text = made.text_of(cell(CHATS[3])) or ""
    return [text[start:end] for start, end in made.spans_of(cell(CHATS[3]))]


def test_the_text_is_the_template_s() -> None:
    assert chats("all").text_of(cell(CHATS[3])) == (
        "<s><|system|>\nbe brief, user</s>\n<|user|>\nthe bank 3</s>\n"
        "<|assistant|>\nthe film 3 won the prize</s>\n<|user|>\ns</s>\n"
        "<|assistant|>\nassistant</s>\n"
    )
    assert chats("all").text_of("[]") is None


def test_a_role_s_characters_are_those_that_its_content_decides() -> None:
    assert parts("user") == ["the bank 3", "s"]
    assert parts("assistant") == ["the film 3 won the prize", "assistant"]
    assert parts("system") == ["be brief, user"]


def test_a_template_s_own_marks_come_first() -> None:
    assert "".join(parts("assistant", MARKED)) == "the film 3 won the prize</s>assistant</s>"
    assert parts("user", MARKED) == ["  the bank 3 ", "s"]


def test_a_template_that_says_the_date_gives_the_same_text_every_day() -> None:
    dated = "{{ strftime_now('%Y-%m-%d') }} " + TURNS
    text = chats("all", dated).text_of(cell(CHATS[0])) or ""
    assert not text.startswith(("202", "203"))


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    folder = save_tiny("llama", tmp_path_factory.mktemp("models") / "talking")
    (folder / "chat_template.jinja").write_text(TURNS)
    home = DataRoot(tmp_path_factory.mktemp("home"))
    return resolve(home, ModelConfig(name=str(folder), dtype="float32"))


def write(path: Path, rows: list[Any]) -> Path:
    table = [{"text": chat, "label": "ab"[n % 2]} for n, chat in enumerate(rows)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps([row | {"text": cell(row["text"])} for row in table]))
    else:
        path.write_text("\n".join(map(json.dumps, table)))
    return path


def tokenise(root: DataRoot, path: Path, model: ResolvedModel, **fields: Any) -> Artifact:
    config = CorpusConfig.model_validate({"source": str(path), "max_tokens": 100, **fields})
    return corpus.tokenise(root, config, source=sources.resolve(config), model=model)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
def test_a_column_of_chats(tmp_path: Path, talking: ResolvedModel, form: str) -> None:
    path = write(tmp_path / f"chats.{form}", [*CHATS, []])
    made = tokenise(DataRoot(tmp_path / "home"), path, talking, roles="all")
    texts = pq.read_table(made.file("documents.parquet"))["text"].to_pylist()
    assert texts == [chats("all").text_of(cell(chat)) for chat in CHATS]
    tokens = pq.read_table(made.file("tokens.parquet")).to_pandas()
    assert (tokens[tokens.position == 0].token_id == 1).all()
    assert (tokens.token_id == 1).sum() == 12
    assert RECORDED not in made.manifest.files


@pytest.mark.parametrize("long", ["truncate", "split"])
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_tokens_of_one_role_are_recorded(
    tmp_path: Path, talking: ResolvedModel, role: str, long: str
) -> None:
    root = DataRoot(tmp_path / "home")
    path = write(tmp_path / "chats.jsonl", CHATS)
    length = 100 if long == "truncate" else 45  # the first of which differ
    made = tokenise(root, path, talking, roles=role, long_documents=long, max_tokens=length)
    tokens = pq.read_table(made.file("tokens.parquet")).to_pandas()
    tokens["recorded"] = pq.read_table(made.file(RECORDED))["recorded"].to_numpy()
    assert made.manifest.files[RECORDED].rows == len(tokens)
    for number, chat in enumerate(CHATS):
        own = tokens[(tokens.doc_id == number) & tokens.recorded]
        said = "".join(m["content"].strip() for m in chat if m["role"] == role)
        assert "".join(own.token) == said
    config = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512)
    (recorded,) = activations.extract(
        root, config, model=talking, corpus=made, device="cpu"
    ).values()
    found = sorted(
        int(index)
        for split in ("train", "test")
        for block in ActivationReader(recorded, split).rows_in_order()
        for index in block.token_index
    )
    wanted = tokens[tokens.recorded & ~tokens.special & (tokens.position >= 1)]
    assert found == wanted.token_index.tolist()
    judged = held_out_texts(made, None, 1)
    documents = pq.read_table(made.file("documents.parquet"))["split"].to_pylist()
    test = [n for n, split in enumerate(documents) if split == "test"]
    assert {text.doc_id for text in judged} == set(test)
    if long == "truncate":
        rows = sum(int(text.recorded.sum()) for text in judged)
        assert rows == wanted.doc_id.isin(test).sum()


def test_chats_that_grow(tmp_path: Path, talking: ResolvedModel) -> None:
    root = DataRoot(tmp_path / "home")
    fields: dict[str, Any] = {"roles": "user", "max_tokens": 100}
    base = tokenise(root, write(tmp_path / "a.jsonl", CHATS[:8]), talking, **fields)
    config = CorpusConfig(source=str(write(tmp_path / "b.jsonl", CHATS)), **fields)
    grown = corpus.tokenise(root, config, source=sources.resolve(config), model=talking, base=base)
    assert grown.facts["segments"] == [8, 4]
    first, whole = (pq.read_table(made.file(RECORDED)) for made in (base, grown))
    assert whole.slice(0, len(first)).equals(first)
    assert len(whole) == grown.facts["tokens"]


def test_another_template_is_another_corpus(
    tmp_path: Path, talking: ResolvedModel, model: ResolvedModel
) -> None:
    path = write(tmp_path / "chats.jsonl", CHATS)
    config = CorpusConfig(source=str(path), roles="all")
    source = sources.resolve(config)
    asked = corpus.recipe(config, source=source, model=talking)
    assert "chat_template" in asked.inputs
    template = talking.folder / "chat_template.jinja"
    template.write_text(TURNS + " ")
    assert corpus.recipe(config, source=source, model=talking).key != asked.key
    template.write_text(TURNS)
    plain = CorpusConfig(source=str(path))
    assert "chat_template" not in corpus.recipe(plain, source=source, model=talking).inputs


@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        (CHATS, {}, r"holds \[\{.*corpus.roles = 'all'"),
        (["a text", "another"], {"roles": "all"}, "holds 'a text', no chat as corpus.roles has it"),
        ([[{"role": "user"}]], {"roles": "all"}, "no chat as corpus.roles has it"),
        ([[{"role": "user", "content": [1]}]], {"roles": "all"}, "no chat as corpus.roles has"),
        ([[{"role": "tool", "content": "x"}]], {"roles": "all"}, "does not take .*tool .who is"),
        ([c[1:2] for c in CHATS], {"roles": "assistant"}, "no chat .* has a message of that role"),
        ([[], []], {"roles": "all"}, "none of its 2 documents has any text"),
    ],
)
def test_bad_chats_in_a_sentence(
    tmp_path: Path, talking: ResolvedModel, rows: list[Any], fields: dict[str, str], said: str
) -> None:
    with pytest.raises(DataError, match=said) as raised:
        tokenise(DataRoot(tmp_path), write(tmp_path / "bad.jsonl", rows), talking, **fields)
    assert "\n" not in str(raised.value)


def test_a_column_of_chats_in_parquet_asks_for_roles(
    tmp_path: Path, talking: ResolvedModel
) -> None:
    with pytest.raises(DataError, match=r"'text' of a.parquet holds chats; say .*corpus.roles"):
        tokenise(DataRoot(tmp_path), write(tmp_path / "a.parquet", CHATS), talking)


def test_a_tokenizer_without_a_template(tmp_path: Path, model: ResolvedModel) -> None:
    with pytest.raises(ConfigError, match=r"corpus.roles 'all': the tokenizer of .* has no chat"):
        tokenise(DataRoot(tmp_path), write(tmp_path / "a.jsonl", CHATS), model, roles="all")
