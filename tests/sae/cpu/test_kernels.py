"""The CPU kernels against plain dense references in float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sae_reference import unpacked

from deconstruct.sae.engines.cpu.kernels import packed as sparse
from deconstruct.sae.engines.cpu.kernels.vectors import HALF, WIDTH
from deconstruct.sae.engines.cpu.pairs import CHUNK_TOKENS, ActivePairs, Gradients, fill_choices

SIZES = {"n": st.integers(1, 20), "d_in": st.integers(1, 40), "d_sae": st.integers(1, 700)}


def bf16_matrix(n: int, d_sae: int, seed: int, coarse: bool) -> torch.Tensor:
    """Random bfloat16s; ``coarse`` makes many ties, and rows without a positive entry."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n, d_sae, generator=generator)
    if coarse:
        pre = (pre * 2).round() / 2
        pre[::3] = -pre[::3].abs()
    return pre.bfloat16()


def choice(allowed: np.ndarray, n: int, k: int) -> ActivePairs:
    pairs = ActivePairs(n, len(allowed), k)
    pairs.allowed[:] = np.where(allowed, -1, 0)
    pairs.latents[:], pairs.values[:] = 99, 99
    return pairs


@settings(deadline=None, max_examples=60)
@given(
    n=SIZES["n"],
    d_sae=SIZES["d_sae"],
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    coarse=st.booleans(),
)
def test_selected_are_the_k_largest_positive(
    n: int, d_sae: int, share: float, seed: int, coarse: bool
) -> None:
    k = max(1, round(share * d_sae))  # from 1 to d_sae
    pre = bf16_matrix(n, d_sae, seed, coarse)
    some = np.random.default_rng(seed).random(d_sae) < 0.5
    chosen = [choice(np.ones(d_sae, np.bool_), n, k), choice(some, n, min(d_sae, 3))]
    fill_choices(pre, 0, chosen)
    for pairs in chosen:
        allowed = torch.from_numpy(pairs.allowed != 0)
        values = torch.from_numpy(pairs.values)
        expected = pre.float().relu().masked_fill(~allowed, 0).topk(values.shape[1], dim=1).values
        assert torch.equal(values.sort(dim=1, descending=True).values, expected)
        for row in range(n):
            fires = values[row] > 0
            latents = torch.from_numpy(pairs.latents[row]).long()[fires]
            assert (latents.diff() > 0).all()
            assert allowed[latents].all()
            assert torch.equal(pre[row].float()[latents], values[row][fires])


