"""Warm starts: the same function at step 0, its own key, the same bytes after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.planted_dictionary import D_IN, OTHERS, Planted, settings

from deconstruct.activations.reader import BatchSource
from deconstruct.activations.shards import Moments
from deconstruct.activations.stage import extract
from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError
from deconstruct.config import ActivationsConfig, SaeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae import stage
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.files import load
from deconstruct.sae.folding import Scaling
from deconstruct.sae.training import checkpoint
from deconstruct.sae.training.loop import Output, train
from deconstruct.sae.training.trainer import Trainer
from deconstruct.sae.training.warm import Start, warmed

TRAINED = SaeConfig(d_sae=64, k=4, tokens=8192, batch_size=256, warm_tokens=2560)


class Moved:
    """Planted data with other moments: a tenth larger, and a little elsewhere."""

    def __init__(self, batch: int) -> None:
        self.planted = Planted(batch)

    def at(self, step: int) -> torch.Tensor:
        moved = 1.1 * self.planted.at(step) - 0.1 * self.planted.centre
        return moved + torch.linspace(-0.1, 0.1, D_IN)

    @property
    def moments(self) -> Moments:
        rows = torch.cat([self.at(-step) for step in range(1, 5)]).double().numpy()
        return Moments(len(rows), rows.mean(0), rows.var(0))


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("kind", ["topk", *OTHERS, "topk transcoder", "gated skip"])
def test_step_0_computes_what_the_standing_sae_computes(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    """Before any step by the weights, and in the first one's own loss, under other moments."""
    architecture, _, form = kind.partition(" ")
    data, new = Planted(512), Moved(512)
    more = {"output_site": "2.mlp_out", "skip_connection": form == "skip"} if form else {}
    config = settings(architecture=architecture, tokens=512 * 40, **more)
    output = Output(Moved(512), new.moments) if form else None
    sae, _ = train(data, data.moments, config, _folder(tmp_path / "cold"), output=output)
    inputs = Scaling.of(new.moments)
    onto = Scaling.of(data.moments) if form else None
    member = Trainer(
        warmed(config), inputs, onto, _folder(tmp_path / "warm"), dtype=dtype, start=Start(sae)
    )
    x, y = new.at(77), data.at(77) if form else new.at(77)
    wanted, found = sae(x), member.result()(x)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4
    assert torch.equal(member.result().encode(x) > 0, sae.encode(x) > 0)

    member.train(inputs.apply(x), onto.apply(y) if onto else None)
    if (
        ARCHITECTURES[architecture].selection is Selection.PER_BATCH
    ):  # in training, the batch decides in the threshold's place
        weights = sae.weights()
        pre = (x @ weights["W_enc"] + weights["b_enc"]).relu().flatten()
        kept = pre.topk(3 * len(x))
        wanted = sae.decode(torch.zeros_like(pre).scatter(0, *kept[::-1]).view(len(x), -1))
    error = float((wanted - y).double().square().sum(1).mean()) / (onto or inputs).scale ** 2
    close = 0.05 if dtype == "auto" or kind == "topk" else 0.01  # bfloat16 where it is fast
    assert float(member.engine.losses[0]) == pytest.approx(error, rel=close)


def test_the_same_tokens_go_further_from_the_standing_sae(tmp_path: Path) -> None:
    """On data that moved a little; a cold run of as many tokens starts from nothing."""
    data, new = Planted(512), Moved(512)
    sae, _ = train(data, data.moments, settings(tokens=512 * 160), _folder(tmp_path / "cold"))
    few = settings(tokens=512 * 40, learning_rate=1e-3)
    x = new.at(10_000)
    fvus = {}
    for name, start in (("cold", None), ("warm", Start(sae))):
        own, _ = train(new, new.moments, few, _folder(tmp_path / f"few-{name}"), start=start)
        fvus[name] = float((own(x) - x).square().sum() / (x - x.mean(0)).square().sum())
    assert fvus["warm"] < 0.5 * fvus["cold"]


@pytest.fixture(scope="module")
def standing(root: DataRoot, activations_artifact: Artifact) -> Artifact:
    return stage.train(root, TRAINED, activations=activations_artifact, device="cpu")


@pytest.fixture(scope="module")
def later(root: DataRoot, corpus_artifact: Artifact, model: ResolvedModel) -> dict[str, Artifact]:
    """Other activations of the same site, and of another one."""
    config = ActivationsConfig(sites=("1.resid_post", "2.resid_post"), shard_tokens=512, seed=3)
    made = extract(root, config, model=model, corpus=corpus_artifact, device="cpu")
    return {str(site): artifact for site, artifact in made.items()}


