"""The model card: what the hub reads of it, what it tells, and that nobody's text is obeyed."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from support.taken_out import published, sae_of

from deconstruct.artifacts import DataRoot
from deconstruct.interop.card import card, prose
from deconstruct.interop.export import FOLDERS, export
from deconstruct.interop.subject import Metric, Subject, subject_of
from deconstruct.store import open_store

HOSTILE = (
    "a`|b](https://evil.example) <img src=x onerror=alert(1)> https://evil.example www.evil.example"
    "\n\n# Head\n---\nlicense: mit\n---\n![x](y) **b** \x1b[31m \u202e ``` &lt; @someone"
)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    published(tmp_path, sae_of("topk"))
    with open_store(tmp_path) as store:
        return subject_of(store, DataRoot(tmp_path), "demo")


def front(page: str) -> dict[str, object]:
    head = page.split("---\n")[1]
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


def rendered(page: str) -> str:
    body = page.split("---\n", 2)[2]
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)


def test_the_hub_reads_its_head(subject: Subject) -> None:
    page = card(subject, "saelens", "Load it.", ["`cfg.json`: it"])
    told = ModelCard(page).data.to_dict()
    assert told["library_name"] == "saelens"
    assert told["tags"][-1] == "topk"
    assert told["base_model"] == "google/gemma-3-270m"
    assert {"license", "datasets"}.isdisjoint(told)
    assert page.split("---\n")[1].startswith("# license: ")


def test_what_came_from_the_hub_is_named_with_its_commit(subject: Subject) -> None:
    found = replace(
        subject, model="a/b", base_model="a/b", model_revision="c" * 40, dataset="d/e",
        trained_on="hub:d/e", dataset_revision="f" * 40,
    )  # fmt: skip
    page = card(found, "saelens", "", [])
    assert (front(page)["base_model"], front(page)["datasets"]) == ("a/b", ["d/e"])
    assert f"`a/b` at `{'c' * 40}`" in page
    assert f"1,000 tokens of `hub:d/e` at `{'f' * 40}`" in page


def test_figures_have_their_intervals(subject: Subject) -> None:
    page = card(subject, "saelens", "", [])
    assert "| `fvu` | 0.2 share | 0.19 to 0.21 | 100 |" in page
    assert page.index("`fvu_typical`") < page.index("`l0`") < page.index("`delta_loss`")
    odd = (Metric("odd", float("nan"), None, float("inf"), None, "", ""),)
    assert "| `odd` | unknown |  |  |  |" in card(replace(subject, metrics=odd), "saelens", "", [])
    assert "was not judged" in card(replace(subject, metrics=()), "saelens", "", [])


@pytest.mark.parametrize(
    "path", ["/home/me/secret/texts.csv", "../secret/texts.csv", "C:\\secret\\texts.csv"]
)
def test_no_folder_of_this_machine_is_told(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    published(tmp_path, sae_of("topk"), corpus={"source": path}, model={"name": path})
    with open_store(tmp_path) as store:
        subject = subject_of(store, DataRoot(tmp_path), "demo")
    assert subject.base_model is None
    assert "texts.csv" in card(subject, "saelens", "", [])
    for format_ in FOLDERS:
        folder = export(tmp_path, "demo", tmp_path / "out" / format_, format_).folder
        for file in folder.rglob("*.*"):
            raw = file.read_bytes() if file.is_file() else b""
            assert b"secret" not in (gzip.decompress(raw) if file.suffix == ".gz" else raw), file


def test_texts_of_others_are_shown_and_not_obeyed(subject: Subject) -> None:
    found = replace(
        subject, name=HOSTILE, model=HOSTILE, source=HOSTILE, trained_on=HOSTILE,
        taken_from=HOSTILE, metrics=(Metric(HOSTILE, 1.0, 0.0, 2.0, 3, HOSTILE, HOSTILE),),
    )  # fmt: skip
    page = card(found, "saelens", "", [])
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "license" not in front(page)
    html = rendered(page)
    for sign in ("<a ", "<img", "<strong", "<hr", "<em"):
        assert sign not in html, sign
    assert html.count("<h1") == 1
    assert html.count("<h2") == 4
    cells = [row.count("<td") for row in html.split("<tr>") if "<td" in row]
    assert set(cells) == {2, 5}


def test_prose_keeps_the_words() -> None:
    assert prose("FVU is 1 - R2") == r"FVU is 1 \- R2"
    assert rendered(f"---\n---\n{prose(HOSTILE)}").count("evil.example") == 3


def test_of_several_files_no_folder_and_no_list_is_told(tmp_path: Path) -> None:
    texts = ["/home/me/secret/a.csv", "/home/me/secret/texts.csv"]
    published(tmp_path, sae_of("topk"), corpus={"source": texts})
    with open_store(tmp_path) as store:
        subject = subject_of(store, DataRoot(tmp_path), "demo")
    assert subject.trained_on == subject.source == "texts.csv"
    assert "secret" not in card(subject, "saelens", "", [])
