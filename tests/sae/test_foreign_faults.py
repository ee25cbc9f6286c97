"""What is wrong with a dictionary of somebody else is one sentence, before the model runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.paths import ROOT
from support.tiny_models import WIDTH, save_tiny

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig
from deconstruct.config.sweep import load_sweep
from deconstruct.model.resolve import ResolvedModel, glimpse
from deconstruct.sae import pretrained
from deconstruct.sae.formats.base import Source
from deconstruct.sae.formats.gemma_scope import _of_config
from deconstruct.sae.formats.hub import parse

FIXTURES = ROOT / "tests" / "fixtures" / "dictionaries"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    folder = save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")
    return ResolvedModel(str(folder), folder, "m", "t", "float32", own=True)


def dictionary(folder: Path, **more: object) -> Path:
    """One of dictionary_learning, of the tiny model's width."""
    folder.mkdir()
    w = {
        "bias": torch.zeros(WIDTH), "encoder.bias": torch.zeros(48),
        "encoder.weight": torch.randn(48, WIDTH), "decoder.weight": torch.randn(WIDTH, 48),
    }  # fmt: skip
    torch.save(w, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "layer": 1, "submodule_name": "resid_post_layer_1"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer | more}))
    return folder


def find(
    model: ResolvedModel,
    place: Path | str,
    sites: tuple[str, ...] = ("1.resid_post",),
    **sae: object,
) -> pretrained.Pretrained:
    values = {
        "model": {"name": model.name},
        "activations": {"sites": sites},
        "sae": {"pretrained": str(place), **sae},
    }
    found = pretrained.find(RunConfig.model_validate(values), model)
    assert found is not None
    return found


def test_what_fits_is_found(tmp_path: Path, model: ResolvedModel) -> None:
    found = find(model, dictionary(tmp_path / "own", lm_name="tiny-llama"))
    assert (found.format, found.architecture, found.d_sae) == ("dictionary-learning", "relu", 48)
    again = find(model, dictionary(tmp_path / "other", lm_name="tiny-llama"))
    assert found.digest != again.digest  # other weights
    named = find(model, tmp_path / "own" / "ae.pt", pretrained_format="dictionary-learning")
    assert named.digest == found.digest


def _nan(folder: Path) -> None:
    w = torch.load(folder / "ae.pt", weights_only=True)
    w["encoder.weight"][3, 4] = torch.nan
    torch.save(w, folder / "ae.pt")


def _without(folder: Path) -> None:
    w = torch.load(folder / "ae.pt", weights_only=True)
    del w["decoder.weight"]
    torch.save(w, folder / "ae.pt")


def _turned(folder: Path) -> None:
    w = torch.load(folder / "ae.pt", weights_only=True)
    w["decoder.weight"] = w["decoder.weight"].T.contiguous()
    torch.save(w, folder / "ae.pt")


def _object(folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), folder / "ae.pt")