def packed(matrix: np.ndarray) -> np.ndarray:
    """[R, d] -> [S, R, HALF], its columns padded with zeros to whole slices."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % WIDTH))).astype(np.float32)
    out = np.zeros((padded.shape[1] // WIDTH, len(matrix), HALF), np.uint32)
    sparse.pack(0, len(matrix), padded, out)
    return out


@settings(deadline=None, max_examples=20)
@given(n=SIZES["n"], d_in=st.integers(1, 200), seed=st.integers(0, 99))
def test_packing_rounds_to_the_nearest_bfloat16(n: int, d_in: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(n, d_in)).astype(np.float32)
    expected = torch.from_numpy(matrix).bfloat16().double().numpy()
    assert np.array_equal(unpacked(packed(matrix), d_in), expected)
    bias = np.random.default_rng(seed + 1).normal(size=-(-d_in // WIDTH) * WIDTH)
    bias = bias.astype(np.float32)
    low = np.empty((n, d_in), np.uint16)
    rows = np.full((len(bias) // WIDTH, n, 2, HALF), 7, np.uint32)
    sparse.centre(0, n, matrix, bias, low, rows)
    centred = torch.from_numpy(matrix - bias[:d_in]).bfloat16()
    assert torch.equal(torch.from_numpy(low).view(torch.bfloat16), centred)
    second = np.ascontiguousarray(rows[:, :, 1])
    assert np.array_equal(unpacked(second, d_in), centred.double().numpy())
    assert (rows[:, :, 0] == 7).all()


def pairs_of(latents: np.ndarray, values: np.ndarray, d_sae: int) -> ActivePairs:
    """Pairs as `select` leaves them."""
    pairs = ActivePairs(len(latents), d_sae, latents.shape[1])
    # As `select` leaves them: those that fire first.
    order = np.argsort(values <= 0, axis=1, kind="stable")
    pairs.latents[:] = np.take_along_axis(latents, order, axis=1)
    pairs.values[:] = np.take_along_axis(values, order, axis=1)
    pairs.counts[:] = (values > 0).sum(1)
    return pairs


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 20) | st.integers(CHUNK_TOKENS, CHUNK_TOKENS + 40),
    d_in=st.integers(1, 200),
    d_sae=st.integers(1, 60),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_decoding_and_gradients(  # noqa: PLR0915
    n: int, d_in: int, d_sae: int, threads: int, seed: int
) -> None:
    k = 1 + seed % d_sae
    draw = np.random.default_rng(seed)
    latents = draw.permuted(np.tile(np.arange(d_sae), (n, 1)), axis=1)[:, :k]
    values = np.maximum(draw.normal(size=(n, k)), 0)
    values[draw.random(n) < 0.2] = 0
    values = torch.from_numpy(values).bfloat16().double().numpy()
    dense = np.zeros((n, d_sae))
    np.put_along_axis(dense, latents, values, axis=1)
    width = -(-d_in // WIDTH) * WIDTH
    W_dec = packed(draw.normal(size=(d_sae, d_in)))
    bias = np.pad(draw.normal(size=d_in), (0, width - d_in)).astype(np.float32)
    x, centred = draw.normal(size=(2, n, d_in)).astype(np.float32)
    rows = np.stack([packed(np.zeros((n, d_in))), packed(centred)], axis=2)
    residual = np.empty((n, width), np.float32)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pairs = pairs_of(latents, values, d_sae)
        own = pairs.values.reshape(-1)
        total = pairs.decode(W_dec, own, bias, x, rows, 2 / n, residual)
        found = Gradients.zeros(d_sae, width)
        found.W_dec[:] = found.W_enc[:] = 7
        held = np.zeros(d_sae, np.bool_)
        pairs.gradients(own, pairs.slope, 2 / n, rows, W_dec, held, found)
    finally:
        torch.set_num_threads(before)

    decoder = unpacked(W_dec, d_in)
    expected = dense @ decoder + bias[:d_in] - x
    np.testing.assert_allclose(residual[:, :d_in], -expected, rtol=1e-4, atol=1e-4)
    assert not residual[:, d_in:].any()
    np.testing.assert_allclose(pairs.squared, (expected**2).sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(total[:d_in], expected.sum(0), rtol=1e-3, atol=2e-3)
    dense_slope = 2 / n * expected @ decoder.T * (dense > 0)
    wanted = np.take_along_axis(dense_slope, pairs.latents, axis=1)
    slope = np.where(pairs.values > 0, pairs.slope.reshape(n, k), 0)
    np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-3)
    assert np.array_equal(np.diff(pairs.starts), (dense > 0).sum(0))

    # The gradients sum the error as it was rounded; that is at most half a bfloat16's step away.
    error = unpacked(np.ascontiguousarray(rows[:, :, 0]), d_in)
    np.testing.assert_allclose(error, expected, rtol=2**-8, atol=1e-4)
    low_centred = torch.from_numpy(centred).bfloat16().double().numpy()
    fires = (dense > 0).any(0)
    for grad, want in (
        (found.W_dec, 2 / n * dense.T @ error),
        (found.W_enc, dense_slope.T @ low_centred),
    ):
        np.testing.assert_allclose(grad[fires, :d_in], want[fires], rtol=1e-3, atol=3e-3)
        assert not grad[fires, d_in:].any()
        assert (grad[~fires] == 7).all()
    np.testing.assert_allclose(found.b_enc, dense_slope.sum(0), rtol=1e-3, atol=2e-3)
    grad_dec, grad_enc = (g[:, :d_in].astype(np.float64) for g in (found.W_dec, found.W_enc))
    along = np.where(fires, (grad_dec * decoder).sum(1), 0)
    np.testing.assert_allclose(found.along, along, rtol=1e-3, atol=1e-3)
    squares = (grad_dec**2 + grad_enc**2).sum(1) + found.b_enc.astype(np.float64) ** 2 - along**2
    np.testing.assert_allclose(found.squares, np.where(fires, squares, 0), rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(n=SIZES["n"], d_in=st.integers(1, 130), d_sae=st.integers(1, 60), seed=st.integers(0, 99))
def test_gradients_add_to_those_that_are_held(n: int, d_in: int, d_sae: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    k = 1 + seed % d_sae
    latents = draw.permuted(np.tile(np.arange(d_sae), (n, 1)), axis=1)[:, :k]
    pairs = pairs_of(latents, np.maximum(draw.normal(size=(n, k)), 0), d_sae)
    W_dec = packed(draw.normal(size=(d_sae, d_in)))
    x = draw.normal(size=(n, d_in)).astype(np.float32)
    rows = np.stack([packed(np.zeros((n, d_in))), packed(x)], axis=2)
    width = rows.shape[0] * WIDTH
    own, none = pairs.values.reshape(-1), np.empty((0, width), np.float32)
    pairs.decode(W_dec, own, np.zeros(width, np.float32), x, rows, 1.0, none)
    once, twice = Gradients.zeros(d_sae, width), Gradients.zeros(d_sae, width)
    held = draw.random(d_sae) < 0.5
    for into in (once, twice):
        pairs.gradients(own, pairs.slope, 1.0, rows, W_dec, np.zeros(d_sae, np.bool_), into)
    pairs.gradients(own, pairs.slope, 1.0, rows, W_dec, held, twice)
    times = np.where(held, 2, 1)
    for name in ("W_dec", "W_enc", "b_enc", "along"):
        single = getattr(once, name)
        wanted = (times * single.T).T
        np.testing.assert_allclose(getattr(twice, name), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twice.squares, times**2 * once.squares, rtol=1e-3, atol=1e-3)


def test_pairs_are_sorted_by_latent_and_then_by_token() -> None:
    draw = np.random.default_rng(0)
    latents = draw.permuted(np.tile(np.arange(40), (50, 1)), axis=1)[:, :7]
    values = torch.from_numpy(np.maximum(draw.normal(size=(50, 7)), 0)).bfloat16().double().numpy()
    pairs = pairs_of(latents, values, 40)
    own, slope = pairs.values.reshape(-1), np.arange(350, dtype=np.float32)
    rows, W_dec = np.zeros((1, 50, 2, HALF), np.uint32), packed(np.ones((40, 3)))
    nobody = np.zeros(40, np.bool_)
    pairs.gradients(own, slope, 1.0, rows, W_dec, nobody, Gradients.zeros(40, WIDTH))
    for f in range(40):
        tokens, slots = np.nonzero((pairs.latents == f) & (pairs.values > 0))
        mine = slice(pairs.starts[f], pairs.starts[f + 1])
        assert np.array_equal(pairs._tokens[mine], tokens)
        assert np.array_equal(pairs._by_value[mine], pairs.values[tokens, slots])
        assert np.array_equal(pairs._by_slope[mine], slope.reshape(50, 7)[tokens, slots])
