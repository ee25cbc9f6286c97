"""Hook sites over the families, against what `transformers` itself returns."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.tiny_models import FAMILIES, LAYERS, WIDTH, save_tiny
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from deconstruct.common.errors import ConfigError
from deconstruct.common.site import HOOKS, Site
from deconstruct.model import hooks
from deconstruct.model.hooks import (
    ADDED,
    Replace,
    blocks,
    capture,
    check_parts,
    reading,
    repeating,
    replacing,
)
from deconstruct.model.loading import load
from deconstruct.model.resolve import ResolvedModel

IDS = torch.randint(5, 250, (3, 17), generator=torch.Generator().manual_seed(1))


SEQUENTIAL = {"use_parallel_residual": False}
VARIANTS = {family: (family, {}) for family in FAMILIES} | {"gpt_neox_2": ("gpt_neox", SEQUENTIAL)}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    family, changes = VARIANTS[request.param]
    folder = save_tiny(family, tmp_path_factory.mktemp(request.param), changes=changes)
    return load(ResolvedModel(request.param, folder, "", "", "float32"), "cpu")


def load_tiny(family: str, folder: Path, changes: dict[str, object]) -> nn.Module:
    save_tiny(family, folder, changes=changes)
    return load(ResolvedModel(family, folder, "", "", "float32"), "cpu")


def test_residual_streams_are_the_hidden_states(model: nn.Module) -> None:
    states = model(IDS, output_hidden_states=True).hidden_states
    sites = [Site(layer, hook) for layer in range(LAYERS) for hook in ("resid_pre", "resid_post")]
    found = capture(model, IDS, sites)  # type: ignore[arg-type]
    assert list(found) == sites
    for layer in range(LAYERS):
        torch.testing.assert_close(found[Site(layer, "resid_pre")], states[layer])
        if layer + 1 < LAYERS:  # the last of hidden_states has the final norm on it
            torch.testing.assert_close(found[Site(layer, "resid_post")], states[layer + 1])


def test_what_is_read_is_what_is_added_to_the_stream(model: nn.Module) -> None:
    for layer in range(LAYERS):
        found = capture(model, IDS, [Site(layer, hook) for hook in ADDED])  # type: ignore[arg-type]
        pre, post, mlp, attn = (found[Site(layer, hook)] for hook in ADDED)  # type: ignore[arg-type]
        assert attn.shape == mlp.shape == (3, 17, WIDTH)
        assert attn.std() > 1e-3
        assert mlp.std() > 1e-3
        torch.testing.assert_close(pre + attn + mlp, post, rtol=1e-4, atol=1e-5)


def test_nothing_after_the_last_site_is_computed(model: nn.Module) -> None:
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(blocks(model))
    ]
    head = model.get_output_embeddings().register_forward_pre_hook(lambda *_: ran.append("head"))
    capture(model, IDS, [Site(0, "mlp_out"), Site(2, "resid_pre"), Site(1, "resid_post")])
    assert ran == [0, 1, 2]
    ran.clear()
    capture(model, IDS, [Site(1, "resid_post")])
    assert ran == [0, 1]
    for handle in [*handles, head]:
        handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_several_threads_read_at_once(tmp_path: Path, family: str) -> None:
    model = load_tiny(family, tmp_path, {})
    sites = [Site(1, "resid_pre"), Site(1, "mlp_out")]  # OPT's MLP works on the batch's shape
    texts = [IDS[:1, : 3 + n] if n % 2 else IDS[:, : 3 + n] for n in range(14)]
    alone = [capture(model, ids, sites) for ids in texts]
    with reading(model, sites) as read, ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone * 5, pool.map(read, texts * 5), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("hook", HOOKS)
def test_replacing(model: nn.Module, hook: str) -> None:
    site = Site(1, hook)  # type: ignore[arg-type]
    clean = model(IDS).logits
    seen = []

    def same(activation: torch.Tensor) -> torch.Tensor:
        seen.append(activation.shape)
        return activation.clone()

    with replacing(model, site, same):
        torch.testing.assert_close(model(IDS).logits, clean)
    assert seen == [(3, 17, WIDTH)]
    with replacing(model, site, torch.zeros_like):
        assert not torch.allclose(model(IDS).logits, clean, atol=1e-3)
        after = capture(model, IDS, [site])[site]
    assert after.count_nonzero() in (0, after.numel())
    torch.testing.assert_close(model(IDS).logits, clean)  # the hook is gone


def test_mlp_in_is_what_the_mlp_reads(model: nn.Module) -> None:
    """After the norm with its weight: put through the MLP, it gives what the block adds."""
    sites = [Site(layer, hook) for layer in range(LAYERS) for hook in ("mlp_in", "mlp_out")]  # type: ignore[arg-type]
    check_parts(model, sites)
    found = capture(model, IDS, sites)
    for layer, block in enumerate(blocks(model)):
        read = found[Site(layer, "mlp_in")]
        assert read.shape == (3, 17, WIDTH)
        if hasattr(block, "mlp"):
            gives = block.mlp(read)
        else:  # OPT
            gives = block.fc2(block.activation_fn(block.fc1(read)))
        for post in ("post_feedforward_layernorm", "post_mlp_layernorm"):
            gives = getattr(block, post, nn.Identity())(gives)
        torch.testing.assert_close(gives, found[Site(layer, "mlp_out")], rtol=1e-4, atol=1e-5)


def test_a_block_whose_mlp_reads_something_else_is_refused() -> None:
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.h = nn.ModuleList([nn.Linear(2, 2)])
    with (
        pytest.raises(ConfigError, match=r"'0\.mlp_in' can't be hooked in a Linear"),
        replacing(model, Site(0, "mlp_in"), torch.zeros_like),
    ):
        pass


PARTS = [Site(layer, hook) for layer in range(LAYERS) for hook in ("attn_out", "mlp_out")]  # type: ignore[arg-type]


def test_what_blocks_add_is_checked_in_either_precision(model: nn.Module) -> None:
    check_parts(model, PARTS)
    try:
        check_parts(model.bfloat16(), PARTS)
    finally:
        model.float()


def test_a_block_that_adds_something_else_is_refused(tmp_path: Path) -> None:
    granite = load_tiny("granite", tmp_path, {"residual_multiplier": 0.9})
    for site in PARTS:
        with pytest.raises(ConfigError, match=f"'{site}' can't be read in a GraniteDecoderLayer"):
            check_parts(granite, [site])
    check_parts(granite, [Site(1, "resid_post")])
    states = granite(IDS, output_hidden_states=True).hidden_states
    found = capture(granite, IDS, [Site(1, "resid_post")])
    torch.testing.assert_close(found[Site(1, "resid_post")], states[2])


def test_opt_350m_which_projects_its_embedding_and_normalises_the_sum(tmp_path: Path) -> None:
    changes = {"do_layer_norm_before": False, "word_embed_proj_dim": WIDTH // 2}
    model = load_tiny("opt", tmp_path, changes)
    states = model(IDS, output_hidden_states=True).hidden_states
    check_parts(model, PARTS)
    for layer in range(LAYERS):
        found = capture(model, IDS, [Site(layer, hook) for hook in ADDED])  # type: ignore[arg-type]
        pre, post, mlp, attn = (found[Site(layer, hook)] for hook in ADDED)  # type: ignore[arg-type]
        torch.testing.assert_close(pre, states[layer])
        if layer + 1 < LAYERS:  # hidden_states end with what project_out makes of the last
            torch.testing.assert_close(post, states[layer + 1])
        block = blocks(model)[layer]
        middle = block.self_attn_layer_norm(pre + attn)
        torch.testing.assert_close(block.final_layer_norm(middle + mlp), post)


def test_a_model_that_sees_pictures_too(tmp_path: Path) -> None:
    """Gemma 3 of 4 billion parameters and more: the text model is one part of it."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 300,
        "num_hidden_layers": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    resolved = ResolvedModel("gemma-3-4b", tmp_path, "", "", "float32")
    assert (resolved.layers, resolved.d_model) == (2, WIDTH)
    model = load(resolved, "cpu")
    states = model(IDS, output_hidden_states=True).hidden_states
    check_parts(model, [Site(1, "mlp_out")])
    found = capture(model, IDS, [Site(0, "resid_post")])
    torch.testing.assert_close(found[Site(0, "resid_post")], states[1])


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="no blocks found in a Linear"):
        capture(nn.Linear(2, 2), IDS, [Site(0, "resid_post")])