def _cut(folder: Path) -> None:
    whole = (folder / "ae.pt").read_bytes()
    (folder / "ae.pt").write_bytes(whole[: len(whole) // 2])


def _list(folder: Path) -> None:
    torch.save([torch.zeros(2)], folder / "ae.pt")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (_nan, r"its W_enc has values that are no finite numbers"),
    "missing tensor": (_without, r"ae\.pt has no tensor 'decoder\.weight'; it has bias, encoder"),
    "transposed": (_turned, r"W_dec is \[32, 48\], .* as if it were transposed"),
    "object": (_object, r"ae\.pt is damaged, or a pickle of more than plain tensors"),
    "cut off": (_cut, r"ae\.pt is damaged, or a pickle"),
    "list": (_list, r"ae\.pt holds a list, not tensors by name"),
    "config": (lambda f: (f / "config.json").write_text("[1]"), "config.json holds no JSON object"),
    "class": (
        lambda f: (f / "config.json").write_text('{"trainer": {"dict_class": "CrossCoder"}}'),
        r"its class 'CrossCoder' is not supported",
    ),
    "no weights": (lambda f: (f / "ae.pt").unlink(), r"\(config\.json\) are in no format"),
    "nothing": (lambda f: [p.unlink() for p in f.iterdir()], r"its files \(nothing\) are in no f"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_ones(tmp_path: Path, model: ResolvedModel, name: str) -> None:
    damage, message = DAMAGES[name]
    folder = dictionary(tmp_path / "own")
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        find(model, folder)
    assert str(caught.value).startswith("sae.pretrained = ")
    assert "\n" not in str(caught.value)


def test_one_that_does_not_fit(tmp_path: Path, model: ResolvedModel) -> None:
    own = dictionary(tmp_path / "own")
    gpt = dictionary(tmp_path / "gpt", lm_name="openai-community/gpt2")
    for place, sites, more, message in (
        (own, ("2.resid_post",), {}, r"'1\.resid_post', and activations\.sites names '2\.resid_po"),
        (own, ("1.mlp_out",), {}, r"made for 'blocks\.1\.hook_resid_post'"),
        (gpt, ("1.resid_post",), {}, r"made for 'openai-community/gpt2', and model\.name"),
        (own, ("1.resid_post",), {"d_sae": 64}, r"has d_sae = 48, and sae\.d_sae = 64 is set"),
        (own, ("1.resid_post",), {"architecture": "gated"}, r"has architecture = relu, and"),
        (own, ("1.resid_post", "1.mlp_out"), {"output_site": "1.mlp_out"}, "an autoencoder, and"),
        (tmp_path / "none", ("1.resid_post",), {}, "there is no such folder or file"),
        (own, ("1.resid_post",), {"pretrained_format": "sparsify"}, r"in no format .*sparsify: c"),
        (FIXTURES / "saelens-jumprelu", ("1.resid_post",), {}, "width 8, and tiny-llama has width"),
        (FIXTURES / "circuit-tracer-jumprelu", ("1.mlp_in",), {}, r"output_site = '1\.mlp_out'"),
        (FIXTURES / "circuit-tracer-jumprelu", ("3.mlp_in",), {}, r"layer_3\.safetensors is miss"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            find(model, place, sites, **more)


def saelens(folder: Path, **config: object) -> Path:
    shutil.copytree(FIXTURES / "saelens-topk-rescaled", folder)
    there = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(there | config))
    return folder


def test_what_cannot_be_folded_is_said_with_its_reason(
    tmp_path: Path, model: ResolvedModel
) -> None:
    cases: Iterator[tuple[dict[str, object], str]] = iter(
        [
            ({"normalize_activations": "layer_norm"}, "norm of their own .*can't be folded"),
            ({"normalize_activations": "constant_norm_rescale"}, "can't be folded"),
            ({"normalize_activations": "expected_average_only_in"}, "activation_scaler.json tells"),
            ({"normalize_activations": "covariance_whitening"}, "activation_whitening.safetensors"),
            ({"architecture": "matching_pursuit"}, "architecture 'matching_pursuit' is unknown"),
            ({"reshape_activations": "hook_z"}, "which is no site of ours"),
            ({"metadata": {"hook_name": "blocks.1.attn.hook_z"}}, "none of our sites"),
            ({"metadata": {"hook_name": "blocks.1.hook_resid_mid"}}, "none of our sites"),
        ]
    )
    for number, (config, message) in enumerate(cases):
        with pytest.raises(ConfigError, match=message):
            find(model, saelens(tmp_path / str(number), **config))


def test_sparsify_with_another_activation_function(tmp_path: Path, model: ResolvedModel) -> None:
    shutil.copytree(FIXTURES / "sparsify-autoencoder" / "layers.1", tmp_path / "layers.1")
    path = tmp_path / "layers.1" / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"activation": "groupmax"}))
    with pytest.raises(ConfigError, match="activation function is groupmax"):
        find(model, tmp_path)


def test_a_set_names_files_of_its_folder_alone(tmp_path: Path, model: ResolvedModel) -> None:
    folder = tmp_path / "set"
    shutil.copytree(FIXTURES / "circuit-tracer-jumprelu", folder)
    text = (folder / "config.yaml").read_text()
    for name in ("../layer_1.safetensors", "/etc/passwd"):
        (folder / "config.yaml").write_text(f"{text}\ntranscoders: ['layer_0.safetensors', {name}]")
        with pytest.raises(ConfigError, match="leads out of its folder"):
            find(model, folder, ("1.mlp_in", "1.mlp_out"), output_site="1.mlp_out")
    (folder / "config.yaml").write_text(text.replace("transcoder_set", "cross_layer_transcoder"))
    with pytest.raises(ConfigError, match="model_kind is 'cross_layer_transcoder'"):
        find(model, folder, ("1.mlp_in", "1.mlp_out"), output_site="1.mlp_out")


@pytest.mark.parametrize(
    ("told", "named", "fits"),
    [
        ("gemma-v3-270m-pt", "embedded:gemma-3-270m", True),
        ("google/gemma-3-270m", "embedded:gemma-3-270m", True),
        ("gpt2-small", "openai-community/gpt2", True),
        ("EleutherAI/pythia-70m-deduped", "EleutherAI/pythia-70m", False),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", True),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", False),
        ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B", False),
    ],
)
def test_names_of_models(told: str, named: str, fits: bool) -> None:
    source = Source("x", Path(), frozenset())
    model = ResolvedModel(named, Path(), "", "")
    if told.startswith("gemma-v3"):  # as Gemma Scope 2 tells it
        told = str(_of_config({"model_name": told}, "").model)
    if fits:
        pretrained._check_model(source, told, model)
    else:
        with pytest.raises(ConfigError, match="is another model"):
            pretrained._check_model(source, told, model)


