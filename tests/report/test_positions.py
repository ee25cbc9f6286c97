"""Where in texts latents fire: beside a plain join of firings and tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.store_artifacts import plant

from deconstruct.report.reading import positions as reading
from deconstruct.store import open_store, publish

PLAIN = """
SELECT t.position, count(l.token_index), count(*) FROM tokens AS t
LEFT JOIN latents AS l
    ON l.run_id = t.run_id AND l.token_index = t.token_index AND l.latent = $latent
WHERE t.run_id = $run AND NOT t.special GROUP BY t.position ORDER BY t.position
"""


@pytest.mark.parametrize("split", [False, True])
def test_positions_are_those_of_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    """split: as of texts that were cut into windows, which begin where the position is 0."""
    run = plant(tmp_path)
    run_id = publish(tmp_path, run.record, run.artifacts)
    if split:
        monkeypatch.setattr(reading, "_SPLIT", "SELECT 1 FROM runs WHERE run_id = ?")
    with open_store(tmp_path) as store:
        for latent in (0, 3, 7):
            plain = store.execute(PLAIN, {"run": run_id, "latent": latent}).fetchall()
            skipped, fires, tokens = reading.positions(store, run_id, latent)
            assert skipped == 1  # as activations.skip_positions has it by default
            there = np.flatnonzero(tokens)
            found = [(at, int(fires[at]), int(tokens[at])) for at in there.tolist()]
            assert found == plain