def test_a_block_without_the_part_is_refused() -> None:
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.h = nn.ModuleList([nn.Linear(2, 2)])
    with (
        pytest.raises(ConfigError, match=r"'0\.mlp_out' can't be hooked in a Linear"),
        replacing(model, Site(0, "mlp_out"), torch.zeros_like),
    ):
        pass
    assert hooks.blocks(model) is model.transformer.h


@pytest.mark.parametrize(
    "sizes", [{"n_positions": 6}, {"vocab_size": 9}, {"n_positions": 1, "vocab_size": 4}]
)
def test_parts_are_checked_in_models_of_few_tokens_and_positions(
    tmp_path: Path, sizes: dict[str, object]
) -> None:
    check_parts(load_tiny("gpt2", tmp_path, sizes | {"bos_token_id": 1, "eos_token_id": 2}), PARTS)


def test_blocks_that_give_lists(tmp_path: Path) -> None:
    """GPT-1's, which normalises after adding; what is put in place of its stream arrives."""
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": 4, "vocab_size": 300}
    torch.manual_seed(0)
    config = AutoConfig.for_model("openai-gpt", **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    states = model(IDS, output_hidden_states=True).hidden_states
    found = capture(model, IDS, [Site(0, "resid_pre"), Site(1, "resid_post")])
    torch.testing.assert_close(found[Site(0, "resid_pre")], states[0])
    torch.testing.assert_close(found[Site(1, "resid_post")], states[2])
    with replacing(model, Site(1, "resid_post"), torch.zeros_like):
        assert not torch.allclose(model(IDS).logits, model.lm_head(states[-1]), atol=1e-3)
    with pytest.raises(ConfigError, match=r"'1\.mlp_out' can't be read in a Block"):
        check_parts(model, [Site(1, "mlp_out")])


def test_a_block_that_is_given_several_streams_is_refused() -> None:
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.h = nn.ModuleList([nn.Linear(2, 2)])
    with (
        replacing(model, Site(0, "resid_post"), torch.zeros_like),
        pytest.raises(ConfigError, match=r"Linear can't be hooked: it passes on \[1, 4, 3, 2\]"),
    ):
        model.transformer.h[0](torch.zeros(1, 4, 3, 2))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_pass_that_begins_at_the_site_is_the_whole_one(model: nn.Module, hook: str) -> None:
    """Whatever is put there, to the byte; and without computing what comes before it."""
    site, ran = Site(1, hook), []  # type: ignore[arg-type]
    part = next(iter(blocks(model)[0].children()))
    part.register_forward_pre_hook(lambda *_: ran.append(1))

    def logits(replace: Replace | None = None) -> torch.Tensor:
        with replacing(model, site, replace or torch.clone), torch.inference_mode():
            found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
            return found

    clean, halved = logits(), logits(lambda x: x / 2)
    with repeating(model, site) as prefix:
        ran.clear()
        assert torch.equal(logits(), clean)
        assert len(ran) == 1
        prefix.again = True
        assert torch.equal(logits(lambda x: x / 2), halved)
        assert torch.equal(logits(), clean)
        assert len(ran) == 1
    assert torch.equal(logits(), clean)
    assert len(ran) == 2


def test_blocks_that_share_more_than_the_stream_run_in_every_pass(model: nn.Module) -> None:
    """A block that changes what it was given in place would spoil the next pass."""
    second = blocks(model)[1]
    before = second.forward

    def in_place(stream: torch.Tensor, *args: object, **kwargs: object) -> object:
        stream += 1
        return before(stream, *args, **kwargs)

    second.forward = in_place
    try:
        with torch.inference_mode(), repeating(model, Site(0, "resid_post")) as prefix:
            clean = model(input_ids=IDS, use_cache=False).logits
            prefix.again = True
            for _ in range(3):
                assert torch.equal(model(input_ids=IDS, use_cache=False).logits, clean)
    finally:
        del second.forward
