"""How long a run takes, before it has run: longer if there is more to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import FAMILIES, save_tiny

from deconstruct.artifacts import Artifact
from deconstruct.config import STAGES, RunConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.suggest.duration import about, foreseen, rate


def planned(documents: int, tokens: int) -> Artifact:
    """A corpus of which only the facts are asked."""
    facts = {"documents": documents, "test_documents": documents // 5, "tokens": tokens}
    return type("Corpus", (), {"facts": facts})()  # type: ignore[return-value]


def config(**changes: object) -> RunConfig:
    given = {"activations": {"sites": ["1.resid_post"]}, "sae": {"d_sae": 64, "k": 4}}
    return RunConfig.model_validate(given | changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_an_estimate(family: str, tmp_path: Path) -> None:
    folder = save_tiny(family, tmp_path)
    model = ResolvedModel(family, folder, "", "", "float32")
    found = foreseen(config(), model, planned(100, 10_000), "cpu")
    assert set(found) == {*STAGES, "map"} - {"corpus"}
    assert all(seconds > 0 and size >= 0 for seconds, size in found.values())


def test_more_to_do_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconstruct.suggest.duration.rate", lambda *_: 1e9)
    model = ResolvedModel("gpt2", save_tiny("gpt2", tmp_path), "", "", "float32")
    small, large = planned(100, 10_000), planned(1000, 100_000)
    few, many = (foreseen(config(), model, corpus, "cpu") for corpus in (small, large))
    for stage in ("activations", "latents", "probe", "cluster"):
        assert many[stage][0] == pytest.approx(10 * few[stage][0])
    assert many["evaluation"][0] < 5 * few["evaluation"][0]  # 48 documents are judged
    wide = foreseen(config(sae={"d_sae": 640, "k": 4}), model, small, "cpu")
    assert wide["sae"][0] == pytest.approx(10 * few["sae"][0])
    early = foreseen(config(activations={"sites": ["0.resid_post"]}), model, small, "cpu")
    assert early["activations"][0] < few["activations"][0]
    assert early["evaluation"][0] > few["evaluation"][0]


def test_a_product_is_timed() -> None:
    assert 1e8 < rate("cpu", torch.float32) < 1e15


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.1, "about 10 seconds"),
        (84, "about 80 seconds"),
        (250, "about 4 minutes"),
        (9000, "about 2 hours"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert about(seconds) == said
