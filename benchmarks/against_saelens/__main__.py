"""Our metrics beside SAELens' own, of one SAE on one model and the same tokens, in float32.

    .venv/bin/python -m benchmarks.against_saelens [--python PYTHON] [--keep FOLDER]

The model is a random GPT-2 of two layers, the SAE a TopK one that renders it well but not whole:
both are made here. ``--python`` has sae-lens 6.54 (``benchmarks/.envs/sae-lens``, which
``make bench-train`` makes) and runs `peer`. Ours come from the functions that the
stages ``reference`` and ``evaluation`` use; every position counts, the first too, as in SAELens.
``--keep`` leaves all files there: ``tests/fixtures/against_saelens`` is such a folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.against_saelens.ours import BOUNDS, ours, prepare

HERE = Path(__file__).parent


def main() -> None:
    """Make a folder, judge it twice, print both."""
    parser = argparse.ArgumentParser(description="Our metrics beside SAELens' own.")
    parser.add_argument("--python", type=Path, default=HERE.parent / ".envs/sae-lens/bin/python")
    parser.add_argument("--keep", type=Path, help="leave the files in this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        subprocess.run([given.python, HERE / "peer.py", folder], check=True)
        found, theirs = ours(folder), json.loads((folder / "saelens.json").read_text())
    print(theirs["versions"], theirs["metadata"])
    print(f"{'':24}{'SAELens':>12}{'ours':>12}{'apart':>10}{'allowed':>10}")
    for name, bound in BOUNDS.items():
        one, other = theirs["metrics"][name], found[name]
        print(f"{name:24}{one:12.6f}{other:12.6f}{abs(one - other):10.1e}{bound:10.0e}")
        if not abs(one - other) <= bound:
            raise SystemExit(f"{name} is further apart than allowed")


if __name__ == "__main__":
    main()
