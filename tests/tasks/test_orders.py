"""Orders: what another process is to make, and what it does with one that it can't fill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deconstruct.activations import stage as activations_stage
from deconstruct.activations.window import Stream
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, StorageError
from deconstruct.config import (
    ActivationsConfig,
    CorpusConfig,
    EvaluationConfig,
    LatentsConfig,
    ModelConfig,
    SaeConfig,
)
from deconstruct.corpus import sources
from deconstruct.evaluation import stage as evaluation_stage
from deconstruct.latents import stage as latents_stage
from deconstruct.model.resolve import ResolvedModel, resolve
from deconstruct.reference import stage as reference_stage
from deconstruct.sae import stage as sae_stage
from tasks.order import NotThere, Order
from tasks.spread import Spread
from tasks.stage import Ref

CONFIG = ActivationsConfig(sites=("1.resid_post", "2.resid_post"), shard_tokens=512)
SAE = SaeConfig(d_sae=64, k=4, tokens=4096, batch_size=256)


def written(recipes: Any, config: Any, **inputs: Any) -> Order:
    """An order as it reaches the other process: as JSON."""
    by_name = {n: Ref.of(i) if isinstance(i, Artifact) else i for n, i in inputs.items()}
    order = Order.of(recipes, config, {"device": "auto", **by_name})
    assert order is not None
    return Order.model_validate_json(order.model_dump_json())


def apart(folder: Path, *artifacts: Artifact) -> DataRoot:
    """Another data root that has these artifacts and nothing else."""
    for artifact in artifacts:
        place = folder / artifact.stage / artifact.key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(artifact.path)
    return DataRoot(folder)


def same(made: list[Artifact], own: list[Artifact]) -> bool:
    """Whether they are the same artifacts: keys, bytes, and facts."""
    return [(a.key, a.digest(), a.facts) for a in made] == [
        (a.key, a.digest(), a.facts) for a in own
    ]


def test_sites_made_to_order_are_the_same(
    root: DataRoot,
    corpus_artifact: Artifact,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where ``auto`` comes to another arithmetic, and a path is taken from another folder."""
    monkeypatch.chdir(tiny_model.parent)
    model = resolve(root, ModelConfig(name=f"./{tiny_model.name}"))
    own = activations_stage.extract(root, CONFIG, model=model, corpus=corpus_artifact)
    recipes = activations_stage.recipes(CONFIG, model=model, corpus=corpus_artifact)
    order = written(recipes, CONFIG, model=model, corpus=corpus_artifact, engine=Spread())
    monkeypatch.chdir(tmp_path)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        value = recipes[0].config["dtype"] != "bfloat16"
        monkeypatch.setattr(torch.cpu, name, lambda value=value: value)
    assert activations_stage.recipes(CONFIG, model=model, corpus=corpus_artifact) != recipes
    made = order.make(apart(tmp_path / "home", corpus_artifact))
    assert all(artifact.made for artifact in made)
    assert same(made, list(own.values()))


def test_what_is_made_of_activations_is_the_same(
    root: DataRoot,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    model: ResolvedModel,
    texts: Path,
    tmp_path: Path,
) -> None:
    corpus, activations = corpus_artifact, activations_artifact
    config = EvaluationConfig(max_documents=8, bootstrap=20, other=(str(texts),))
    other = (sources.resolve(CorpusConfig(source=str(texts))),)
    home = apart(tmp_path, corpus, activations)

    def both(stage: Any, settings: Any, **inputs: Any) -> Artifact:
        own: Artifact = stage.make(root, settings, **inputs)
        order = written([stage.recipe(settings, **inputs)], settings, **inputs)
        assert same(order.make(home), [own])
        return own

    read = {"model": model, "corpus": corpus, "activations": activations}
    reference = both(reference_stage.STAGE, config, **read)
    sae = both(sae_stage.STAGE, SAE, activations=activations, output=None, start=None)
    started = {"activations": activations, "output": None, "start": sae}
    both(sae_stage.STAGE, SAE, **started)
    encoded = {"corpus": corpus, "activations": activations, "sae": sae}
    latents = both(latents_stage.STAGE, LatentsConfig(), **encoded)
    judged = {"model": model, "reference": reference, "sae": sae, "latents": latents}
    both(evaluation_stage.STAGE, config, **judged, other=other)
    both(evaluation_stage.STAGE, config.model_copy(update={"other": ()}), **judged, other=())


