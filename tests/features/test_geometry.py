"""Where decoder rows point, against all cosines at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconstruct.features import geometry
from deconstruct.features.geometry import Geometry, nearest


def test_geometry_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    W_enc, W_dec = torch.randn(8, 29, generator=draw), torch.randn(29, 8, generator=draw)
    W_dec[5] = 0
    unit = torch.nn.functional.normalize(W_dec.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    monkeypatch.setattr(geometry, "BLOCK_COSINES", 29 * 4)
    found = Geometry.of(W_enc, W_dec)
    np.testing.assert_array_equal(found.nearest_latent[:5], cosines.argmax(1)[:5])
    np.testing.assert_allclose(found.nearest_cosine, cosines.amax(1), atol=1e-6)
    aligned = torch.nn.functional.cosine_similarity(W_enc.T.double(), W_dec.double())
    np.testing.assert_allclose(found.encoder_decoder_cosine, aligned, atol=1e-6)
    assert found.nearest_cosine[5] == found.encoder_decoder_cosine[5] == found.decoder_norm[5] == 0
    assert found.nearest_latent[5] != 5


def test_the_largest_cosine_with_another_row_is_that_of_numpy() -> None:
    rows = torch.randn(2500, 7, generator=torch.Generator().manual_seed(0))
    unit = (rows / rows.norm(dim=1, keepdim=True)).double().numpy()
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    found = nearest(torch.nn.functional.normalize(rows, dim=1))[1]
    np.testing.assert_allclose(found, cosines.max(1), atol=1e-5)
