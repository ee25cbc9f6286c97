"""Hook sites as they are written."""

from __future__ import annotations

import pytest

from deconstruct.common.site import Site


def test_sites_read_and_write() -> None:
    assert Site.parse("9.resid_post") == Site(9, "resid_post")
    assert str(Site(3, "mlp_out")) == "3.mlp_out"
    for text in ("resid_post", "-1.mlp_out", "3.mlp", "3.4.mlp_out", ""):
        with pytest.raises(ValueError, match="is no hook site"):
            Site.parse(text)