def test_saes_of_a_sweep_and_of_a_window_are_the_same(
    root: DataRoot,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    model: ResolvedModel,
    tmp_path: Path,
) -> None:
    members = [SAE.model_copy(update=own) for own in ({}, {"k": 8}, {"seed": 1})]
    window = ActivationsConfig(sites=("1.resid_post",), shard_tokens=512, keep="window")
    stream = Stream(window, "1.resid_post", replace(model, dtype="auto"), corpus_artifact)
    for activations in (activations_artifact, stream):
        recipes = [sae_stage.recipe(member, activations=activations) for member in members]
        inputs = {"activations": activations, "output": None, "engine": Spread()}
        order = written(recipes, members, **inputs)
        home = apart(tmp_path / str(activations is stream), corpus_artifact, activations_artifact)
        own = sae_stage.train_all(root, members, activations=activations)
        assert same(order.make(home), own)


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cpu"},
        {"device": "cuda:1"},
        {"engine": Spread(kind="dask", workers=2)},
        {"engine": Spread(workers=4)},
        {"engine": Spread(kind="ray", address="ray://there:1")},
        {"dictionary": object()},
    ],
    ids=["cpu", "cuda:1", "dask", "threads", "ray", "dictionary"],
)
def test_what_somebody_has_chosen_a_place_for_is_made_there(
    changed: dict[str, Any], activations_artifact: Artifact
) -> None:
    recipes = [sae_stage.recipe(SAE, activations=activations_artifact)]
    inputs = {"activations": Ref.of(activations_artifact), "device": "auto"}
    assert Order.of(recipes, SAE, inputs) is not None
    assert Order.of(recipes, SAE, inputs | changed) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 1}, r"makes stage 'sae' in version \d+, and asked is 1, as it is where the"),
        ({"keys": ("0" * 32,)}, "and asked is 000000000000, as it is where the run is; let both"),
        ({"settings": ({"new": 1},)}, "does not know these settings of stage 'sae'"),
        ({"stage": "dreams"}, "makes no stage 'dreams'"),
    ],
    ids=["version", "key", "settings", "stage"],
)
def test_another_release_says_so_before_any_work(
    changed: dict[str, Any], said: str, activations_artifact: Artifact, tmp_path: Path
) -> None:
    recipes = [sae_stage.recipe(SAE, activations=activations_artifact)]
    order = written(recipes, SAE, activations=activations_artifact)
    home = apart(tmp_path, activations_artifact)
    with pytest.raises(ConfigError, match=said):
        order.model_copy(update=changed).make(home)
    assert not (tmp_path / "sae").exists()


def test_a_model_or_texts_that_are_not_there_are_told_from_what_is_not_shared(
    root: DataRoot,
    corpus_artifact: Artifact,
    activations_artifact: Artifact,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    model = resolve(root, ModelConfig(name=str(folder), dtype="float32"))
    recipes = activations_stage.recipes(CONFIG, model=model, corpus=corpus_artifact)
    order = written(recipes, CONFIG, model=model, corpus=corpus_artifact)
    with pytest.raises(StorageError, match="is missing"):
        order.make(DataRoot(tmp_path / "empty"))
    home = apart(tmp_path / "home", corpus_artifact, activations_artifact)
    settings = folder / "config.json"
    settings.write_text(settings.read_text() + "\n")
    with pytest.raises(NotThere, match="is another there than where the run is"):
        order.make(home)
    shutil.rmtree(folder)
    with pytest.raises(NotThere, match="there is no such folder"):
        order.make(home)
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\nsome words,a\n")
    other = (sources.resolve(CorpusConfig(source=str(texts))),)
    named = Order.of(recipes, CONFIG, {"other": other})
    texts.unlink()
    assert named is not None
    with pytest.raises(NotThere, match=r"there is no '.*texts.csv'"):
        named.make(home)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("embedded:gemma-3-270m", {"name": "embedded:gemma-3-270m"}),
        ("someone/tiny", {"name": "someone/tiny", "revision": "c0ffee"}),
        ("random:3:someone/tiny", {"name": "random:3:someone/tiny", "revision": "c0ffee"}),
        ("./here", {"name": "/models/here"}),
        ("random:3:./here", {"name": "random:3:/models/here"}),
    ],
)
def test_a_model_is_found_again_by_its_path_or_commit(name: str, wanted: dict[str, str]) -> None:
    config = ModelConfig(name=name)
    digest = "c0ffee" if config.redrawn is None else f"random:{config.redrawn}:c0ffee"
    own = "here" in name
    folder = Path("/models/here")
    found = ResolvedModel(name, folder, digest, "", "float32", own, config.redrawn)
    assert found.wanted == ModelConfig.model_validate({**wanted, "dtype": "float32"})