def test_the_key_names_the_sae_that_it_started_from(
    root: DataRoot, standing: Artifact, later: dict[str, Artifact]
) -> None:
    new = later["1.resid_post"]
    cold = stage.recipe(TRAINED, activations=new)
    warm = stage.recipe(TRAINED, activations=new, output=None, start=standing)
    assert warm.inputs == {"activations": new.key, "start": standing.key}
    assert warm.config["tokens"] == 2560
    assert "warm_tokens" not in {**cold.config, **warm.config}
    longer = TRAINED.model_copy(update={"warm_tokens": 5120})
    assert stage.recipe(longer, activations=new) == cold  # says nothing of a cold run
    assert stage.recipe(longer, activations=new, output=None, start=standing).key != warm.key
    default = TRAINED.model_copy(update={"warm_tokens": None})
    assert (
        stage.recipe(default, activations=new, output=None, start=standing).config["tokens"] == 2048
    )
    made = stage.train(root, TRAINED, activations=new, output=None, start=standing, device="cpu")
    assert made.key == warm.key
    assert made.facts["tokens"] == 2560
    assert not torch.equal(load(made.path).W_dec, load(standing.path).W_dec)


@pytest.mark.parametrize(
    "changes",
    [{}, {"architecture": "batchtopk"}, {"architecture": "jumprelu", "target_l0": 6.0}],
    ids=["topk", "batchtopk", "jumprelu"],
)
def test_killed_it_goes_on_to_the_same_bytes(
    changes: dict[str, object],
    root: DataRoot,
    activations_artifact: Artifact,
    later: dict[str, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TRAINED.model_copy(update=changes)
    start = stage.train(root, config, activations=activations_artifact, device="cpu")
    new = later["1.resid_post"]
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)

    def go_on(home: Path) -> Artifact:
        return stage.train(
            DataRoot(home), config, activations=new, output=None, start=start, device="cpu"
        )

    at = BatchSource.at

    def killing(self: BatchSource, step: int) -> torch.Tensor:
        if step == 4:
            raise KeyboardInterrupt
        return at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchSource, "at", killing)
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / "killed")
    assert go_on(tmp_path / "killed").digest() == go_on(tmp_path / "straight").digest()


def test_the_penalty_goes_on_from_where_the_target_had_brought_it(
    root: DataRoot, activations_artifact: Artifact, later: dict[str, Artifact]
) -> None:
    config = TRAINED.model_copy(update={"architecture": "gated", "target_l0": 6.0})
    first = stage.train(root, config, activations=activations_artifact, device="cpu")
    factor = first.facts["penalty_factor"]
    assert factor != 1.0
    recipe = stage.recipe(config, activations=later["1.resid_post"], output=None, start=first)
    assert recipe.config["penalty_factor"] == factor
    assert Start.of(first).penalty_factor == factor
    member = Trainer(
        warmed(config), *_scalings(later["1.resid_post"]), Path("unused"), start=Start.of(first)
    )
    assert member.penalty_factor == factor
    assert float(member.engine.state_dict()["control.factor"]) == factor


@pytest.mark.parametrize(
    ("site", "changes", "sentence"),
    [
        ("1.resid_post", {"d_sae": 32}, "d_sae 64, not 32"),
        ("1.resid_post", {"architecture": "relu"}, "architecture topk, not relu"),
        ("2.resid_post", {"d_sae": 32}, "site 1.resid_post, not 2.resid_post; d_sae 64, not 32"),
    ],
)
def test_what_can_not_start_is_said(
    site: str,
    changes: dict[str, object],
    sentence: str,
    root: DataRoot,
    standing: Artifact,
    later: dict[str, Artifact],
) -> None:
    config = TRAINED.model_copy(update=changes)
    said = f"can't start from SAE {standing.key[:12]}: it has {sentence}. Start from the seed"
    with pytest.raises(ConfigError) as caught:
        stage.train(
            root, config, activations=later[site], output=None, start=standing, device="cpu"
        )
    assert said in str(caught.value)


def test_weights_of_another_width_can_not_start(tmp_path: Path) -> None:
    data = Planted(512)
    sae, _ = train(data, data.moments, settings(tokens=512), _folder(tmp_path / "a"))
    wide = settings(tokens=512, d_sae=256)
    with pytest.raises(ConfigError, match=r"a topk SAE with weights .*256.* can't start from a"):
        train(data, data.moments, wide, _folder(tmp_path / "b"), start=Start(sae))


def _scalings(activations: Artifact) -> tuple[Scaling, None]:
    from deconstruct.activations.reader import ActivationReader

    return Scaling.of(ActivationReader(activations).moments), None


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
