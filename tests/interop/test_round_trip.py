"""What is taken out for another program is read again as the same dictionary, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.store_artifacts import D_IN
from support.taken_out import published, sae_of

from deconstruct.common.site import Site
from deconstruct.interop.export import export
from deconstruct.sae.formats.base import Asked, Source
from deconstruct.sae.formats.registry import FORMATS

CASES = [
    *(("saelens", kind, False) for kind in ("topk", "batchtopk", "jumprelu", "gated", "relu")),
    ("sparsify", "topk", False),
    ("sparsify", "topk", True),
    *(
        ("dictionary-learning", kind, False)
        for kind in ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu")
    ),
    ("circuit-tracer", "relu", True),
    ("circuit-tracer", "jumprelu", True),
]


@pytest.mark.parametrize(("form", "architecture", "transcoder"), CASES)
def test_weights_come_back(form: str, architecture: str, transcoder: bool, tmp_path: Path) -> None:
    sae = sae_of(architecture, D_IN if transcoder else None, skip=transcoder)
    output = "9.mlp_out" if transcoder else None
    published(tmp_path / "home", sae, output)
    folder = export(tmp_path / "home", "demo", tmp_path / "out", form).folder
    if form == "dictionary-learning":
        folder = folder / "trainer_0"
    names = frozenset(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    source = Source(str(folder), folder, names)
    asked = Asked(Site.parse("9.resid_post"), Site.parse(output) if output else None)
    assert FORMATS[form].wanted(source, asked)
    found = FORMATS[form].read(source, asked).sae.weights()
    assert found.keys() >= sae.weights().keys()
    for name, weight in sae.weights().items():
        if name == "threshold" and (form, architecture) == ("dictionary-learning", "batchtopk"):
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6)  # one for all
        else:
            assert torch.equal(found[name], weight), name