def test_gemma_scope_2_fits_the_embedded_model_before_that_is_unpacked(tmp_path: Path) -> None:
    """At the default site; what its folder's name would tell is told by its configuration."""
    w = {
        "w_enc": torch.randn(640, 32), "w_dec": torch.randn(32, 640), "b_enc": torch.zeros(32),
        "b_dec": torch.zeros(640), "threshold": torch.ones(32),
    }  # fmt: skip
    save_file(w, tmp_path / "params.safetensors")
    about = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt"}
    about["hf_hook_point_in"] = "model.layers.9.output"
    (tmp_path / "config.json").write_text(json.dumps(about))
    config = RunConfig.model_validate({"sae": {"pretrained": str(tmp_path)}})
    found = pretrained.find(config, glimpse(None, config.model))
    assert found is not None
    assert (found.format, found.architecture, found.d_in) == ("gemma-scope-2", "jumprelu", 640)
    about["hf_hook_point_in"] = "model.layers.5.output"
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"'5\.resid_post', and activations\.sites names '9\.r"):
        pretrained.find(config, glimpse(None, config.model))


@pytest.mark.parametrize(
    "said",
    [
        "hub:owner", "hub:owner/", "hub:/name", "hub:owner/name/../other", "hub:owner/name//x",
        "hub:owner/name/./x", "hub:../name/x", "hub:owner/name/x@", "hub:owner/name/a\\..\\b",
    ],
)  # fmt: skip
def test_a_place_on_the_hub_that_leads_elsewhere(said: str) -> None:
    with pytest.raises(ConfigError, match=r"sae\.pretrained = .*(no place on the hub|leads out)"):
        parse(said)


def test_settings_that_contradict(tmp_path: Path) -> None:
    for values, message in (
        ({"sae": {"pretrained_format": "sparsify"}}, "set pretrained too"),
        (
            {"sae": {"pretrained": "x"}, "activations": {"sites": ["1.resid_post", "2.mlp_out"]}},
            "is of one site",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            RunConfig.model_validate(values)
    config = tmp_path / "sweep.toml"
    config.write_text('[sae]\npretrained = "x"\n[sweep]\nk = [1, 2]\n')
    with pytest.raises(ConfigError, match="is not trained, and a sweep varies"):
        load_sweep(config)


def test_settings_of_a_training_are_no_part_of_the_key() -> None:
    one = RunConfig.model_validate({"sae": {"pretrained": "x"}}).sae
    other = RunConfig.model_validate({"sae": {"pretrained": "x", "tokens": 5, "seed": 9}}).sae
    assert one.key_fields() == other.key_fields()
    assert "pretrained" not in RunConfig().sae.key_fields()


def test_weights_in_half_precision_are_read(tmp_path: Path, model: ResolvedModel) -> None:
    folder = tmp_path / "half"
    shutil.copytree(FIXTURES / "gemma-scope-2", folder)
    w = load_file(folder / "params.safetensors")
    save_file({name: t.bfloat16() for name, t in w.items()}, folder / "params.safetensors")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="reads activations of width 8"):
        find(model, folder, ("1.mlp_in", "1.mlp_out"), output_site="1.mlp_out")
